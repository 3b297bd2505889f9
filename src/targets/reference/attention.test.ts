import assert from 'node:assert/strict';
import { it } from 'node:test';
import { hasOpenGroups, KV_GROUP_TOKENS, KV_TYPES, type KvType } from '../../kernels/kv-layout.ts';
import { pagedAttentionRow } from './attention.ts';
import { PagedKvCache } from './paged-kv-cache.ts';
import { Random } from './testing/random.ts';

const LAYOUT = { numKvHeads: 2, headDim: 8 };
const NUM_HEADS = 6;
const LENGTH = 41;
const BLOCK_TABLE = [5, 0, 7, 2, 3, 6, 1, 4, 9, 8, 10];
/** No sequence's. */
const SPARE_BLOCK = 11;

const random = new Random(3);
const keys = random.fill(new Float32Array(LENGTH * 16)); // [position, kvHead * headDim]
const values = random.fill(new Float32Array(LENGTH * 16));
const query = random.fill(new Float32Array(NUM_HEADS * 8));

/** By the definition, over plain rows. */
function expectedHead(head: number, position: number, window: number | null): number[] {
  const kvHead = Math.floor(head / 3);
  const first = window === null ? 0 : Math.max(0, position - window + 1);
  const positions = Array.from({ length: position - first + 1 }, (_, i) => first + i);
  const at = (rows: Float32Array, j: number, i: number) => rows[j * 16 + kvHead * 8 + i]!;
  const dims = [...Array(8).keys()];
  const scores = positions.map((j) =>
    dims.reduce((sum, i) => sum + query[head * 8 + i]! * at(keys, j, i), 0),
  );
  const weights = scores.map((score) => Math.exp(0.5 * score));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return dims.map((i) =>
    positions.reduce((sum, j, n) => sum + (weights[n]! / total) * at(values, j, i), 0),
  );
}

function blockSizeOf(kvType: KvType): number {
  return hasOpenGroups(kvType) ? KV_GROUP_TOKENS : 4;
}

/** Open groups are numbered as the blocks that they become. */
function filledCache(kvType: KvType = 'f32'): PagedKvCache {
  const blockSize = blockSizeOf(kvType);
  const pool = { numBlocks: 12, blockSize, kvType, numOpenGroups: 12 };
  const cache = new PagedKvCache(new Map([[0, LAYOUT]]), pool);
  storeBlocks(cache, keys, values);
  return cache;
}

function storeBlocks(cache: PagedKvCache, keys: Float32Array, values: Float32Array): void {
  const { blockSize } = cache;
  const layer = cache.layer(0);
  const target = layer.open ?? layer;
  for (let j = 0; j < LENGTH; j++) {
    const block = BLOCK_TABLE[Math.floor(j / blockSize)]!;
    const slot = block * blockSize + (j % blockSize);
    cache.store(target.keys, layer, slot, keys, j * 16);
    cache.store(target.values, layer, slot, values, j * 16);
    if (layer.open && j % blockSize === blockSize - 1) cache.seal(layer, block, block);
  }
}

function attend(cache: PagedKvCache, position: number, window: number | null): Float32Array {
  const out = new Float32Array(NUM_HEADS * 8);
  pagedAttentionRow(
    { data: query, offset: 0 },
    { data: out, offset: 0 },
    {
      numHeads: NUM_HEADS,
      scale: 0.5,
      window,
      position,
      blockTable: Int32Array.of(99, ...BLOCK_TABLE),
      blockTableOffset: 1,
      openGroup: BLOCK_TABLE[Math.floor(position / cache.blockSize)]!,
    },
    cache,
    cache.layer(0),
    new Float64Array(LENGTH),
  );
  return out;
}

for (const [position, window] of [
  [0, null],
  [3, null],
  [20, null],
  [20, 7],
  [20, 1],
  [4, 9],
] as const) {
  it(`agrees with the definition at position ${position}, window ${window ?? 'none'}`, () => {
    const out = attend(filledCache(), position, window);
    for (let head = 0; head < NUM_HEADS; head++) {
      expectedHead(head, position, window).forEach((expected, i) => {
        assert.ok(Math.abs(out[head * 8 + i]! - expected) < 1e-6);
      });
    }
  });
}

/** Of outputs around 0.1 to 1. */
const MAX_ERROR = { f32: 1e-6, f16: 1e-3, q8: 0.02, q4: 0.3 } as const;

for (const kvType of KV_TYPES) {
  it(`agrees with the definition up to the rounding of ${kvType}`, () => {
    const out = attend(filledCache(kvType), 40, null);
    let largest = 0;
    for (let head = 0; head < NUM_HEADS; head++) {
      expectedHead(head, 40, null).forEach((expected, i) => {
        largest = Math.max(largest, Math.abs(out[head * 8 + i]! - expected));
      });
    }
    assert.ok(largest < MAX_ERROR[kvType], `${largest}`);
    assert.ok(kvType === 'f32' || largest > 1e-6, `${largest}: nothing was rounded`);
  });

  it(`reads a copied block as the original, in ${kvType}`, () => {
    const cache = filledCache(kvType);
    const before = attend(cache, 40, null);
    const [first] = BLOCK_TABLE;
    cache.copyBlock(first!, SPARE_BLOCK);
    cache.copyBlock(BLOCK_TABLE[1]!, first!);
    assert.notDeepEqual(attend(cache, 40, null), before);
    cache.copyBlock(SPARE_BLOCK, first!);
    assert.deepEqual(attend(cache, 40, null), before);
  });
}
