/**
 * Quantizing activations to the q8 row format, alone and as the last step of other kernels. The format is activation-format.ts.
 */
import {
  MIN_BLOCK_AMAX,
  Q8_D_OFFSET,
  Q8_DSUM_OFFSET,
  Q8_NSUM_OFFSET,
  Q8_NSUM16_OFFSET,
} from './activation-format.ts';
import { KernelBuilder } from './builder.ts';
import type { KernelProgram, Scalar, Vector, VectorMachine } from './kernel-ir.ts';
import { absF } from './math.ts';
import { forEachRowSegment, type RowElement, rowStream, type SegmentShape } from './rows.ts';

/** Writes 32 values, 32 / lanes vectors of them, as the q8 block at `block`. The values are used up. */
export function storeQ8Block(k: KernelBuilder, block: Scalar, values: readonly Vector[]): void {
  let largest = absF(k, values[0]!);
  for (const value of values.slice(1)) largest = k.maxF(largest, absF(k, value));
  const amax = k.unary('f32.reduceMax', largest);
  const smallest = k.splatF32(MIN_BLOCK_AMAX);
  const c127 = k.splatF32(127);
  const inverse = k.keepWhereGe(k.divF(c127, amax), amax, smallest);
  const d = k.keepWhereGe(k.divF(amax, c127), amax, smallest);
  k.store(k.at(block, Q8_D_OFFSET), d, 'bits', 1);
  const codes = values.map((value, i) => {
    const code = k.unary('i32.fromF32', k.mulF(value, inverse));
    k.store(k.at(block, i * k.lanes), code, 'i8');
    return code;
  });
  const first16 = laneSum(k, codes.slice(0, 16 / k.lanes));
  const all = laneSum(k, [first16, ...codes.slice(16 / k.lanes)]);
  const zero = k.zero();
  const sum16 = k.unary('i32.reduceAdd', first16);
  k.store(k.at(block, Q8_NSUM16_OFFSET), k.binary('i32.sub', zero, sum16), 'bits', 1);
  const sum = k.unary('i32.reduceAdd', all);
  k.store(k.at(block, Q8_NSUM_OFFSET), k.binary('i32.sub', zero, sum), 'bits', 1);
  k.store(k.at(block, Q8_DSUM_OFFSET), k.mulF(d, k.unary('f32.fromI32', sum)), 'bits', 1);
}

function laneSum(k: KernelBuilder, vectors: readonly Vector[]): Vector {
  return vectors.reduce((sum, vector) => k.binary('i32.add', sum, vector));
}

/**
 * Writes the 32 values of a block in the element type of the output. f32: only the columns in use; q8: vectors that are not in use must be zero.
 */
export function storeBlock(
  k: KernelBuilder,
  element: RowElement,
  block: Scalar,
  values: readonly Vector[],
  counts: readonly number[],
): void {
  if (element === 'q8') {
    storeQ8Block(k, block, values);
    return;
  }
  values.forEach((value, i) => {
    if (counts[i]! > 0) k.store(k.at(block, 4 * i * k.lanes), value, 'bits', counts[i]!);
  });
}

/** The 32 f32 at `block`, zero where not in use. */
export function loadBlock(k: KernelBuilder, block: Scalar, counts: readonly number[]): Vector[] {
  return counts.map((count, i) =>
    count > 0 ? k.load(k.at(block, 4 * i * k.lanes), 'bits', count) : k.zero(),
  );
}

/**
 * x f32 `[numRows, width]` → out q8.
 *
 * Params: x xStride out outStride numRows rowsPerChunk. Chunk: rows.ts `forEachRowSegment`. No scratch.
 */
export function quantizeKernel(machine: VectorMachine, shape: SegmentShape): KernelProgram {
  const k = new KernelBuilder(`quantize_${shape.width}`, machine);
  const streams = [
    { ...rowStream('x'), element: 'f32' },
    { ...rowStream('out'), element: 'q8' },
  ] as const;
  forEachRowSegment(k, 'quantize', shape, streams, (rows, visitBlocks) => {
    visitBlocks(rows, ['f32', 'q8'], ([x, out], counts) => {
      storeQ8Block(k, out!, loadBlock(k, x!, counts));
    });
  });
  return k.finish();
}
