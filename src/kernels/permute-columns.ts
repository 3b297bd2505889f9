/** The columns of rows in another order, as f32 or rounded to q8: what a product takes whose weights have their columns in that order. */
import { KernelBuilder } from './builder.ts';
import { requireCount } from './errors.ts';
import type { KernelProgram, Scalar, VectorMachine } from './kernel-ir.ts';
import { loadBlock, storeQ8Block } from './quantize.ts';
import {
  columnsOfSegment,
  forEachRowSegment,
  type RowElement,
  rowStream,
  type SegmentShape,
} from './rows.ts';

const BLOCK = 32;

/**
 * x f32 `[numRows, width]` → out f32 or q8 of x with column `columns[i]` at i. width is a multiple of 32.
 *
 * columns i32 `[width]`, not checked here. Params: x xStride columns columnsStride (0) out outStride numRows rowsPerChunk.
 * Chunk: rows.ts `forEachRowSegment`. Scratch for q8: a segment.
 */
export function permuteColumnsKernel(
  machine: VectorMachine,
  shape: SegmentShape & { readonly output: RowElement },
): KernelProgram {
  const { width, output } = shape;
  requireCount('permuteColumns', 'width', width, BLOCK);
  const k = new KernelBuilder(`permuteColumns_${width}_${output}`, machine);
  const ordered =
    output === 'q8'
      ? k.pointer(k.at(k.scratch, k.reserveScratch(4 * columnsOfSegment(shape))))
      : null;
  const streams = [
    { ...rowStream('x'), element: 'wholeRow' },
    { ...rowStream('columns'), element: 'f32' },
    { ...rowStream('out'), element: output },
  ] as const;
  forEachRowSegment(k, 'permuteColumns', shape, streams, ([x, columns, out], visitBlocks) => {
    visitBlocks([columns!, ordered ?? out!], ['f32', 'f32'], ([column, to]) => {
      gather(k, x!, column!, to!);
    });
    if (ordered === null) return;
    // Only now: a vector load right after the scalar stores that it spans would wait for them.
    visitBlocks([ordered, out!], ['f32', 'q8'], ([from, block], counts) => {
      storeQ8Block(k, block!, loadBlock(k, from!, counts));
    });
  });
  return k.finish();
}

/** 32 values of the row at `x`. */
function gather(k: KernelBuilder, x: Scalar, columns: Scalar, to: Scalar): void {
  for (let i = 0; i < BLOCK; i++) {
    const index = k.loadScalar(32, k.at(columns, 4 * i));
    k.storeScalar(32, k.at(to, 4 * i), k.loadScalar(32, k.at(x, 0, index, 4)));
  }
}
