/**
 * Reads little-endian values one after the other from the beginning of a file, through a buffer of bounded size. Checks each length
 * against what is left of the file before anything is allocated. Knows nothing of what the values mean.
 */
import { Buffer, isUtf8 } from 'node:buffer';
import { type WeightFault, WeightFileError } from './errors.ts';
import type { PositionedFile } from './positioned-file.ts';

const WINDOW_BYTES = 256 * 1024;

/** Longest single string: chat templates and licence texts stay far below. */
const MAX_STRING_BYTES = 64 * 1024 * 1024;

/**
 * Buffer's own decoder, which toString reaches through checks that cost as much as the decoding: 49152 tokens take 7 ms instead of 12.
 * Every Node has it, its type definitions do not.
 */
type Utf8Buffer = Buffer & { utf8Slice(start: number, end: number): string };

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

  /**
   * `count` strings, checked and passed over now and decoded when they are first asked for: a vocabulary has hundreds of thousands of them, and not
   * every reader of a file needs them. What is returned does not need the file any more.
   */
  strings(count: number, what: string): () => string[] {
    const start = this.position;
    for (let i = 0; i < count; i++) {
      const at = this.#next;
      const w = this.#window;
      if (at + 8 <= this.#end) {
        const length = w[at]! | (w[at + 1]! << 8) | (w[at + 2]! << 16);
        const end = at + 8 + length;
        if (
          end <= this.#end &&
          (w[at + 3]! | w[at + 4]! | w[at + 5]! | w[at + 6]! | w[at + 7]!) === 0
        ) {
          this.#next = end;
          continue;
        }
      }
      const entry = `entry ${i} of ${what}`;
      this.#take(this.count(`length of ${entry}`, 1, MAX_STRING_BYTES), entry);
    }
    const bytes = Buffer.allocUnsafeSlow(this.position - start);
    this.#file.readInto(bytes, start);
    return () => decodeStrings(bytes, count);
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

/** Strings as they lie in the file: u64 length and UTF-8 bytes each, lengths checked. */
function decodeStrings(bytes: Buffer, count: number): string[] {
  const out = new Array<string>(count);
  let at = 0;
  for (let i = 0; i < count; i++) {
    const end = at + 8 + bytes.readUIntLE(at, 6);
    out[i] = (bytes as Utf8Buffer).utf8Slice(at + 8, end);
    at = end;
  }
  return out;
}
