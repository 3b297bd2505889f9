/**
 * Reads little-endian values one after the other from the beginning of a file, through a buffer of bounded size. Checks each length
 * against what is left of the file before anything is allocated. Knows nothing of what the values mean.
 */
import { Buffer, isUtf8 } from 'node:buffer';
import { StringList } from '../platform/string-list.ts';
import { type WeightFault, WeightFileError } from './errors.ts';
import type { PositionedFile } from './positioned-file.ts';

const WINDOW_BYTES = 256 * 1024;

/** Longest single string: chat templates and licence texts stay far below. */
const MAX_STRING_BYTES = 64 * 1024 * 1024;
/** Of all strings of a list together, so that 32 bits say where each begins. */
const MAX_LIST_BYTES = 2 ** 32 - 16;

export class ByteCursor {
  readonly #file: PositionedFile;
  /** Bytes [#windowStart, #windowStart + #end) of the file; the next one to read is #next in it. */
  #window: Buffer;
  #windowStart = 0;
  #next = 0;
  #end = 0;
  /** The tensor whose record is being read, for errors. */
  tensor: string | undefined;

  constructor(file: PositionedFile) {
    this.#file = file;
    this.#window = Buffer.alloc(Math.min(WINDOW_BYTES, file.sizeBytes));
  }

  /** Of the next byte, from the start of the file. */
  get position(): number {
    return this.#windowStart + this.#next;
  }

  get remainingBytes(): number {
    return this.#file.sizeBytes - this.position;
  }

  u8(what: string): number {
    const at = this.#take(1, what);
    return this.#window[at]!;
  }

  i8(what: string): number {
    return (this.u8(what) << 24) >> 24;
  }

  u16(what: string): number {
    return this.#window.readUInt16LE(this.#take(2, what));
  }

  i16(what: string): number {
    return this.#window.readInt16LE(this.#take(2, what));
  }

  u32(what: string): number {
    return this.#window.readUInt32LE(this.#take(4, what));
  }

  i32(what: string): number {
    return this.#window.readInt32LE(this.#take(4, what));
  }

  f32(what: string): number {
    return this.#window.readFloatLE(this.#take(4, what));
  }

  f64(what: string): number {
    return this.#window.readDoubleLE(this.#take(8, what));
  }

  u64(what: string): bigint {
    return this.#window.readBigUInt64LE(this.#take(8, what));
  }

  i64(what: string): bigint {
    return this.#window.readBigInt64LE(this.#take(8, what));
  }

  /**
   * A u64 that counts things of at least `minBytesEach` bytes in the rest of the file, and at most `limit`.
   *
   * @throws {WeightFileError} if it cannot be true
   */
  count(what: string, minBytesEach: number, limit: number): number {
    const count = this.u64(what);
    const values = { count, remainingBytes: this.remainingBytes };
    if (count > BigInt(Math.floor(this.remainingBytes / minBytesEach))) {
      throw this.error(
        'truncated',
        `${what} is ${count}, but only ${this.remainingBytes} bytes are left in the file and each takes at least ${minBytesEach}`,
        values,
      );
    }
    if (count > BigInt(limit)) {
      throw this.error('limit', `${what} is ${count}; accepted: up to ${limit}`, values);
    }
    return Number(count);
  }

