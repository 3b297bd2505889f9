import assert from 'node:assert/strict';
import test from 'node:test';
import { PagedKvCache } from './paged-kv-cache.ts';

test('a block read out and written elsewhere holds the same keys and values of every layer', () => {
  const layouts = new Map([
    [0, { numKvHeads: 2, headDim: 3 }],
    [4, { numKvHeads: 1, headDim: 5 }],
  ]);
  const cache = new PagedKvCache(layouts, 6, 4);
  let next = 0;
  for (const layer of [0, 4]) {
    const { keys, values } = cache.layer(layer);
    for (const target of [keys, values]) for (let i = 0; i < target.length; i++) target[i] = ++next;
  }
  const bytes = new Uint8Array(cache.blockBytes);
  assert.equal(bytes.length, 4 * 4 * 2 * (2 * 3 + 5));
  const blockOf = (block: number): number[] =>
    [0, 4].flatMap((layer) => {
      const { keys, values, numKvHeads, headDim } = cache.layer(layer);
      const length = numKvHeads * headDim * 4;
      return [keys, values].flatMap((part) => [
        ...part.subarray(block * length, (block + 1) * length),
      ]);
    });
  const before = [0, 1, 2, 3, 4, 5].map(blockOf);
  cache.readBlock(1, bytes);
  cache.writeBlock(5, bytes);
  assert.deepEqual([0, 1, 2, 3, 4].map(blockOf), before.slice(0, 5));
  assert.deepEqual(blockOf(5), before[1]);
});
