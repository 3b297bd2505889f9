import assert from 'node:assert/strict';
import { tmpdir } from 'node:os';
import test from 'node:test';
import fc from 'fast-check';
import { BlockManager, BlockTable, PrefixMatch } from './block-manager.ts';
import { KvDiskTier } from './kv-disk-tier.ts';
import { type BlockMover, KvStore, type SealedContent } from './kv-store.ts';
import { type PrefixRoot, prefixRootOf, SHARED_ROOT } from './prefix-root.ts';
import { TokenList } from './token-list.ts';

const managerOf = (numBlocks: number, blockSize = 4): BlockManager =>
  new BlockManager({ numBlocks, blockSize, hasPrefixCache: true });

const range = (from: number, length: number): number[] =>
  Array.from({ length }, (_, i) => from + i);

/** A table for the tokens, sealed as far as they fill blocks. */
function computed(manager: BlockManager, ids: number[]): BlockTable {
  const table = new BlockTable();
  assert.ok(manager.grow(table, ids.length));
  manager.seal(table, new TokenList(ids), ids.length);
  return table;
}

function numFound(manager: BlockManager, ids: number[]): number {
  const match = new PrefixMatch();
  manager.findPrefix(new TokenList(ids), ids.length, match);
  return match.numBlocks;
}

test('growing is all or nothing', () => {
  const manager = managerOf(3);
  const table = new BlockTable();
  assert.equal(manager.grow(table, 13), false);
  assert.equal(manager.numFreeBlocks, 3);
  assert.equal(manager.grow(table, 12), true);
  assert.equal(table.numBlocks, 3);
  assert.equal(manager.allocate(), null);
  manager.releaseAll(table);
  assert.equal(manager.numFreeBlocks, 3);
});

test('a block that is released more often than held is reported', () => {
  const manager = managerOf(1);
  const id = manager.allocate()!;
  manager.release(id);
  assert.throws(() => manager.release(id), /more often than held/);
});

test('full blocks are found by content, after release too, and shared', () => {
  const manager = managerOf(8);
  const first = computed(manager, range(0, 10));
  assert.equal(numFound(manager, range(0, 10)), 2);
  assert.equal(numFound(manager, range(0, 7)), 1);
  assert.equal(numFound(manager, [9, ...range(1, 9)]), 0);
  assert.equal(numFound(manager, [...range(0, 4), 9, 9, 9, 9]), 1);
  const second = new BlockTable();
  const match = new PrefixMatch();
  manager.findPrefix(new TokenList(range(0, 10)), 10, match);
  manager.adopt(second, match);
  assert.equal(second.blockId(1), first.blockId(1));
  assert.equal(manager.refCount(first.blockId(0)), 2);
  manager.releaseAll(first);
  manager.releaseAll(second);
  assert.equal(manager.numFreeBlocks, 8);
  assert.equal(numFound(manager, range(0, 10)), 2);
});

test('a text that goes on from an adopted prefix is found as a whole', () => {
  const manager = managerOf(8);
  manager.releaseAll(computed(manager, range(0, 8)));
  const match = new PrefixMatch();
  const longer = new TokenList([...range(0, 8), 50, 51, 52, 53]);
  manager.findPrefix(longer, 12, match);
  const table = new BlockTable();
  manager.adopt(table, match);
  manager.grow(table, 12);
  manager.seal(table, longer, 12);
  assert.equal(numFound(manager, [...longer.ids.subarray(0, 12)]), 3);
});

test('the block unused for longest goes first, and the end of a text before its start', () => {
  const manager = managerOf(4);
  manager.releaseAll(computed(manager, range(0, 8)));
  manager.releaseAll(computed(manager, range(100, 8)));
  const table = new BlockTable();
  manager.grow(table, 4);
  assert.equal(numFound(manager, range(0, 8)), 1);
  assert.equal(numFound(manager, range(100, 8)), 2);
  manager.grow(table, 8);
  assert.equal(numFound(manager, range(0, 8)), 0);
  assert.equal(numFound(manager, range(100, 8)), 2);
});

