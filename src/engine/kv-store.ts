/**
 * Sealed KV blocks that had to leave the pool, kept in memory and beyond that on disk, least recently used out first. Knows contents by their seals, as
 * the `BlockManager` does; not what the bytes mean.
 */

import { BlockBuffers } from './block-buffers.ts';
import type { KvDiskTier } from './kv-disk-tier.ts';

/** What identifies the content of a block: see `BlockManager`. */
export interface SealedContent {
  readonly seal: number;
  readonly parentSeal: number;
  readonly hashKey: number;
  /** i32 [blockSize] */
  readonly tokenIds: Int32Array;
}

/** Moves blocks between the pool and memory outside it: a `ModelRunner` is one. */
export interface BlockMover {
  readonly kvBlockBytes: number;
  readBlock(blockId: number, into: Uint8Array): void;
  writeBlock(blockId: number, from: Uint8Array): void;
}

export interface KvStoreStats {
  readonly blockBytes: number;
  /** Now. */
  readonly numMemoryBlocks: number;
  readonly numDiskBlocks: number;
  /** Blocks that went out of the pool, and that came back, since the start. */
  readonly numStored: number;
  readonly numRestored: number;
  /** Blocks that were let go because the disk did not keep up. */
  readonly numDropped: number;
  /** Why the disk is no longer used; `null` while it is, or where there is none. */
  readonly diskFault: string | null;
}

interface MemoryEntry extends SealedContent {
  readonly bytes: Uint8Array;
}

export class KvStore {
  readonly #mover: BlockMover;
  readonly #maxBlocks: number;
  readonly #disk: KvDiskTier | null;
  /** By hash key, the least recently used first. */
  readonly #memory = new Map<number, MemoryEntry>();
  readonly #buffers: BlockBuffers;
  #numStored = 0;
  #numRestored = 0;

  /** @param maxBytes of memory; the disk tier has its own bound */
  constructor(mover: BlockMover, maxBytes: number, disk: KvDiskTier | null = null) {
    this.#mover = mover;
    this.#maxBlocks = Math.floor(maxBytes / mover.kvBlockBytes);
    this.#disk = disk;
    this.#buffers = disk?.buffers ?? new BlockBuffers(mover.kvBlockBytes);
  }

  get stats(): KvStoreStats {
    return {
      blockBytes: this.#mover.kvBlockBytes,
      numMemoryBlocks: this.#memory.size,
      numDiskBlocks: this.#disk?.numBlocks ?? 0,
      numStored: this.#numStored,
      numRestored: this.#numRestored,
      numDropped: this.#disk?.numDropped ?? 0,
      diskFault: this.#disk?.fault ?? null,
    };
  }

  /** Copies a block out of the pool. Content with the same hash key gives way. */
  store(blockId: number, content: SealedContent): void {
    this.forget(content.hashKey);
    const bytes = this.#buffers.take();
    this.#mover.readBlock(blockId, bytes);
    const tokenIds = content.tokenIds.slice();
    this.#memory.set(content.hashKey, { ...content, tokenIds, bytes });
    this.#numStored++;
    if (this.#memory.size > this.#maxBlocks) this.#evictOldest();
  }

  /** What is kept under a hash key. */
  find(hashKey: number): SealedContent | null {
    return this.#memory.get(hashKey) ?? this.#disk?.find(hashKey) ?? null;
  }

  /**
   * Brings content near that is on disk, as much of it as there is room for.
   *
   * @returns settles, never with an error, when `take` need not wait for it; null if it need not wait now
   */
  readAhead(hashKeys: readonly number[]): Promise<void> | null {
    return this.#disk?.readAhead(hashKeys) ?? null;
  }

  /** Whether anything is where `take` may have to wait for it. */
  get hasSlowContent(): boolean {
    return this.#disk !== null && this.#disk.numBlocks > 0;
  }

  /**
   * Takes content out, to be written into the pool with `restore`.
   *
   * @returns its bytes; `null` if it cannot be read any more
   */
  take(hashKey: number): Uint8Array | null {
    const entry = this.#memory.get(hashKey);
    if (entry !== undefined) {
      this.#memory.delete(hashKey);
      return entry.bytes;
    }
    return this.#disk?.take(hashKey) ?? null;
  }

  /** Writes taken bytes into a block of the pool. */
  restore(blockId: number, bytes: Uint8Array): void {
    this.#mover.writeBlock(blockId, bytes);
    this.#numRestored++;
    this.#buffers.giveBack(bytes);
  }

  /** The pool has this content again, or other content takes its place. */
  forget(hashKey: number): void {
    const entry = this.#memory.get(hashKey);
    if (entry !== undefined) {
      this.#memory.delete(hashKey);
      this.#buffers.giveBack(entry.bytes);
    }
    this.#disk?.forget(hashKey);
  }

  #evictOldest(): void {
    const [hashKey, entry] = this.#memory.entries().next().value!;
    this.#memory.delete(hashKey);
    if (this.#disk === null) this.#buffers.giveBack(entry.bytes);
    else this.#disk.store(entry, entry.bytes);
  }

  [Symbol.dispose](): void {
    this.#memory.clear();
    this.#disk?.[Symbol.dispose]();
  }
}
