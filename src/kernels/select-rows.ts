/** Taking rows of a matrix by index, and copying KV blocks: kernels that move bytes and compute nothing. */
import { KernelBuilder } from './builder.ts';
import { requireCount } from './errors.ts';
import type { KernelProgram, VectorMachine } from './kernel-ir.ts';
import { forEachColumnGroup, forEachRow, rowStream } from './rows.ts';

/**
 * out row i = x row rows[i]; f32 `[numRows, width]`, rows i32 `[numRows]`.
 *
 * Params: x xStride rows out outStride numRows rowsPerChunk. Chunk: rowsPerChunk rows of `out`. No scratch. Indices are not checked here.
 */
export function selectRowsKernel(
  machine: VectorMachine,
  { width }: { readonly width: number },
): KernelProgram {
  requireCount('selectRows', 'width', width);
  const k = new KernelBuilder(`selectRows_${width}`, machine);
  const index = k.add(k.arg('rows'), k.shl(k.mul(k.chunk, k.arg('rowsPerChunk')), 2));
  forEachRow(k, [rowStream('out')], ([out]) => {
    const row = k.loadScalar(32, k.at(index));
    const x = k.add(k.arg('x'), k.mul(row, k.arg('xStride')));
    forEachColumnGroup(k, width, 4, ({ at, count }) => {
      k.store(at(out!), k.load(at(x), 'bits', count), 'bits', count);
    });
    k.addTo(index, 4);
  });
  return k.finish();
}

const COPY_BYTES = 64;

/**
 * Copies block pairs[2c] of a cache onto block pairs[2c + 1], c the chunk: copy on write of a KV block.
 *
 * `cache` is the address of block 0 of one layer's keys or values, `blockBytes` the size of a block, a multiple of 64; pairs i32 `[numPairs, 2]`.
 * Params: cache blockBytes pairs. Chunk: one pair. No scratch.
 */
export function copyBlocksKernel(machine: VectorMachine): KernelProgram {
  const k = new KernelBuilder('copyBlocks', machine);
  const pair = k.add(k.arg('pairs'), k.shl(k.chunk, 3));
  const blockBytes = k.arg('blockBytes');
  const cache = k.arg('cache');
  const from = k.add(cache, k.mul(k.loadScalar(32, k.at(pair)), blockBytes));
  const to = k.add(cache, k.mul(k.loadScalar(32, k.at(pair, 4)), blockBytes));
  k.loop(k.shr(blockBytes, 6), () => {
    const step = 4 * k.lanes;
    for (let offset = 0; offset < COPY_BYTES; offset += step) {
      k.store(k.at(to, offset), k.load(k.at(from, offset)));
    }
    k.addTo(from, COPY_BYTES);
    k.addTo(to, COPY_BYTES);
  });
  return k.finish();
}