  /** A string: u64 length and UTF-8 bytes. Bytes that are no UTF-8 become U+FFFD, unless `strict`, which refuses them. */
  string(what: string, options?: { maxBytes?: number; strict?: boolean }): string {
    const length = this.count(`length of ${what}`, 1, options?.maxBytes ?? MAX_STRING_BYTES);
    const at = this.#take(length, what);
    if (options?.strict && !isUtf8(this.#window.subarray(at, at + length))) {
      throw this.error('corrupt', `${what} is not valid UTF-8`, { lengthBytes: length });
    }
    return this.#window.toString('utf8', at, at + length);
  }

  /** `count` strings, lengths checked. What is returned does not need the file any more. */
  strings(count: number, what: string): StringList {
    const first = this.position;
    const starts = new Uint32Array(count + 1);
    let i = 0;
    while (i < count) {
      i = this.#passStrings(starts, i, first);
      if (i === count) break;
      // One that is not whole in the window, or not sound.
      starts[i] = this.position + 8 - first;
      const entry = `entry ${i++} of ${what}`;
      this.#take(this.count(`length of ${entry}`, 1, MAX_STRING_BYTES), entry);
    }
    const sizeBytes = this.position - first;
    if (sizeBytes > MAX_LIST_BYTES) {
      throw this.error('limit', `${what} takes ${sizeBytes} bytes; accepted: up to 4 GiB`);
    }
    starts[count] = sizeBytes + 8;
    const bytes = Buffer.allocUnsafeSlow(sizeBytes);
    this.#file.readInto(bytes, first);
    return StringList.over(bytes, starts);
  }

  /**
   * Passes over strings that lie whole in the window, from number `i` on. Plain and in locals: a start does this a hundred thousand times in code that is
   * still interpreted.
   *
   * @param starts receives where each begins, from `first` on
   * @returns the number of the next
   */
  #passStrings(starts: Uint32Array, i: number, first: number): number {
    const window = this.#window;
    const end = this.#end;
    const count = starts.length - 1;
    const base = this.#windowStart + 8 - first;
    let at = this.#next;
    for (; i < count && at + 8 <= end; i++) {
      const high =
        window[at + 3]! | window[at + 4]! | window[at + 5]! | window[at + 6]! | window[at + 7]!;
      const next = at + 8 + (window[at]! | (window[at + 1]! << 8) | (window[at + 2]! << 16));
      if (high !== 0 || next > end) break;
      starts[i] = at + base;
      at = next;
    }
    this.#next = at;
    return i;
  }

  /** Fills `into` with the next bytes, without going through the window where it is long. */
  bytesInto(into: Uint8Array, what: string): void {
    this.#checkLeft(into.length, what);
    const buffered = Math.min(into.length, this.#end - this.#next);
    into.set(this.#window.subarray(this.#next, this.#next + buffered));
    this.#next += buffered;
    if (buffered === into.length) return;
    const position = this.position;
    this.#file.readInto(into.subarray(buffered), position);
    this.#windowStart = position + into.length - buffered;
    this.#next = 0;
    this.#end = 0;
  }

  error(
    fault: WeightFault,
    message: string,
    values: Readonly<Record<string, number | bigint | string>> = {},
    cause?: unknown,
  ): WeightFileError {
    return new WeightFileError(message, {
      fault,
      file: this.#file.path,
      tensor: this.tensor,
      values: { position: this.position, ...values },
      cause,
    });
  }

  #checkLeft(length: number, what: string): void {
    if (length <= this.remainingBytes) return;
    throw this.error(
      'truncated',
      `ends within ${what}: ${length} bytes expected at byte ${this.position}, but the file has ${this.#file.sizeBytes} bytes. Fetch it again.`,
      { expectedBytes: length, sizeBytes: this.#file.sizeBytes },
    );
  }

  /** Makes the next `length` bytes lie in the window, moves past them and returns where they begin in it. */
  #take(length: number, what: string): number {
    if (this.#next + length > this.#end) {
      this.#checkLeft(length, what);
      this.#refill(length);
    }
    const at = this.#next;
    this.#next += length;
    return at;
  }

  #refill(length: number): void {
    const position = this.position;
    const kept = this.#end - this.#next;
    const wanted = Math.min(Math.max(length, WINDOW_BYTES), this.#file.sizeBytes - position);
    // A long string gets a window of its own, given up again by the refill after it.
    const keepWindow = wanted <= this.#window.length && this.#window.length <= WINDOW_BYTES;
    const window = keepWindow ? this.#window : Buffer.alloc(wanted);
    window.set(this.#window.subarray(this.#next, this.#end));
    this.#window = window;
    this.#windowStart = position;
    this.#next = 0;
    this.#end = kept;
    this.#file.readInto(window.subarray(kept, wanted), position + kept);
    this.#end = wanted;
  }
}
