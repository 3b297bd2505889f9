/**
 * One f32 activation row times a packed matrix of any format: decode on float weights, and of everything in f32 precision.
 *
 * Streams the weights once and uses each value as it is decoded. A sum takes its inputs one after another, as in matmul.ts, so results are equal bit for bit;
 * several vectors of rows are in flight to hide how long a multiply-add takes.
 */
import { KernelBuilder } from './builder.ts';
import type { KernelProgram, Scalar, Vector, VectorMachine } from './kernel-ir.ts';
import { GroupValues, PackedCodes } from './packed-codes.ts';
import {
  type FloatPackedFormat,
  type PackedFormat,
  type QuantizedPackedFormat,
  ROW_GROUP,
} from './packed-format.ts';

const PREFETCH_BYTES = 2048;
const CACHE_LINE = 64;
/** Inputs of float weights in a pass of the loop. */
const UNROLL = 4;

export interface MatvecF32Shape {
  readonly format: PackedFormat;
  readonly bias: boolean;
  readonly residual: boolean;
}

/** Row groups of a unit of work. */
export function matvecF32Groups(machine: VectorMachine, format: PackedFormat): 1 | 2 {
  // Values of quantized weights need registers to be decoded in.
  return format.kind === 'float' || machine.lanes === 16 ? 2 : 1;
}

/**
 * out[r] = weight row r · x [+ bias[r]] [+ residual[r]]
 *
 * Params: weight, groupStride (bytes of a row group), numUnits, unitsPerChunk, inputs, x (f32 row), out (f32), bias and residual (f32) if asked for.
 * Chunk c does the units [c * unitsPerChunk, (c + 1) * unitsPerChunk), a unit being `matvecF32Groups` row groups.
 */
export function matvecF32Kernel(machine: VectorMachine, shape: MatvecF32Shape): KernelProgram {
  const { format } = shape;
  const suffix = `${shape.bias ? '_b' : ''}${shape.residual ? '_r' : ''}`;
  const k = new KernelBuilder(`matvecF32_${format.name}${suffix}`, machine);
  const numGroups = matvecF32Groups(machine, format);
  const unitBytes = 4 * ROW_GROUP * numGroups;
  const addRow =
    format.kind === 'float'
      ? (step: RowStep) => addElements(k, format, step)
      : quantizedRow(k, format);

  const perChunk = k.arg('unitsPerChunk');
  const first = k.mul(k.chunk, perChunk);
  const count = k.min(perChunk, k.sub(k.arg('numUnits'), first));
  const weight = k.add(k.arg('weight'), k.mul(k.mul(first, k.arg('groupStride')), numGroups));
  const outOffset = k.mul(first, unitBytes);
  k.loop(count, () => {
    const sums = Array.from({ length: unitBytes / (4 * k.lanes) }, () => k.zero());
    const groups = [k.copy(weight)];
    if (numGroups === 2) groups.push(k.add(weight, k.arg('groupStride')));
    addRow({ groups, x: k.arg('x'), sums });
    sums.forEach((sum, v) => {
      const offset = 4 * k.lanes * v;
      if (shape.bias) k.addF(sum, k.load(k.at(k.arg('bias'), offset, outOffset)), sum);
      if (shape.residual) k.addF(sum, k.load(k.at(k.arg('residual'), offset, outOffset)), sum);
      k.store(k.at(k.arg('out'), offset, outOffset), sum);
    });
    k.addTo(weight, k.mul(k.arg('groupStride'), numGroups));
    k.addTo(outOffset, unitBytes);
  });
  return k.finish();
}

/** All inputs of one unit; the pointers are stepped on. */
interface RowStep {
  readonly groups: readonly Scalar[];
  readonly x: Scalar;
  readonly sums: readonly Vector[];
}

/** Which row group vector v of a unit belongs to, and at which lane of it it starts. */
function placeOf(k: KernelBuilder, v: number): { group: number; lane: number } {
  const row = v * k.lanes;
  return { group: Math.floor(row / ROW_GROUP), lane: row % ROW_GROUP };
}

function prefetchLines(k: KernelBuilder, groups: readonly Scalar[], bytes: number): void {
  for (const group of groups) {
    for (let line = 0; line < bytes; line += CACHE_LINE) {
      k.prefetch(k.at(group, PREFETCH_BYTES + line));
    }
  }
}

function addElements(k: KernelBuilder, { element }: FloatPackedFormat, step: RowStep): void {
  const { groups, x, sums } = step;
  const bytes = element === 'f32' ? 4 : 2;
  const format = element === 'f32' ? 'bits' : element;
  const inputs = (count: number): void => {
    prefetchLines(k, groups, count * ROW_GROUP * bytes);
    for (let i = 0; i < count; i++) {
      const activation = k.broadcast(k.at(x, 4 * i));
      sums.forEach((sum, v) => {
        const { group, lane } = placeOf(k, v);
        const offset = (i * ROW_GROUP + lane) * bytes;
        k.fmaInto(sum, k.load(k.at(groups[group]!, offset), format), activation);
      });
    }
    for (const group of groups) k.addTo(group, count * ROW_GROUP * bytes);
    k.addTo(x, 4 * count);
  };
  k.loop(k.div(k.arg('inputs'), UNROLL), () => inputs(UNROLL));
  k.loop(k.and(k.arg('inputs'), UNROLL - 1), () => inputs(1));
}

function quantizedRow(k: KernelBuilder, format: QuantizedPackedFormat): (step: RowStep) => void {
  const codes = new PackedCodes(k, format);
  const values = new GroupValues(k, codes);
  const { groupsPerBlock, blockBytes, headerBytes, blocksPerSuper } = codes.layout;
  return ({ groups, x, sums }) => {
    const block = (headers: readonly Scalar[]): void => {
      prefetchLines(k, groups, blockBytes);
      for (let group = 0; group < groupsPerBlock; group++) {
        const rows = sums.map((sum, v) => {
          const source = placeOf(k, v);
          const place = {
            at: (offset: number) => k.at(groups[source.group]!, offset),
            header: (offset: number) => k.at(headers[source.group]!, offset),
            lane: source.lane,
          };
          return { sum, place, factors: values.factors(place, group) };
        });
        for (let quad = 0; quad < format.groupSize / 4; quad++) {
          for (const { sum, place, factors } of rows) {
            values.quad(place, group, quad, factors, (input, value) => {
              k.fmaBroadcastInto(sum, value, k.at(x, 4 * (group * format.groupSize + input)));
            });
          }
        }
      }
      for (const at of groups) k.addTo(at, blockBytes);
      k.addTo(x, 4 * groupsPerBlock * format.groupSize);
    };
    const blocks = k.div(k.arg('inputs'), groupsPerBlock * format.groupSize);
    const step = (): void => {
      if (headerBytes === 0) {
        block(groups);
        return;
      }
      const headers = groups.map((group) => k.copy(group));
      prefetchLines(k, groups, headerBytes);
      for (const group of groups) k.addTo(group, headerBytes);
      k.loop(blocksPerSuper, () => block(headers));
    };
    k.loop(k.div(blocks, blocksPerSuper), step, {
      countIsPositive: true,
      counterInMemory: headerBytes > 0,
    });
  };
}
