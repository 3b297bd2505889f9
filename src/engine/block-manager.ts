/**
 * The KV block pool: which block belongs to whom, and which full blocks can be shared by their content. Knows block ids and token ids; not
 * requests, not steps, and not what is stored in a block.
 *
 *   block    free (refCount 0) --allocate--> held (refCount >= 1) --release--> free
 *   sealed   a held block that is full and computed may be sealed: it can then be found by its content, also while free, until it is
 *            allocated for something else. Free blocks are reused in the order in which they were freed (LRU), those without content first.
 *
 * Content is found by a chained hash (of the block's tokens and everything before it) and then compared: the tokens themselves, and the
 * identity of the parent's seal, so that a collision of hashes can never join two texts. A seal stands for one content for ever: where the content
 * of a reallocated block goes on in a `KvStore`, it keeps its seal there and when it comes back.
 */

import { InternalError } from '../platform/errors.ts';
import type { KvStore, SealedContent } from './kv-store.ts';
import { type PrefixRoot, SHARED_ROOT } from './prefix-root.ts';
import type { TokenSpan } from './token-list.ts';

export type KvBlockId = number & { readonly __brand: 'KvBlockId' };

/** The blocks of one sequence, in order, and how far they are sealed. Filled by the `BlockManager` only. */
export class BlockTable {
  ids = new Int32Array(8);
  numBlocks = 0;
  /** Leading blocks whose content is known to the prefix cache (through this table's own block or an equal one). */
  numSealed = 0;
  /** Seal of the last of those; before the first, of the root. */
  lastSeal: number;
  hashHigh: number;
  hashLow: number;
  /** What its prefix chain starts from. */
  readonly root: PrefixRoot;

  constructor(root: PrefixRoot = SHARED_ROOT) {
    this.root = root;
    this.lastSeal = root.seal;
    this.hashHigh = root.hashHigh;
    this.hashLow = root.hashLow;
  }

  blockId(index: number): KvBlockId {
    return this.ids[index]! as KvBlockId;
  }
}

/** A prefix found in the cache. Valid until the manager is changed; `adopt` makes use of it. */
export class PrefixMatch {
  /** Block of the pool for each block of the prefix; where `isStored` says so there is none, and the content is in the store. */
  blockIds = new Int32Array(8);
  isStored = new Uint8Array(8);
  /** Hash key and seal of each block. */
  hashKeys = new Float64Array(8);
  seals = new Float64Array(8);
  numBlocks = 0;
  /** How many of them are in the pool: the others need new blocks. */
  numPooled = 0;
  /** How many of them are free: adopting them takes them from the free list. */
  numFree = 0;
  /** Of the search: the chain so far. */
  hashHigh = 0;
  hashLow = 0;
}

export interface BlockManagerOptions {
  readonly numBlocks: number;
  /** Tokens per block. */
  readonly blockSize: number;
  /** Whether full blocks may be found by content. */
  readonly hasPrefixCache: boolean;
  /** Where sealed content goes when its block is needed for something else. */
  readonly store?: KvStore | null;
}

export class BlockManager {
  readonly numBlocks: number;
  readonly blockSize: number;
  readonly #hasPrefixCache: boolean;
  readonly #store: KvStore | null;
  readonly #refCounts: Int32Array;
  /** Free blocks as a doubly linked list through these, f with the sentinel at index numBlocks. */
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  #numFree: number;

  /** Content of sealed blocks; a seal of 0 means none. Seals are never used twice. */
  readonly #seals: Float64Array;
  readonly #parentSeals: Float64Array;
  readonly #hashKeys: Float64Array;
  /** i32 [numBlocks, blockSize] */
  readonly #tokens: Int32Array;
  readonly #blockOfHash = new Map<number, KvBlockId>();
  #lastSeal = 0;
  readonly #pins: BlockTable[] = [];
  /** Ids of their blocks. */
  readonly #pinned = new Set<number>();

