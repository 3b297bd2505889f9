/**
 * KV blocks in one file of equal slots: what memory has no room for. The file has no name once it is open, so it is gone when the process is. A fault
 * of the disk (full, gone, wrong bytes) ends its use and nothing else.
 *
 * No step waits for the disk: writes go on in the background, from a queue of bounded size, beyond which content is let go; what a new request will want
 * is read before it is scheduled (`readAhead`). Only content that nobody announced is read at once.
 */

import { close, mkdirSync, openSync, read, readSync, unlinkSync, write } from 'node:fs';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { BlockBuffers } from './block-buffers.ts';
import { EngineSetupError } from './errors.ts';
import type { SealedContent } from './kv-store.ts';

export interface KvDiskTierOptions {
  /** Made if it is missing. */
  readonly folder: string;
  readonly maxBytes: number;
  readonly blockBytes: number;
  /** Memory for blocks on their way to the file, and for those read ahead; one block at least. Default 128 MiB. */
  readonly maxStagedBytes?: number;
}

interface DiskEntry extends SealedContent {
  readonly slot: number;
  readonly checksum: number;
  /** In memory as well: on its way to the file, or read ahead. */
  bytes: Uint8Array | null;
  isWriting: boolean;
  /** While it is being read ahead. */
  reading: Promise<void> | null;
}

export class KvDiskTier implements Disposable {
  readonly buffers: BlockBuffers;
  readonly #blockBytes: number;
  readonly #numSlots: number;
  readonly #maxStaged: number;
  /** By hash key, the least recently used first. */
  readonly #entries = new Map<number, DiskEntry>();
  /** Entries that were read ahead and not taken yet, the oldest first. */
  readonly #readAhead = new Set<DiskEntry>();
  readonly #freeSlots: number[] = [];
  #numSlotsUsed = 0;
  /** Reads and writes under way; the file is closed after the last of them. */
  #numInFlight = 0;
  #numDropped = 0;
  readonly #fd: number;
  #isOpen = true;
  #fault: string | null = null;

  /** @throws {EngineSetupError} if no file can be made in the folder, or it may not hold a single block */
  constructor({ folder, maxBytes, blockBytes, maxStagedBytes = 2 ** 27 }: KvDiskTierOptions) {
    this.#blockBytes = blockBytes;
    this.buffers = new BlockBuffers(blockBytes);
    this.#numSlots = Math.floor(maxBytes / blockBytes);
    this.#maxStaged = Math.max(1, Math.floor(maxStagedBytes / blockBytes));
    if (this.#numSlots === 0) {
      throw new EngineSetupError(
        `KV offload: ${maxBytes} bytes of disk do not hold one KV block of ${blockBytes} bytes`,
      );
    }
    const path = join(folder, `kv-${process.pid}-${Math.random().toString(36).slice(2)}.blocks`);
    try {
      mkdirSync(folder, { recursive: true });
      this.#fd = openSync(path, 'wx+', 0o600);
      unlinkSync(path);
    } catch (cause) {
      const { message } = cause as Error;
      throw new EngineSetupError(`KV offload: no file can be made in ${folder}: ${message}`, {
        cause,
      });
    }
  }

  get numBlocks(): number {
    return this.#entries.size;
  }

  /** Blocks that were let go because the disk did not keep up. */
  get numDropped(): number {
    return this.#numDropped;
  }

  /** Reads and writes that are not over. */
  get numInFlight(): number {
    return this.#numInFlight;
  }

  /** Why it is no longer used. */
  get fault(): string | null {
    return this.#fault;
  }

  find(hashKey: number): SealedContent | null {
    return this.#entries.get(hashKey) ?? null;
  }

