/**
 * The tokens of a model as bytes: id to bytes for decoding, byte range to id for encoding. Knows nothing of merges,
 * text or special tokens, except that some ids are kept out of the lookup.
 *
 * The lookup is an open-addressing table over one byte pool instead of a `Map<string, id>`: it answers for a range of
 * a buffer without cutting strings, and it loads the 262,144 tokens of Gemma in about 40 ms where the `Map` alone took 137.
 */
import { TokenizerError } from './errors.ts';
import { type Spelling, writeTokenBytes } from './token-bytes.ts';

/** Beyond this no model is known; the bound keeps a hostile file from asking for gigabytes. */
const MAX_TOKENS = 1 << 22;
/** No real token is longer (the longest in Gemma is 93 bytes); longer ones are kept for decoding only. */
const MAX_INDEXED_BYTES = 4096;

// Odd, random per process, so that a file cannot be written to collide; the high bits of the product choose the slot.
const HASH_FACTOR = ((Math.random() * 0x7fffffff) | 0x21000001) >>> 0;
const HASH_SEED = (Math.random() * 0xffffffff) >>> 0;

export interface VocabularySource {
  readonly tokens: readonly string[];
  readonly spelling: Spelling;
  /** Ids whose text merging may produce; the others are only decoded. */
  isIndexed(id: number): boolean;
  /** Bytes of the ids that are not spelled like text, such as `<0x0A>`; undefined for all others. */
  byteOf?(id: number): number | undefined;
}

export class Vocabulary {
  readonly size: number;
  readonly spelling: Spelling;
  /** Length of the longest indexed token; no longer range can be found. */
  readonly maxIndexedBytes: number;
  /**
   * 1 where an indexed token has byte `a` followed by byte `b`, at `a << 8 | b`; u8 `[65536]`. No merge crosses
   * a pair that is 0, so text may be cut there without changing its encoding.
   */
  readonly bridges: Uint8Array;

  readonly #tokens: readonly string[];
  /** All tokens one after another; token `id` is `#pool[#offsets[id]..#offsets[id + 1])`. */
  readonly #pool: Uint8Array;
  readonly #offsets: Uint32Array;
  /** Slot to id + 1, 0 for empty. */
  readonly #slots: Int32Array;
  readonly #slotHashes: Int32Array;
  readonly #shift: number;

  /** @throws {TokenizerError} if there are no tokens, too many, or one is not a string */
  constructor(source: VocabularySource) {
    const { tokens, spelling } = source;
    const size = tokens.length;
    if (size === 0)
      throw new TokenizerError('the vocabulary is empty; expected at least one token');
    if (size > MAX_TOKENS) {
      throw new TokenizerError(
        `the vocabulary has ${size} tokens; at most ${MAX_TOKENS} are accepted`,
      );
    }
    this.size = size;
    this.spelling = spelling;
    this.#tokens = tokens;

    let codeUnits = 0;
    for (let id = 0; id < size; id++) {
      const token = tokens[id];
      if (typeof token !== 'string') {
        throw new TokenizerError(`token ${id} is ${describe(token)}; expected a string`);
      }
      codeUnits += token.length;
    }

    const pool = new Uint8Array(codeUnits * 3 + 16);
    const offsets = new Uint32Array(size + 1);
    const bits = Math.max(4, Math.ceil(Math.log2(size * 2)));
    const slots = new Int32Array(1 << bits);
    const slotHashes = new Int32Array(1 << bits);
    const mask = (1 << bits) - 1;
    const shift = 32 - bits;
    const bridges = new Uint8Array(65536);
    const { byteOf } = source;
    let at = 0;
    let longest = 0;
    for (let id = 0; id < size; id++) {
      offsets[id] = at;
      const byte = byteOf?.(id);
      if (byte !== undefined) {
        pool[at++] = byte;
        continue;
      }
      const end = writeTokenBytes(tokens[id]!, spelling, pool, at);
      const length = end - at;
      if (length > 0 && length <= MAX_INDEXED_BYTES && source.isIndexed(id)) {
        let hash = HASH_SEED;
        let previous = pool[at]!;
        hash = Math.imul(hash ^ previous, HASH_FACTOR);
        for (let i = at + 1; i < end; i++) {
          const current = pool[i]!;
          hash = Math.imul(hash ^ current, HASH_FACTOR);
          bridges[(previous << 8) | current] = 1;
          previous = current;
        }
        hash ^= hash >>> 15;
        let slot = hash >>> shift;
        let isNew = true;
        while (slots[slot] !== 0) {
          // The first of two tokens with the same bytes is the one that encoding gives.
          if (slotHashes[slot] === hash) {
            const other = slots[slot]! - 1;
            if (sameBytes(pool, offsets[other]!, offsets[other + 1]!, pool, at, end)) {
              isNew = false;
              break;
            }
          }
          slot = (slot + 1) & mask;
        }
        if (isNew) {
          slots[slot] = id + 1;
          slotHashes[slot] = hash;
          if (length > longest) longest = length;
        }
      }
      at = end;
    }
    offsets[size] = at;
    this.#pool = pool.slice(0, at);
    this.#offsets = offsets;
    this.#slots = slots;
    this.#slotHashes = slotHashes;
    this.#shift = shift;
    this.bridges = bridges;
    this.maxIndexedBytes = longest;
  }