test('blocks without content go before cached ones', () => {
  const manager = managerOf(3);
  manager.releaseAll(computed(manager, range(0, 4)));
  manager.releaseAll(computed(manager, range(50, 3)));
  const table = new BlockTable();
  manager.grow(table, 8);
  assert.equal(numFound(manager, range(0, 4)), 1);
});

test('a block in use is never taken', () => {
  const manager = managerOf(2);
  const table = computed(manager, range(0, 8));
  assert.equal(manager.allocate(), null);
  assert.equal(numFound(manager, range(0, 8)), 2);
  manager.releaseAll(table);
});

test("two equal texts at once: the second goes on from the first one's seal", () => {
  const manager = managerOf(8);
  const first = computed(manager, range(0, 4));
  const second = new BlockTable();
  const tokens = new TokenList(range(0, 8));
  manager.grow(second, 8);
  manager.seal(second, tokens, 8);
  assert.notEqual(second.blockId(0), first.blockId(0));
  assert.equal(manager.numSealedBlocks, 2);
  assert.equal(numFound(manager, range(0, 8)), 2);
});

test('content whose parent was evicted gives way when the text is computed again', () => {
  const manager = managerOf(5);
  const parent = computed(manager, range(0, 4));
  const text = range(0, 8);
  const child = computed(manager, text); // sealed under the parent's seal, with an unsealed copy of the parent's content
  manager.releaseAll(parent);
  const filler = new BlockTable();
  manager.grow(filler, 12);
  assert.equal(numFound(manager, text), 0);
  manager.releaseAll(filler);
  const again = computed(manager, text);
  assert.equal(numFound(manager, text), 2);
  manager.releaseAll(child);
  manager.releaseAll(again);
  manager.grow(filler, 12);
  assert.equal(numFound(manager, text), 2, 'the child block that gave way has gone first');
});

test('a shared or sealed block is copied before it is written, an own one is not', () => {
  const manager = managerOf(4);
  const tokens = new TokenList(range(0, 4));
  const first = new BlockTable();
  manager.grow(first, 4);
  assert.equal(manager.makeWritable(first, 0), null);
  manager.seal(first, tokens, 4);
  const second = new BlockTable();
  const match = new PrefixMatch();
  manager.findPrefix(tokens, 4, match);
  manager.adopt(second, match);
  const shared = first.blockId(0);
  assert.equal(manager.makeWritable(second, 0), shared);
  assert.notEqual(second.blockId(0), shared);
  assert.equal(manager.refCount(shared), 1);
  assert.equal(manager.makeWritable(second, 0), null);
  // Nobody shares it now, but it can still be found by content.
  assert.equal(manager.makeWritable(first, 0), shared);
  assert.equal(numFound(manager, range(0, 4)), 1);
  manager.releaseAll(first);
  manager.releaseAll(second);
  assert.equal(manager.numFreeBlocks, 4);
});

/** A disk that forgets what it should give back, now and then. */
class FlakyTier extends KvDiskTier {
  #numTaken = 0;