  /** Takes over the buffer; it goes back to `buffers` when it is written. */
  store({ seal, parentSeal, hashKey, tokenIds }: SealedContent, bytes: Uint8Array): void {
    this.forget(hashKey);
    const slot = this.#isOpen && this.#hasStagingRoom() ? this.#takeSlot() : null;
    if (slot === null) {
      if (this.#isOpen) this.#numDropped++;
      this.buffers.giveBack(bytes);
      return;
    }
    const entry: DiskEntry = {
      ...{ seal, parentSeal, hashKey, tokenIds, slot, checksum: crc32(bytes) },
      ...{ bytes, isWriting: true, reading: null },
    };
    this.#entries.set(hashKey, entry);
    this.#numInFlight++;
    write(this.#fd, bytes, 0, bytes.length, this.#offsetOf(entry), (error, numWritten) => {
      this.#land();
      entry.isWriting = false;
      if (entry.bytes !== null) this.buffers.giveBack(entry.bytes);
      entry.bytes = null;
      if (this.#entries.get(hashKey) !== entry) this.#freeSlots.push(slot);
      if (error !== null) this.#fail(error);
      else if (numWritten !== bytes.length) {
        this.#fail(new Error(`${numWritten} of ${bytes.length} bytes written`));
      }
    });
  }

  /**
   * Reads content into memory, as much of it as there is room for.
   *
   * @returns settles, never with an error, when `take` need not wait for it; null if it need not wait now
   */
  readAhead(hashKeys: readonly number[]): Promise<void> | null {
    const reads: Promise<void>[] = [];
    for (const hashKey of hashKeys) {
      const entry = this.#entries.get(hashKey);
      if (entry === undefined || entry.bytes !== null) continue;
      if (entry.reading === null && !this.#hasStagingRoom()) break;
      entry.reading ??= this.#read(entry);
      reads.push(entry.reading);
    }
    return reads.length === 0 ? null : Promise.all(reads).then(() => {});
  }

  /** Takes content out. The buffer is the caller's, to give back to `buffers`; null if the content is not there or cannot be read. */
  take(hashKey: number): Uint8Array | null {
    const entry = this.#entries.get(hashKey);
    if (entry === undefined) return null;
    const staged = entry.bytes;
    entry.bytes = null;
    this.forget(hashKey);
    if (staged !== null) return staged;
    const bytes = this.buffers.take();
    try {
      const numRead = readSync(this.#fd, bytes, 0, bytes.length, this.#offsetOf(entry));
      this.#check(entry, bytes, numRead);
      return bytes;
    } catch (error) {
      this.buffers.giveBack(bytes);
      this.#fail(error);
      return null;
    }
  }

  forget(hashKey: number): void {
    const entry = this.#entries.get(hashKey);
    if (entry === undefined) return;
    this.#entries.delete(hashKey);
    this.#readAhead.delete(entry);
    if (entry.isWriting) return; // Its slot is free when the write is over, and so is its buffer.
    this.#freeSlots.push(entry.slot);
    if (entry.bytes !== null) this.buffers.giveBack(entry.bytes);
    entry.bytes = null;
  }

  #read(entry: DiskEntry): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const bytes = this.buffers.take();
    this.#numInFlight++;
    read(this.#fd, bytes, 0, bytes.length, this.#offsetOf(entry), (error, numRead) => {
      this.#land();
      entry.reading = null;
      try {
        // Someone else may have taken it, or its slot, meanwhile.
        if (this.#entries.get(entry.hashKey) !== entry) {
          this.buffers.giveBack(bytes);
        } else {
          if (error !== null) throw error;
          this.#check(entry, bytes, numRead);
          entry.bytes = bytes;
          this.#readAhead.add(entry);
        }
      } catch (fault) {
        this.#fail(fault);
      }
      resolve();
    });
    return promise;
  }

  #check({ checksum }: DiskEntry, bytes: Uint8Array, numRead: number): void {
    if (numRead !== bytes.length) throw new Error(`${numRead} of ${bytes.length} bytes read`);
    if (crc32(bytes) !== checksum) throw new Error('a block came back with other bytes');
  }

  /** Whether one more block may be in memory. What was read ahead longest ago makes room. */
  #hasStagingRoom(): boolean {
    if (this.#numInFlight + this.#readAhead.size < this.#maxStaged) return true;
    const [oldest] = this.#readAhead;
    if (oldest === undefined) return false;
    this.#readAhead.delete(oldest);
    this.buffers.giveBack(oldest.bytes!);
    oldest.bytes = null;
    return true;
  }

  /** null if the next place to be used again is still being written. */
  #takeSlot(): number | null {
    const free = this.#freeSlots.pop();
    if (free !== undefined) return free;
    if (this.#numSlotsUsed < this.#numSlots) return this.#numSlotsUsed++;
    const [oldest] = this.#entries.values();
    if (oldest === undefined || oldest.isWriting) return null;
    this.forget(oldest.hashKey);
    return this.#freeSlots.pop()!;
  }

  #offsetOf({ slot }: DiskEntry): number {
    return slot * this.#blockBytes;
  }

  #land(): void {
    this.#numInFlight--;
    if (!this.#isOpen && this.#numInFlight === 0) close(this.#fd, () => {});
  }

  #fail(error: unknown): void {
    if (!this.#isOpen) return;
    this.#fault = error instanceof Error ? error.message : String(error);
    process.emitWarning(`KV offload: the disk is not used any more: ${this.#fault}`);
    this[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#entries.clear();
    this.#readAhead.clear();
    if (this.#numInFlight === 0) close(this.#fd, () => {});
  }
}
