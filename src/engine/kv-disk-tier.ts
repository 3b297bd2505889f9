/**
 * KV blocks in one file of equal slots: what memory has no room for. The file has no name once it is open, so it is gone when the process is. A fault
 * of the disk (full, gone, wrong bytes) ends its use and nothing else.
 *
 * Reads and writes are synchronous: a block is a few hundred kilobytes, and mostly in the page cache.
 */

import { closeSync, mkdirSync, openSync, readSync, unlinkSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { EngineSetupError } from './errors.ts';
import type { SealedContent } from './kv-store.ts';

export interface KvDiskTierOptions {
  /** Made if it is missing. */
  readonly folder: string;
  readonly maxBytes: number;
  readonly blockBytes: number;
}

interface DiskEntry extends SealedContent {
  readonly slot: number;
  readonly checksum: number;
}

export class KvDiskTier implements Disposable {
  readonly #blockBytes: number;
  readonly #numSlots: number;
  /** By hash key, the least recently used first. */
  readonly #entries = new Map<number, DiskEntry>();
  readonly #freeSlots: number[] = [];
  #numSlotsUsed = 0;
  #file: number | null;
  #fault: string | null = null;

  /** @throws {EngineSetupError} if no file can be made in the folder, or it may not hold a single block */
  constructor({ folder, maxBytes, blockBytes }: KvDiskTierOptions) {
    this.#blockBytes = blockBytes;
    this.#numSlots = Math.floor(maxBytes / blockBytes);
    if (this.#numSlots === 0) {
      throw new EngineSetupError(
        `KV offload: ${maxBytes} bytes of disk do not hold one KV block of ${blockBytes} bytes`,
      );
    }
    const path = join(folder, `kv-${process.pid}-${Math.random().toString(36).slice(2)}.blocks`);
    try {
      mkdirSync(folder, { recursive: true });
      this.#file = openSync(path, 'wx+', 0o600);
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

  /** Why it is no longer used. */
  get fault(): string | null {
    return this.#fault;
  }

  find(hashKey: number): SealedContent | null {
    return this.#entries.get(hashKey) ?? null;
  }

  store(content: SealedContent, bytes: Uint8Array): void {
    if (this.#file === null) return;
    this.forget(content.hashKey);
    const slot = this.#takeSlot();
    try {
      const written = writeSync(this.#file, bytes, 0, bytes.length, slot * this.#blockBytes);
      if (written !== bytes.length) throw new Error(`${written} of ${bytes.length} bytes written`);
    } catch (error) {
      this.#fail(error);
      return;
    }
    const { seal, parentSeal, hashKey, tokenIds } = content;
    const checksum = crc32(bytes);
    this.#entries.set(hashKey, { seal, parentSeal, hashKey, tokenIds, slot, checksum });
  }

  /** Takes content out. Returns false if it is not there or cannot be read. */
  take(hashKey: number, into: Uint8Array): boolean {
    const entry = this.#entries.get(hashKey);
    if (entry === undefined || this.#file === null) return false;
    this.forget(hashKey);
    try {
      const read = readSync(this.#file, into, 0, into.length, entry.slot * this.#blockBytes);
      if (read !== into.length) throw new Error(`${read} of ${into.length} bytes read`);
      if (crc32(into) !== entry.checksum) throw new Error('a block came back with other bytes');
      return true;
    } catch (error) {
      this.#fail(error);
      return false;
    }
  }

  forget(hashKey: number): void {
    const entry = this.#entries.get(hashKey);
    if (entry === undefined) return;
    this.#entries.delete(hashKey);
    this.#freeSlots.push(entry.slot);
  }

  #takeSlot(): number {
    const free = this.#freeSlots.pop();
    if (free !== undefined) return free;
    if (this.#numSlotsUsed < this.#numSlots) return this.#numSlotsUsed++;
    const oldest = this.#entries.values().next().value!;
    this.#entries.delete(oldest.hashKey);
    return oldest.slot;
  }

  #fail(error: unknown): void {
    this.#fault = error instanceof Error ? error.message : String(error);
    this[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    this.#entries.clear();
    if (this.#file !== null) closeSync(this.#file);
    this.#file = null;
  }
}