  override take(hashKey: number): Uint8Array | null {
    if (++this.#numTaken % 5 > 0) return super.take(hashKey);
    this.forget(hashKey);
    return null;
  }
}

test('any use: no block has two owners, all come back, and what is found has the right content', () => {
  anyUse(() => null);
});

test('any use with a store behind the pool: the same', () => {
  let numRestored = 0;
  for (const [memoryBlocks, diskBlocks] of [
    [0, 3],
    [1, 0],
    [2, 4],
    [40, 0],
  ] as const) {
    anyUse((mover) => {
      const { kvBlockBytes: blockBytes } = mover;
      const disk =
        diskBlocks === 0
          ? null
          : new FlakyTier({ folder: tmpdir(), maxBytes: diskBlocks * blockBytes, blockBytes });
      const restore = (blockId: number, from: Uint8Array): void => {
        numRestored++;
        mover.writeBlock(blockId, from);
      };
      return new KvStore({ ...mover, writeBlock: restore }, memoryBlocks * blockBytes, disk);
    });
  }
  assert.ok(numRestored > 100, `${numRestored} blocks came back`);
});

/** What a block holds, as text, moved about as bytes. */
function textMover(stored: Map<number, string>): BlockMover {
  const kvBlockBytes = 64;
  return {
    kvBlockBytes,
    readBlock: (blockId, into) => {
      into.fill(0x20);
      new TextEncoder().encodeInto(stored.get(blockId)!, into);
    },
    writeBlock: (blockId, from) => stored.set(blockId, new TextDecoder().decode(from).trimEnd()),
  };
}

function anyUse(storeOf: (mover: BlockMover) => KvStore | null): void {
  const command = fc.record({
    kind: fc.constantFrom('start', 'start', 'start', 'end', 'grow'),
    pick: fc.nat({ max: 20 }),
    text: fc.array(fc.nat({ max: 1 }), { minLength: 1, maxLength: 14 }),
  });
  fc.assert(
    fc.property(fc.array(command, { maxLength: 60, size: 'max' }), (commands) => {
      /** What each block holds, as a runner would have stored it: the text up to its end. */
      const stored = new Map<number, string>();
      using store = storeOf(textMover(stored));
      const manager = new BlockManager({ numBlocks: 9, blockSize: 2, hasPrefixCache: true, store });
      const live: { table: BlockTable; ids: number[] }[] = [];
      const compute = (table: BlockTable, ids: number[], from: number): void => {
        for (let index = from; index < table.numBlocks; index++) {
          stored.set(table.blockId(index), ids.slice(0, (index + 1) * 2).join());
        }
        manager.seal(table, new TokenList(ids), ids.length);
      };
      const match = new PrefixMatch();
      for (const { kind, pick, text } of commands) {
        const target = live[pick % Math.max(live.length, 1)];
        if (kind === 'start') {
          const table = new BlockTable();
          manager.findPrefix(new TokenList(text), text.length, match);
          const hasRoom =
            match.numBlocks - match.numPooled <= manager.numFreeBlocks - match.numFree;
          const numAdopted = hasRoom ? manager.adopt(table, match) : 0;
          assert.equal(table.numBlocks, numAdopted);
          if (store === null) assert.equal(numAdopted, match.numBlocks);
          for (let index = 0; index < numAdopted; index++) {
            const content = stored.get(table.blockId(index));
            assert.equal(content, text.slice(0, (index + 1) * 2).join());
          }
          if (manager.grow(table, text.length)) {
            compute(table, text, numAdopted);
            live.push({ table, ids: text });
          } else {
            manager.releaseAll(table);
          }
        } else if (target !== undefined && kind === 'grow') {
          const longer = [...target.ids, ...text];
          const from = Math.floor(target.ids.length / 2);
          if (manager.grow(target.table, longer.length)) {
            target.ids = longer;
            compute(target.table, longer, from);
          }
        } else if (target !== undefined) {
          manager.releaseAll(target.table);
          live.splice(live.indexOf(target), 1);
        }
        const holders = new Map<number, number>();
        for (const { table, ids } of live) {
          assert.equal(table.numBlocks, Math.ceil(ids.length / 2));
          for (let index = 0; index < table.numBlocks; index++) {
            const id = table.blockId(index);
            holders.set(id, (holders.get(id) ?? 0) + 1);
            assert.equal(stored.get(id), ids.slice(0, (index + 1) * 2).join());
          }
        }
        for (const [id, count] of holders) assert.equal(manager.refCount(id as never), count);
        assert.equal(manager.numFreeBlocks, 9 - holders.size);
      }
      for (const { table } of live) manager.releaseAll(table);
      assert.equal(manager.numFreeBlocks, 9);
    }),
    { numRuns: 300 },
  );
}

test('texts of different roots share nothing, in the pool or in the store', () => {
  const stored = new Map<number, string>();
  const mover = textMover(stored);
  using store = new KvStore(mover, 100 * mover.kvBlockBytes);
  const manager = new BlockManager({ numBlocks: 4, blockSize: 4, hasPrefixCache: true, store });
  const text = new TokenList(range(0, 8));
  const match = new PrefixMatch();
  const roots = [prefixRootOf(''), prefixRootOf('a'), prefixRootOf('b')];
  const find = (root: PrefixRoot): number => {
    manager.findPrefix(text, 8, match, root);
    return match.numBlocks;
  };
  const compute = (root: PrefixRoot): void => {
    const table = new BlockTable(root);
    manager.grow(table, 8);
    stored.set(table.blockId(0), 'x').set(table.blockId(1), 'y');
    manager.seal(table, text, 8);
    manager.releaseAll(table);
  };
  compute(roots[1]!);
  assert.deepEqual(roots.map(find), [0, 2, 0]);
  compute(roots[0]!);
  compute(roots[2]!); // Pushes the first into the store.
  assert.equal(store.stats.numMemoryBlocks, 2);
  assert.deepEqual(roots.map(find), [2, 2, 2]);
  assert.deepEqual(prefixRootOf('a'), roots[1]);
  assert.ok(roots.every(({ seal }) => Number.isSafeInteger(seal) && seal <= 0));
});

test('pins are counted once where they share, and stay until all are given up', () => {
  const manager = managerOf(8);
  manager.releaseAll(computed(manager, range(0, 8)));
  manager.releaseAll(computed(manager, [...range(0, 4), ...range(50, 4)]));
  assert.equal(manager.pin(new TokenList(range(0, 8)), SHARED_ROOT, 3), 8);
  assert.equal(manager.numPinnedBlocks, 2);
  const other = new TokenList([...range(0, 4), ...range(50, 4)]);
  assert.equal(manager.pin(other, SHARED_ROOT, 2), 0, 'one block too many');
  assert.equal(manager.pin(other, SHARED_ROOT, 3), 8);
  assert.equal(manager.numPinnedBlocks, 3);
  assert.equal(manager.numFreeBlocks, 5);
  const filler = new BlockTable();
  assert.ok(manager.grow(filler, 20));
  assert.equal(numFound(manager, range(0, 8)), 2);
  assert.equal(manager.unpinAll(), true);
  assert.equal(manager.unpinAll(), false);
  assert.equal(manager.numFreeBlocks, 3);
});

/** A pool of two blocks whose content has gone to a store. */
function storedAway(ids: number[], StoreClass = KvStore): BlockManager {
  const stored = new Map<number, string>();
  const mover = textMover(stored);
  const store = new StoreClass(mover, 100 * mover.kvBlockBytes);
  const manager = new BlockManager({ numBlocks: 2, blockSize: 4, hasPrefixCache: true, store });
  for (const id of [0, 1]) stored.set(id, `block ${id}`);
  manager.releaseAll(computed(manager, ids));
  const filler = new BlockTable();
  manager.grow(filler, 8);
  manager.releaseAll(filler);
  assert.equal(store.stats.numMemoryBlocks, 2);
  return manager;
}

test('what hangs in the store on content that was computed again is found there', () => {
  const manager = storedAway(range(0, 8));
  manager.releaseAll(computed(manager, range(0, 4)));
  assert.equal(numFound(manager, range(0, 8)), 2);
});

test('stored content of an equal hash, but of another text or after another parent, is not found', () => {
  let change: Partial<SealedContent> = {};
  class CollidingStore extends KvStore {
    override find(hashKey: number): SealedContent | null {
      const content = super.find(hashKey);
      return content === null ? null : { ...content, ...change };
    }
  }
  const manager = storedAway(range(0, 8), CollidingStore);
  assert.equal(numFound(manager, range(0, 8)), 2);
  change = { tokenIds: Int32Array.of(0, 1, 2, 9) };
  assert.equal(numFound(manager, range(0, 8)), 0);
  change = { parentSeal: 77 };
  assert.equal(numFound(manager, range(0, 8)), 0);
});
