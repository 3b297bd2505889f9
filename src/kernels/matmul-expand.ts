/**
 * Expanders of matmul.ts: one block of packed weights (a group of inputs, 16 or 32 rows) into the plain form that its register tile reads.
 *
 * For q8 activations, per group of inputs: codes as u8, vector by vector of four inputs, `[groupSize / 4][vectors]`; then f32 scales `[vectors]`; then
 * f32 mins `[vectors]`. For f32 activations: f32 weights `[inputs][vectors]`, exactly the dequantized values.
 */
import type { KernelBuilder } from './builder.ts';
import type { Scalar, Vector } from './kernel-ir.ts';
import {
  type BlockLayout,
  blockLayout,
  type PackedFormat,
  type QuantizedPackedFormat,
} from './packed-format.ts';

const CACHE_LINE = 64;
const NIBBLE_MASK = 0x0f0f0f0f;

export interface ExpandedLayout {
  /** Inputs of one expanded block, which one call of an expander makes. */
  readonly inputs: number;
  readonly sizeBytes: number;
  readonly scalesOffset: number;
  readonly minsOffset: number;
  /** Packed bytes of one row group behind one expanded block. */
  readonly sourceStepBytes: number;
  /** Packed bytes per `sourceInputs` inputs, to step over any number of inputs. */
  readonly sourceBytes: number;
  readonly sourceInputs: number;
}

export function expandedLayout(
  format: PackedFormat,
  activation: 'q8' | 'f32',
  vectors: number,
  lanes: number,
): ExpandedLayout {
  const vectorBytes = 4 * lanes;
  if (format.kind === 'float') {
    const bytes = 16 * (format.element === 'f32' ? 4 : 2);
    return {
      inputs: 1,
      sizeBytes: vectors * vectorBytes,
      scalesOffset: 0,
      minsOffset: 0,
      sourceStepBytes: bytes,
      sourceBytes: bytes,
      sourceInputs: 1,
    };
  }
  const { blockBytes } = blockLayout(format);
  const source = {
    sourceStepBytes: blockBytes,
    sourceBytes: blockBytes,
    sourceInputs: format.groupSize,
  };
  if (activation === 'f32') {
    return {
      inputs: format.groupSize,
      sizeBytes: format.groupSize * vectors * vectorBytes,
      scalesOffset: 0,
      minsOffset: 0,
      ...source,
    };
  }
  const scalesOffset = (format.groupSize / 4) * vectors * vectorBytes;
  const minsOffset = scalesOffset + vectors * vectorBytes;
  return {
    inputs: format.groupSize,
    sizeBytes: minsOffset + (format.hasMin ? vectors * vectorBytes : 0),
    scalesOffset,
    minsOffset,
    ...source,
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
function sourceOf(k: KernelBuilder, step: ExpandStep, v: number): { group: Scalar; lane: number } {
  const perGroup = 16 / k.lanes;
  return { group: v < perGroup ? step.weight : step.second!, lane: (v % perGroup) * k.lanes };
}

export function expandCodes(k: KernelBuilder, step: ExpandStep): void {
  const format = step.format as QuantizedPackedFormat;
  const source = blockLayout(format);
  const vectorBytes = 4 * k.lanes;
  const mask = format.codes === 'u4' ? k.splatBits(NIBBLE_MASK) : null;
  for (let v = 0; v < step.vectors; v++) {
    const { group, lane } = sourceOf(k, step, v);
    const put = (j: number, codes: Vector): void =>
      k.store(k.at(step.target, (j * step.vectors + v) * vectorBytes), codes);
    for (let j = 0; j < source.numCodeVectors; j++) {
      const codes = k.load(k.at(group, source.codesOffset + CACHE_LINE * j + 4 * lane));
      if (!mask) put(j, codes);
      else {
        put(j, k.binary('bits.and', codes, mask));
        put(j + source.numCodeVectors, k.binary('bits.and', k.shift('i16.shr', codes, 4), mask));
      }
    }
    const { scales, mins } = loadScales(k, format, source, group, lane);
    k.store(k.at(step.target, step.layout.scalesOffset + v * vectorBytes), scales);
    if (mins) k.store(k.at(step.target, step.layout.minsOffset + v * vectorBytes), mins);
  }
}

function loadScales(
  k: KernelBuilder,
  format: QuantizedPackedFormat,
  source: BlockLayout,
  group: Scalar,
  lane: number,
): { scales: Vector; mins: Vector | null } {
  const loadFormat = format.scaleType === 'f16' ? 'f16' : 'bits';
  const offset = lane * source.scaleBytes;
  return {
    scales: k.load(k.at(group, offset), loadFormat),
    mins: format.hasMin ? k.load(k.at(group, source.minsOffset + offset), loadFormat) : null,
  };
}

export function expandFloats(k: KernelBuilder, step: ExpandStep): void {
  const { format, vectors } = step;
  const vectorBytes = 4 * k.lanes;
  for (let v = 0; v < vectors; v++) {
    const { group, lane } = sourceOf(k, step, v);
    if (format.kind === 'float') {
      const element = format.element === 'f32' ? 4 : 2;
      const load = format.element === 'f32' ? 'bits' : format.element;
      k.store(k.at(step.target, v * vectorBytes), k.load(k.at(group, lane * element), load));
      continue;
    }
    const source = blockLayout(format);
    const { scales, mins } = loadScales(k, format, source, group, lane);
    const zero = k.splatF32(format.zero);
    const byteMask = k.splatBits(format.codes === 'u4' ? 0x0f : 0xff);
    const put = (input: number, code: Vector): void => {
      const value = k.unary('f32.fromI32', k.binary('bits.and', code, byteMask));
      if (format.zero > 0) k.subF(value, zero, value);
      k.mulF(value, scales, value);
      if (mins) k.addF(value, mins, value);
      k.store(k.at(step.target, (input * vectors + v) * vectorBytes), value);
    };
    for (let j = 0; j < source.numCodeVectors; j++) {
      const codes = k.load(k.at(group, source.codesOffset + CACHE_LINE * j + 4 * lane));
      for (let i = 0; i < 4; i++) {
        const shifted = (bits: number): Vector =>
          bits === 0 ? codes : k.shift('i32.shr', codes, bits);
        put(4 * j + i, shifted(8 * i));
        if (format.codes === 'u4') put(format.groupSize / 2 + 4 * j + i, shifted(8 * i + 4));
      }
    }
  }
}
