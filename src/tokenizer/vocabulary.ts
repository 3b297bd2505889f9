/**
 * The tokens of a model as bytes: id to bytes for decoding, byte range to id for encoding. Knows nothing of merges,
 * text or special tokens, except that some ids are kept out of the lookup.
 */
import type { StringList } from '../platform/string-list.ts';
import { TokenizerError } from './errors.ts';
import { type Spelling, writeSpelledBytes, writeTokenBytes } from './token-bytes.ts';
import { sameBytes, TokenIndex } from './token-index.ts';

/** Beyond this no model is known; the bound keeps a hostile file from asking for gigabytes. */
const MAX_TOKENS = 1 << 22;

export interface VocabularySource {
  readonly tokens: StringList;
  readonly spelling: Spelling;
  /** Ids whose text merging may produce; the others are only decoded. */
  isIndexed(id: number): boolean;
  /** Bytes of the ids that are not spelled like text, such as `<0x0A>`; undefined for all others. */
  byteOf?(id: number): number | undefined;
}

export class Vocabulary {
  readonly size: number;
  readonly spelling: Spelling;

  readonly #tokens: StringList;
  /** All tokens one after another; token `id` is `#pool[#offsets[id]..#offsets[id + 1])`. */
  readonly #pool: Uint8Array;
  readonly #offsets: Uint32Array;
  readonly #isIndexed: (id: number) => boolean;
  /** Made by the first lookup: half of the time that a vocabulary takes, and only encoding needs it. */
  #index: TokenIndex | undefined;

  /** @throws {TokenizerError} if there are no tokens, or too many */
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
    const byteIds = new Set<number>();
    this.#isIndexed = (id) => source.isIndexed(id) && !byteIds.has(id);

    const { bytes, starts } = tokens;
    const { byteOf } = source;
    const pool = new Uint8Array(bytes.length); // No spelling is shorter than what it stands for.
    const offsets = new Uint32Array(size + 1);
    let at = 0;
    for (let id = 0; id < size; id++) {
      offsets[id] = at;
      const byte = byteOf?.(id);
      if (byte !== undefined) {
        byteIds.add(id);
        pool[at++] = byte;
        continue;
      }
      at = writeSpelledBytes(bytes, starts[id]!, tokens.endOf(id), spelling, pool, at);
    }
    offsets[size] = at;
    this.#pool = pool.subarray(0, at);
    this.#offsets = offsets;
  }

  /** Makes what lookups need, if that has not been done yet. */
  prepareLookup(): void {
    this.#index ??= new TokenIndex({ bytes: this.#pool, offsets: this.#offsets }, this.#isIndexed);
  }

  get #lookup(): TokenIndex {
    this.prepareLookup();
    return this.#index!;
  }

  /** Length of the longest indexed token; no longer range can be found. */
  get maxIndexedBytes(): number {
    return this.#lookup.maxBytes;
  }

  /**
   * 1 where an indexed token has byte `a` followed by byte `b`, at `a << 8 | b`; u8 `[65536]`. No merge crosses
   * a pair that is 0, so text may be cut there without changing its encoding.
   */
  get bridges(): Uint8Array {
    return this.#lookup.bridges;
  }

  /** The indexed token that is exactly `bytes[start..end)`, or -1. Hot: called for every candidate merge. */
  find(bytes: Uint8Array, start: number, end: number): number {
    return (this.#index ?? this.#lookup).find(bytes, start, end);
  }

  /** Whether token `id` is exactly `bytes[start..end)`; `id` must be in range. */
  isToken(id: number, bytes: Uint8Array, start: number, end: number): boolean {
    return sameBytes(this.#pool, this.#offsets[id]!, this.#offsets[id + 1]!, bytes, start, end);
  }

  /** The indexed token with this spelling (`Ġthe`, `▁the`), or -1. */
  findSpelling(token: string): number {
    const scratch = new Uint8Array(token.length * 3);
    const id = this.find(scratch, 0, writeTokenBytes(token, this.spelling, scratch, 0));
    return id >= 0 && this.#tokens.at(id) === token ? id : -1;
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
    return this.#tokens.at(id);
  }
}

/** Names the kind of a value that was not accepted. */
export function describe(value: unknown): string {
  if (value === null) return 'null';
  if (Array.isArray(value)) return `an array of ${value.length}`;
  if (ArrayBuffer.isView(value)) return value.constructor.name;
  return typeof value === 'object' ? 'an object' : `${typeof value} ${String(value).slice(0, 40)}`;
}
