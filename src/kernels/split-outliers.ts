/** Rounding rows to q8 without some of their columns, which are gathered in f32 (LLM.int8). The format is activation-format.ts. */
import { KernelBuilder } from './builder.ts';
import { requireCount } from './errors.ts';
import type { KernelProgram, VectorMachine } from './kernel-ir.ts';
import { loadBlock, storeQ8Block } from './quantize.ts';
import { forEachBlockOfRow, forEachColumnGroup, forEachRow, rowStream } from './rows.ts';

/**
 * x f32 `[numRows, width]` → out q8 of x with 0 in the columns `columns`, and outliers f32 `[numRows, numColumns]`: x in these columns.
 *
 * columns i32 `[numColumns]`, numColumns at least 1; they are not checked here. Rows of `outliers` are `outStride` apart, as those of `out`.
 * Params: x xStride columns numColumns out outStride outliers numRows rowsPerChunk. Chunk: rowsPerChunk rows. Scratch: a row.
 */
export function splitOutliersKernel(
  machine: VectorMachine,
  { width }: { readonly width: number },
): KernelProgram {
  requireCount('splitOutliers', 'width', width);
  const k = new KernelBuilder(`splitOutliers_${width}`, machine);
  const regular = k.pointer(k.at(k.scratch, k.reserveScratch(4 * width)));
  const streams = [rowStream('x'), rowStream('out'), { base: 'outliers', stride: 'outStride' }];
  forEachRow(k, streams, ([x, out, outliers]) => {
    forEachColumnGroup(k, width, 4, ({ at, count }) => {
      k.store(at(regular), k.load(at(x!), 'bits', count), 'bits', count);
    });
    const column = k.arg('columns');
    const to = k.copy(outliers!);
    const zero = k.const(0);
    k.loop(
      k.arg('numColumns'),
      () => {
        const index = k.loadScalar(32, k.at(column));
        k.storeScalar(32, k.at(to), k.loadScalar(32, k.at(x!, 0, index, 4)));
        k.storeScalar(32, k.at(regular, 0, index, 4), zero);
        k.addTo(column, 4);
        k.addTo(to, 4);
      },
      { countIsPositive: true },
    );
    forEachBlockOfRow(k, width, [regular, out!], ['f32', 'q8'], ([from, block], counts) => {
      storeQ8Block(k, block!, loadBlock(k, from!, counts));
    });
  });
  return k.finish();
}
