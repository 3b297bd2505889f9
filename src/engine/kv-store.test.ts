import assert from 'node:assert/strict';
import { tmpdir } from 'node:os';
import test from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { KvDiskTier } from './kv-disk-tier.ts';
import { type BlockMover, KvStore, type SealedContent } from './kv-store.ts';

const BLOCK_BYTES = 16;

/** Block id i of the pool holds bytes i. */
function poolOf(): { pool: Map<number, number>; mover: BlockMover } {
  const pool = new Map<number, number>();
  const mover = {
    kvBlockBytes: BLOCK_BYTES,
    readBlock: (blockId: number, into: Uint8Array) => void into.fill(blockId),
    writeBlock: (blockId: number, from: Uint8Array) => {
      assert.ok(from.every((byte) => byte === from[0]));
      pool.set(blockId, from[0]!);
    },
  };
  return { pool, mover };
}

const contentOf = (hashKey: number, seal = hashKey): SealedContent => ({
  seal,
  parentSeal: 0,
  hashKey,
  tokenIds: Int32Array.of(hashKey),
});

test('memory is bounded: the least recently used is gone, or on disk where there is one', async () => {
  for (const hasDisk of [false, true]) {
    const { pool, mover } = poolOf();
    const disk = new KvDiskTier({
      folder: tmpdir(),
      maxBytes: 2 * BLOCK_BYTES,
      blockBytes: BLOCK_BYTES,
    });
    using store = new KvStore(mover, 3 * BLOCK_BYTES, hasDisk ? disk : null);
    for (let key = 1; key <= 6; key++) {
      store.store(key, contentOf(key));
      while (disk.numInFlight > 0) await setImmediate();
    }
    const found = [1, 2, 3, 4, 5, 6].filter((key) => store.find(key) !== null);
    assert.deepEqual(found, hasDisk ? [2, 3, 4, 5, 6] : [4, 5, 6]);
    const { numMemoryBlocks, numDiskBlocks, numStored } = store.stats;
    assert.deepEqual([numMemoryBlocks, numDiskBlocks, numStored], [3, hasDisk ? 2 : 0, 6]);
    for (const key of found) {
      const bytes = store.take(key);
      assert.ok(bytes !== null);
      store.restore(100 + key, bytes);
      assert.equal(pool.get(100 + key), key);
      assert.equal(store.find(key), null, 'it is in one place only');
    }
    assert.equal(store.stats.numRestored, found.length);
    assert.equal(store.take(1), null);
    disk[Symbol.dispose]();
  }
});

test('a disk without memory before it keeps blocks, too', () => {
  const { pool, mover } = poolOf();
  const disk = new KvDiskTier({ folder: tmpdir(), maxBytes: 100, blockBytes: BLOCK_BYTES });
  using store = new KvStore(mover, 0, disk);
  for (let key = 1; key <= 4; key++) store.store(key, contentOf(key));
  assert.deepEqual([store.stats.numMemoryBlocks, store.stats.numDiskBlocks], [0, 4]);
  store.restore(50, store.take(3)!);
  assert.equal(pool.get(50), 3);
});

test('content of equal hash gives way to what came later', () => {
  const { mover } = poolOf();
  using store = new KvStore(mover, 4 * BLOCK_BYTES);
  store.store(1, contentOf(7, 70));
  store.store(2, contentOf(7, 71));
  assert.equal(store.find(7)?.seal, 71);
  assert.equal(store.stats.numMemoryBlocks, 1);
});