  /** The indexed token that is exactly `bytes[start..end)`, or -1. Hot: called for every candidate merge. */
  find(bytes: Uint8Array, start: number, end: number): number {
    let hash = HASH_SEED;
    for (let i = start; i < end; i++) hash = Math.imul(hash ^ bytes[i]!, HASH_FACTOR);
    hash ^= hash >>> 15;
    const slots = this.#slots;
    const mask = slots.length - 1;
    let slot = hash >>> this.#shift;
    for (;;) {
      const id = slots[slot]! - 1;
      if (id < 0) return -1;
      if (this.#slotHashes[slot] === hash && this.isToken(id, bytes, start, end)) return id;
      slot = (slot + 1) & mask;
    }
  }

  /** Whether token `id` is exactly `bytes[start..end)`; `id` must be in range. */
  isToken(id: number, bytes: Uint8Array, start: number, end: number): boolean {
    return sameBytes(this.#pool, this.#offsets[id]!, this.#offsets[id + 1]!, bytes, start, end);
  }

  /** The indexed token with this spelling (`Ġthe`, `▁the`), or -1. */
  findSpelling(token: string): number {
    const scratch = new Uint8Array(token.length * 3);
    const id = this.find(scratch, 0, writeTokenBytes(token, this.spelling, scratch, 0));
    return id >= 0 && this.#tokens[id] === token ? id : -1;
  }

  /** The bytes of a token, a view that must not be written to; `id` must be in range. */
  bytesOf(id: number): Uint8Array {
    return this.#pool.subarray(this.#offsets[id]!, this.#offsets[id + 1]!);
  }

  /** The bytes of all tokens, one after another, and where each begins. */
  get table(): { readonly offsets: Uint32Array; readonly bytes: Uint8Array } {
    return { offsets: this.#offsets, bytes: this.#pool };
  }

  /** Length of a token in bytes; `id` must be in range. */
  lengthOf(id: number): number {
    return this.#offsets[id + 1]! - this.#offsets[id]!;
  }

  /** 1 for bytes that are no indexed token, u8 `[256]`; null if there are none. */
  bytesWithoutToken(): Uint8Array | null {
    const missing = new Uint8Array(256);
    const scratch = new Uint8Array(1);
    for (let byte = 0; byte < 256; byte++) {
      scratch[0] = byte;
      if (this.find(scratch, 0, 1) < 0) missing[byte] = 1;
    }
    return missing.includes(1) ? missing : null;
  }

  /** The token as the file spells it, or undefined outside the vocabulary. */
  tokenOf(id: number): string | undefined {
    return this.#tokens[id];
  }
}

function sameBytes(
  a: Uint8Array,
  aStart: number,
  aEnd: number,
  b: Uint8Array,
  bStart: number,
  bEnd: number,
): boolean {
  const length = aEnd - aStart;
  if (length !== bEnd - bStart) return false;
  for (let i = 0; i < length; i++) {
    if (a[aStart + i] !== b[bStart + i]) return false;
  }
  return true;
}

/** Names the kind of a value that was not accepted. */
export function describe(value: unknown): string {
  if (value === null) return 'null';
  if (Array.isArray(value)) return `an array of ${value.length}`;
  if (ArrayBuffer.isView(value)) return value.constructor.name;
  return typeof value === 'object' ? 'an object' : `${typeof value} ${String(value).slice(0, 40)}`;
}
