/**
 * Byte range to token id, for encoding. Knows nothing of spellings.
 *
 * An open-addressing table over one byte pool instead of a `Map<string, id>`: it answers for a range of a buffer without cutting strings, and it loads the
 * 262,144 tokens of Gemma in about 40 ms where the `Map` alone took 137.
 */

/** No real token is longer (the longest in Gemma is 93 bytes); longer ones are kept for decoding only. */
const MAX_INDEXED_BYTES = 4096;

// Odd, random per process, so that a file cannot be written to collide; the high bits of the product choose the slot.
const HASH_FACTOR = ((Math.random() * 0x7fffffff) | 0x21000001) >>> 0;
const HASH_SEED = (Math.random() * 0xffffffff) >>> 0;

export interface TokenPool {
  /** All tokens one after another; token `id` is `bytes[offsets[id]..offsets[id + 1])`. */
  readonly bytes: Uint8Array;
  /** u32 `[numTokens + 1]` */
  readonly offsets: Uint32Array;
}

export class TokenIndex {
  /** Length of the longest indexed token; no longer range can be found. */
  readonly maxBytes: number;
  /** As `Vocabulary.bridges`. */
  readonly bridges: Uint8Array;

  readonly #pool: TokenPool;
  /** Slot to id + 1, 0 for empty. */
  readonly #slots: Int32Array;
  readonly #slotHashes: Int32Array;
  readonly #shift: number;

  /** @param isIndexed which ids may be found */
  constructor(pool: TokenPool, isIndexed: (id: number) => boolean) {
    const { bytes, offsets } = pool;
    const size = offsets.length - 1;
    const bits = Math.max(4, Math.ceil(Math.log2(size * 2)));
    const slots = new Int32Array(1 << bits);
    const slotHashes = new Int32Array(1 << bits);
    const mask = (1 << bits) - 1;
    const shift = 32 - bits;
    const bridges = new Uint8Array(65536);
    let longest = 0;
    for (let id = 0; id < size; id++) {
      const at = offsets[id]!;
      const end = offsets[id + 1]!;
      const length = end - at;
      if (length === 0 || length > MAX_INDEXED_BYTES || !isIndexed(id)) continue;
      let hash = HASH_SEED;
      let previous = bytes[at]!;
      hash = Math.imul(hash ^ previous, HASH_FACTOR);
      for (let i = at + 1; i < end; i++) {
        const current = bytes[i]!;
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
          if (sameBytes(bytes, offsets[other]!, offsets[other + 1]!, bytes, at, end)) {
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
    this.#pool = pool;
    this.#slots = slots;
    this.#slotHashes = slotHashes;
    this.#shift = shift;
    this.bridges = bridges;
    this.maxBytes = longest;
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
      if (this.#slotHashes[slot] === hash) {
        const { bytes: pool, offsets } = this.#pool;
        if (sameBytes(pool, offsets[id]!, offsets[id + 1]!, bytes, start, end)) return id;
      }
      slot = (slot + 1) & mask;
    }
  }
}

export function sameBytes(
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
