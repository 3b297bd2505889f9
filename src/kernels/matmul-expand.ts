/**
 * Expanders of matmul.ts: one block of packed weights (a group of inputs, 16 or 32 rows) into the plain form that its register tile reads.
 *
 * For q8 activations, per group of inputs: codes as u8, vector by vector of four inputs, `[groupSize / 4][vectors]`; then f32 scales `[vectors]`; then
 * f32 mins `[vectors]`. For f32 activations: f32 weights `[inputs][vectors]`, exactly the dequantized values.
 */
import type { KernelBuilder } from './builder.ts';
import type { Address, Scalar } from './kernel-ir.ts';
import { type BlockPlace, GroupValues, PackedCodes } from './packed-codes.ts';
import {
  blockLayout,
  type FloatPackedFormat,
  type PackedFormat,
  pieceInputs,
  type QuantizedPackedFormat,
} from './packed-format.ts';

/** What one call of an expander reads and writes, and where the parts of an expanded group of inputs stand. */
export interface ExpandedLayout {
  /** Inputs of one step. */
  readonly stepInputs: number;
  readonly stepBytes: number;
  /** Packed bytes of one row group behind one step. */
  readonly sourceStepBytes: number;
  readonly groupBytes: number;
  readonly scalesOffset: number;
  readonly minsOffset: number;
}

export function expandedLayout(
  format: PackedFormat,
  activation: 'q8' | 'f32',
  vectors: number,
  lanes: number,
): ExpandedLayout {
  const unitBytes = 4 * lanes * vectors;
  const stepInputs = pieceInputs(format);
  if (format.kind === 'float') {
    return {
      stepInputs,
      stepBytes: unitBytes,
      sourceStepBytes: 16 * (format.element === 'f32' ? 4 : 2),
      groupBytes: unitBytes,
      scalesOffset: 0,
      minsOffset: 0,
    };
  }
  const { groupSize } = format;
  const scalesOffset = (activation === 'q8' ? groupSize / 4 : groupSize) * unitBytes;
  const scaleParts = activation === 'f32' ? 0 : format.hasMin ? 2 : 1;
  const groupBytes = scalesOffset + scaleParts * unitBytes;
  return {
    stepInputs,
    stepBytes: (stepInputs / groupSize) * groupBytes,
    sourceStepBytes: blockLayout(format).superBytes,
    groupBytes,
    scalesOffset,
    minsOffset: scalesOffset + unitBytes,
  };
}

export interface ExpandStep {
  readonly format: PackedFormat;
  readonly layout: ExpandedLayout;
  readonly vectors: number;
  /** Packed block of the first row group, and of the second where a unit has two. */
  readonly weight: Scalar;
  readonly second: Scalar | null;
  readonly target: Scalar;
}

/** Which row group vector v of a unit belongs to, and at which lane of it it starts. */
function sourceOf(lanes: number, v: number): { group: 0 | 1; lane: number } {
  const perGroup = 16 / lanes;
  return { group: v < perGroup ? 0 : 1, lane: (v % perGroup) * lanes };
}

/** Every group of inputs of a step, for every vector of the unit; `put` is an address in the expanded group. */
function forEachGroup(
  k: KernelBuilder,
  step: ExpandStep,
  codes: PackedCodes,
  body: (place: BlockPlace, group: number, v: number, put: (offset: number) => Address) => void,
): void {
  const { groupsPerBlock, headerBytes, blocksPerSuper, blockBytes } = codes.layout;
  const headers = step.second ? [step.weight, step.second] : [step.weight];
  const block = (blocks: readonly Scalar[], target: Scalar): void => {
    for (let group = 0; group < groupsPerBlock; group++) {
      const base = group * step.layout.groupBytes;
      for (let v = 0; v < step.vectors; v++) {
        const source = sourceOf(k.lanes, v);
        const place = {
          at: (offset: number) => k.at(blocks[source.group]!, offset),
          header: (offset: number) => k.at(headers[source.group]!, offset),
          lane: source.lane,
        };
        body(place, group, v, (offset) => k.at(target, base + offset + 4 * k.lanes * v));
      }
    }
  };
  if (headerBytes === 0) {
    block(headers, step.target);
    return;
  }
  const blocks = headers.map((header) => k.add(header, headerBytes));
  const target = k.copy(step.target);
  k.loop(blocksPerSuper, () => {
    block(blocks, target);
    for (const at of blocks) k.addTo(at, blockBytes);
    k.addTo(target, groupsPerBlock * step.layout.groupBytes);
  });
}

export function expandCodes(k: KernelBuilder, step: ExpandStep): void {
  const format = step.format as QuantizedPackedFormat;
  const codes = new PackedCodes(k, format);
  const unitBytes = 4 * k.lanes * step.vectors;
  const numQuads = format.groupSize / 4;
  const numVectors = codes.layout.vectorsPerGroup;
  forEachGroup(k, step, codes, (place, groupIndex, _, put) => {
    const group = codes.group(place, groupIndex);
    for (let j = 0; j < numVectors; j++) {
      for (let quad = j; quad < numQuads; quad += numVectors) {
        k.store(put(quad * unitBytes), group.quad(quad));
      }
    }
    k.store(put(step.layout.scalesOffset), codes.scales(place, groupIndex));
    const mins = codes.mins(place, groupIndex);
    if (mins) k.store(put(step.layout.minsOffset), mins);
  });
}

export function expandFloats(k: KernelBuilder, step: ExpandStep): void {
  if (step.format.kind === 'float') {
    expandElements(k, step, step.format);
    return;
  }
  const codes = new PackedCodes(k, step.format);
  const values = new GroupValues(k, codes);
  const unitBytes = 4 * k.lanes * step.vectors;
  forEachGroup(k, step, codes, (place, group, _, put) => {
    values.forEach(place, group, (input, value) => k.store(put(input * unitBytes), value));
  });
}

function expandElements(k: KernelBuilder, step: ExpandStep, { element }: FloatPackedFormat): void {
  for (let v = 0; v < step.vectors; v++) {
    const { group, lane } = sourceOf(k.lanes, v);
    const from = k.at(group === 0 ? step.weight : step.second!, lane * (element === 'f32' ? 4 : 2));
    const value = k.load(from, element === 'f32' ? 'bits' : element);
    k.store(k.at(step.target, 4 * k.lanes * v), value);
  }
}