  constructor(options: BlockManagerOptions) {
    const { numBlocks, blockSize } = options;
    this.numBlocks = numBlocks;
    this.blockSize = blockSize;
    this.#hasPrefixCache = options.hasPrefixCache;
    this.#store = options.store ?? null;
    this.#refCounts = new Int32Array(numBlocks);
    this.#next = new Int32Array(numBlocks + 1);
    this.#previous = new Int32Array(numBlocks + 1);
    for (let id = 0; id <= numBlocks; id++) {
      this.#next[id] = id === numBlocks ? 0 : id + 1;
      this.#previous[id] = id === 0 ? numBlocks : id - 1;
    }
    this.#numFree = numBlocks;
    this.#seals = new Float64Array(numBlocks);
    this.#parentSeals = new Float64Array(numBlocks);
    this.#hashKeys = new Float64Array(numBlocks);
    this.#tokens = new Int32Array(options.hasPrefixCache ? numBlocks * blockSize : 0);
  }

  /** Blocks that nobody holds, sealed ones included. */
  get numFreeBlocks(): number {
    return this.#numFree;
  }

  /** Blocks that can be found by content, held or free. */
  get numSealedBlocks(): number {
    return this.#blockOfHash.size;
  }

  refCount(id: KvBlockId): number {
    return this.#refCounts[id]!;
  }

  /** Blocks that `numTokens` tokens take. */
  blocksFor(numTokens: number): number {
    return Math.ceil(numTokens / this.blockSize);
  }

  /** Takes the free block that is least worth keeping; `null` if none is free. */
  allocate(): KvBlockId | null {
    if (this.#numFree === 0) return null;
    const id = this.#next[this.numBlocks]! as KvBlockId;
    this.#unlink(id);
    if (this.#seals[id] !== 0) {
      this.#store?.store(id, this.#contentOf(id));
      this.#unseal(id);
    }
    this.#refCounts[id] = 1;
    return id;
  }

  /** One holder more. */
  share(id: KvBlockId): void {
    if (this.#refCounts[id] === 0) this.#unlink(id);
    this.#refCounts[id]!++;
  }

  /** One holder less; the block is free after the last. */
  release(id: KvBlockId): void {
    const refCount = this.#refCounts[id]!;
    if (!(refCount > 0))
      throw new InternalError(`KV block ${id} was released more often than held`);
    this.#refCounts[id] = refCount - 1;
    if (refCount === 1) this.#linkFree(id);
  }

  /**
   * Makes the table hold blocks for `numTokens` tokens.
   *
   * @returns false, with nothing changed, if not enough blocks are free
   */
  grow(table: BlockTable, numTokens: number): boolean {
    const numWanted = this.blocksFor(numTokens);
    if (numWanted - table.numBlocks > this.#numFree) return false;
    while (table.numBlocks < numWanted) this.#append(table, this.allocate()!);
    return true;
  }

  /**
   * Copy on write: makes block `index` of the table one that may be written to.
   *
   * @returns the block it was before and must be copied from, or `null` if it is written in place
   * @throws {InternalError} if a copy is needed and no block is free: see to that before
   */
  makeWritable(table: BlockTable, index: number): KvBlockId | null {
    const shared = table.blockId(index);
    if (this.#refCounts[shared] === 1 && this.#seals[shared] === 0) return null;
    const own = this.allocate();
    if (own === null) throw new InternalError('no free KV block for a copy on write');
    table.ids[index] = own;
    this.release(shared);
    return shared;
  }

  /** Blocks that would be free if the table let go of all of its own. */
  numFreedBy(table: BlockTable): number {
    let count = 0;
    for (let index = 0; index < table.numBlocks; index++) {
      if (this.#refCounts[table.ids[index]!] === 1) count++;
    }
    return count;
  }

  /** Lets go of the blocks beyond those that `numTokens` tokens take. */
  trim(table: BlockTable, numTokens: number): void {
    const numWanted = this.blocksFor(numTokens);
    while (table.numBlocks > numWanted) this.release(table.blockId(--table.numBlocks));
  }

  /** Lets go of all blocks of the table, the last first, so that the start of a text outlives its end in the cache. */
  releaseAll(table: BlockTable): void {
    for (let index = table.numBlocks - 1; index >= 0; index--) this.release(table.blockId(index));
    table.numBlocks = 0;
    table.numSealed = 0;
    table.lastSeal = table.root.seal;
    table.hashHigh = table.root.hashHigh;
    table.hashLow = table.root.hashLow;
  }

  /**
   * Finds the longest run of sealed blocks that the tokens begin with, in the pool or in the store.
   *
   * @param tokens    of the sequence
   * @param maxTokens look at no more of them
   * @param match     gets the result
   * @param root      only content of this root counts
   * @param hasStore  whether to look there, too
   */
  findPrefix(
    tokens: TokenSpan,
    maxTokens: number,
    match: PrefixMatch,
    root: PrefixRoot = SHARED_ROOT,
    hasStore = true,
  ): void {
    match.numBlocks = 0;
    match.numPooled = 0;
    match.numFree = 0;
    match.hashHigh = root.hashHigh;
    match.hashLow = root.hashLow;
    if (!this.#hasPrefixCache) return;
    const numFull = Math.floor(maxTokens / this.blockSize);
    if (match.blockIds.length < numFull) {
      match.blockIds = new Int32Array(numFull * 2);
      match.isStored = new Uint8Array(numFull * 2);
      match.hashKeys = new Float64Array(numFull * 2);
      match.seals = new Float64Array(numFull * 2);
    }
    let seal = root.seal;
    for (let index = 0; index < numFull; index++) {
      this.#hashBlock(tokens, index, match);
      const key = hashKey(match);
      const id = this.#blockOfHash.get(key);
      if (id !== undefined && this.#holds(id, tokens, index, seal)) {
        match.blockIds[index] = id;
        match.isStored[index] = 0;
        match.numPooled++;
        if (this.#refCounts[id] === 0) match.numFree++;
        seal = this.#seals[id]!;
      } else {
        const stored = hasStore ? this.#storedContent(key, tokens, index, seal) : null;
        if (stored === null) return;
        match.isStored[index] = 1;
        seal = stored.seal;
      }
      match.hashKeys[index] = key;
      match.seals[index] = seal;
      match.numBlocks++;
    }
  }

  /**
   * Brings near what the tokens begin with and what is where it takes time to get.
   *
   * @returns settles, never with an error, when `adopt` need not wait for it; null if it need not wait now
   */
  readAhead(tokens: TokenSpan, maxTokens: number, root: PrefixRoot): Promise<void> | null {
    if (this.#store?.hasSlowContent !== true) return null;
    const match = new PrefixMatch();
    this.findPrefix(tokens, maxTokens, match, root);
    const stored: number[] = [];
    for (let index = 0; index < match.numBlocks; index++) {
      if (match.isStored[index] === 1) stored.push(match.hashKeys[index]!);
    }
    return this.#store.readAhead(stored);
  }

  /**
   * Puts the blocks of a match at the start of an empty table, each with one holder more, and brings back those that are in the store: see to it
   * that as many blocks are free.
   *
   * @returns how many blocks the table has now: less than the match if the store fails
   */
  adopt(table: BlockTable, match: PrefixMatch): number {
    if (table.numBlocks !== 0)
      throw new InternalError('a prefix can only start an empty block table');
    // All that is in the pool first, lest it make room for what comes back.
    for (let index = 0; index < match.numBlocks; index++) {
      if (match.isStored[index] === 0) this.share(match.blockIds[index]! as KvBlockId);
    }
    for (let index = 0; index < match.numBlocks; index++) {
      const isPooled = match.isStored[index] === 0;
      const id = isPooled ? (match.blockIds[index]! as KvBlockId) : this.#bringBack(match, index);
      if (id === null) {
        for (let rest = index; rest < match.numBlocks; rest++) {
          if (match.isStored[rest] === 0) this.release(match.blockIds[rest]! as KvBlockId);
        }
        break;
      }
      this.#append(table, id);
    }
    const { numBlocks } = table;
    if (numBlocks === 0) return 0;
    // The state of the chain after the blocks that came.
    const key = match.hashKeys[numBlocks - 1]!;
    table.numSealed = numBlocks;
    table.lastSeal = match.seals[numBlocks - 1]!;
    table.hashHigh = Math.floor(key / 0x100000000);
    table.hashLow = key >>> 0;
    return numBlocks;
  }

  /**
   * Makes content that the tokens begin with be found no more, in the pool and in the store; what sequences or pins hold stays.
   *
   * @returns how many tokens of it are forgotten
   */
  forget(tokens: TokenSpan, root: PrefixRoot): number {
    const match = new PrefixMatch();
    this.findPrefix(tokens, tokens.length, match, root);
    let numForgotten = 0;
    for (let index = 0; index < match.numBlocks; index++) {
      const id = match.blockIds[index]! as KvBlockId;
      if (match.isStored[index] === 1) this.#store?.forget(match.hashKeys[index]!);
      else if (this.#refCounts[id] === 0) this.#unseal(id);
      else continue;
      numForgotten++;
    }
    return numForgotten * this.blockSize;
  }

  /** Blocks that pins hold, others perhaps as well. */
  get numPinnedBlocks(): number {
    return this.#pinned.size;
  }

  /**
   * Keeps the cached blocks that the tokens begin with from being reallocated, until `unpinAll`.
   *
   * @param maxBlocks most blocks that all pins together may hold
   * @returns how many tokens are pinned: 0 if they would be too many, or do not fit
   */
  pin(tokens: TokenSpan, root: PrefixRoot, maxBlocks: number): number {
    const match = new PrefixMatch();
    this.findPrefix(tokens, tokens.length, match, root);
    let numPinned = this.#pinned.size;
    for (let index = 0; index < match.numBlocks; index++) {
      const isOurs = match.isStored[index] === 0 && this.#pinned.has(match.blockIds[index]!);
      if (!isOurs) numPinned++;
    }
    const numNew = match.numBlocks - match.numPooled;
    if (numPinned > maxBlocks || numNew > this.#numFree - match.numFree) return 0;
    const table = new BlockTable(root);
    this.adopt(table, match);
    this.#pins.push(table);
    for (let index = 0; index < table.numBlocks; index++) this.#pinned.add(table.ids[index]!);
    return table.numBlocks * this.blockSize;
  }

  /** Gives all pinned blocks free: their room is needed. Returns false if there were none. */
  unpinAll(): boolean {
    if (this.#pinned.size === 0) return false;
    for (const table of this.#pins) this.releaseAll(table);
    this.#pins.length = 0;
    this.#pinned.clear();
    return true;
  }

  /**
   * Moves block `index` of a match from the store to the pool. It leaves the store before a block is allocated: what has to make room for it there
   * finds its place free.
   *
   * @returns `null` if it cannot be read any more
   */
  #bringBack(match: PrefixMatch, index: number): KvBlockId | null {
    const store = this.#store!;
    const key = match.hashKeys[index]!;
    const content = store.find(key);
    if (content === null || content.seal !== match.seals[index]) return null;
    const bytes = store.take(key);
    if (bytes === null) return null;
    const id = this.allocate();
    if (id === null) throw new InternalError('no free KV block for stored content');
    store.restore(id, bytes);
    const known = this.#blockOfHash.get(key);
    if (known !== undefined) this.#unseal(known); // Another text of equal hash.
    this.#tokens.set(content.tokenIds, id * this.blockSize);
    this.#setSeal(id, key, content.parentSeal, content.seal);
    return id;
  }

  #storedContent(
    key: number,
    tokens: TokenSpan,
    index: number,
    parentSeal: number,
  ): SealedContent | null {
    const content = this.#store?.find(key) ?? null;
    if (content === null || content.parentSeal !== parentSeal) return null;
    const start = index * this.blockSize;
    for (let i = 0; i < this.blockSize; i++) {
      if (content.tokenIds[i] !== tokens.ids[start + i]) return null;
    }
    return content;
  }

  #contentOf(id: KvBlockId): SealedContent {
    return {
      seal: this.#seals[id]!,
      parentSeal: this.#parentSeals[id]!,
      hashKey: this.#hashKeys[id]!,
      tokenIds: this.#tokens.subarray(id * this.blockSize, (id + 1) * this.blockSize),
    };
  }

  #setSeal(id: KvBlockId, key: number, parentSeal: number, seal: number): void {
    this.#seals[id] = seal;
    this.#parentSeals[id] = parentSeal;
    this.#hashKeys[id] = key;
    this.#blockOfHash.set(key, id);
  }

  /** Seals the blocks of the table that `numComputed` computed tokens fill. */
  seal(table: BlockTable, tokens: TokenSpan, numComputed: number): void {
    if (!this.#hasPrefixCache) return;
    const numFull = Math.floor(numComputed / this.blockSize);
    for (; table.numSealed < numFull; table.numSealed++) {
      const index = table.numSealed;
      this.#hashBlock(tokens, index, table);
      const key = hashKey(table);
      const known = this.#blockOfHash.get(key);
      if (known !== undefined) {
        if (this.#holds(known, tokens, index, table.lastSeal)) {
          // Another block has this content already (two equal prompts at once): go on from its seal, keep ours unsealed.
          table.lastSeal = this.#seals[known]!;
          continue;
        }
        // Equal hash, but another text or one whose parent is gone: nobody could find it through us, so ours takes its place.
        this.#unseal(known);
      }
      const id = table.blockId(index);
      const start = index * this.blockSize;
      for (let i = 0; i < this.blockSize; i++) {
        this.#tokens[id * this.blockSize + i] = tokens.ids[start + i]!;
      }
      // Content that was computed again though the store has it: what hangs on it there is to be found.
      const stored = this.#storedContent(key, tokens, index, table.lastSeal);
      const seal = stored?.seal ?? ++this.#lastSeal;
      this.#store?.forget(key);
      this.#setSeal(id, key, table.lastSeal, seal);
      table.lastSeal = seal;
    }
  }

  #append(table: BlockTable, id: KvBlockId): void {
    if (table.numBlocks === table.ids.length) {
      table.ids = new Int32Array(table.ids.buffer.transfer(table.ids.length * 8));
    }
    table.ids[table.numBlocks++] = id;
  }

  #holds(id: KvBlockId, tokens: TokenSpan, index: number, parentSeal: number): boolean {
    if (this.#parentSeals[id] !== parentSeal) return false;
    const start = index * this.blockSize;
    for (let i = 0; i < this.blockSize; i++) {
      if (this.#tokens[id * this.blockSize + i] !== tokens.ids[start + i]) return false;
    }
    return true;
  }

  /** Chains block `index` into the 53-bit hash that `state` carries: two lanes of multiply and mix. */
  #hashBlock(tokens: TokenSpan, index: number, state: { hashHigh: number; hashLow: number }): void {
    let high = state.hashHigh ^ 0x9e3779b9;
    let low = state.hashLow ^ 0x85ebca6b;
    const start = index * this.blockSize;
    for (let i = start; i < start + this.blockSize; i++) {
      const id = tokens.ids[i]!;
      high = Math.imul(high ^ id, 0xcc9e2d51);
      high ^= high >>> 15;
      low = Math.imul(low ^ id ^ high, 0x1b873593);
      low ^= low >>> 13;
    }
    state.hashHigh = (high ^ low) & 0x1fffff;
    state.hashLow = (low ^ (high << 7)) >>> 0;
  }

  #unseal(id: KvBlockId): void {
    if (this.#seals[id] === 0) return;
    this.#blockOfHash.delete(this.#hashKeys[id]!);
    this.#seals[id] = 0;
  }

  #unlink(id: KvBlockId): void {
    this.#next[this.#previous[id]!] = this.#next[id]!;
    this.#previous[this.#next[id]!] = this.#previous[id]!;
    this.#numFree--;
  }

  /** Sealed blocks queue up at the end, others go to the front, to be taken first. */
  #linkFree(id: KvBlockId): void {
    const sentinel = this.numBlocks;
    const before = this.#seals[id] === 0 ? sentinel : this.#previous[sentinel]!;
    const after = this.#next[before]!;
    this.#next[before] = id;
    this.#previous[id] = before;
    this.#next[id] = after;
    this.#previous[after] = id;
    this.#numFree++;
  }
}

function hashKey(state: { readonly hashHigh: number; readonly hashLow: number }): number {
  return state.hashHigh * 0x100000000 + state.hashLow;
}
