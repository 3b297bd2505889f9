/**
 * Carries out the merges of one piece of text: from bytes to token ids. Knows the vocabulary and the ranks, nothing of
 * how text was cut into pieces. One instance holds the work arrays, so it is not re-entrant.
 *
 * A heap of candidate pairs gives O(n log n) for any input, a million equal letters included. (The `BPE` of
 * `@huggingface/tokenizers` also has a queue, but works on strings and needs three `Map` lookups per merge just to load.)
 */
import { type MergeRanks, NO_MERGE } from './merges.ts';
import type { Vocabulary } from './vocabulary.ts';

/** What a symbol that is no token becomes. */
export interface UnknownPolicy {
  /** Id of each byte, -1 for none; i32 `[256]`. Null: no fallback to bytes. */
  readonly byteIds: Int32Array | null;
  /** Id for what has no bytes either, or null: such text vanishes. */
  readonly unknownId: number | null;
  /** One unknown id for a run of unknown symbols. */
  readonly fuseUnknown: boolean;
}

export interface MergerOptions extends UnknownPolicy {
  /** Whether text starts as single bytes or as whole characters. */
  readonly symbols: 'bytes' | 'characters';
  /** Take a piece that is a token as that token, whatever the merges say. */
  readonly ignoreMerges: boolean;
}

export class Merger {
  readonly #vocabulary: Vocabulary;
  readonly #ranks: MergeRanks;
  readonly #options: MergerOptions;

  // Symbols are named by the offset of their first byte; arrays are as long as the longest piece so far.
  #end = new Int32Array(0);
  #previous = new Int32Array(0);
  #id = new Int32Array(0);

  // Binary heap of candidates, least (rank, left) first.
  #heapRank = new Float64Array(64);
  #heapLeft = new Int32Array(64);
  #heapEnd = new Int32Array(64);
  #heapId = new Int32Array(64);
  #heapSize = 0;

  constructor(vocabulary: Vocabulary, ranks: MergeRanks, options: MergerOptions) {
    this.#vocabulary = vocabulary;
    this.#ranks = ranks;
    this.#options = options;
  }

  /** Appends the ids of `bytes[0..length)` to `out`. */
  encode(bytes: Uint8Array, length: number, out: number[]): void {
    if (length === 0) return;
    const vocabulary = this.#vocabulary;
    if (this.#options.ignoreMerges) {
      const id = vocabulary.find(bytes, 0, length);
      if (id >= 0) {
        out.push(id);
        return;
      }
    }
    this.#reserve(length);
    const end = this.#end;
    const ids = this.#id;
    this.#startSymbols(bytes, length);

    this.#heapSize = 0;
    for (let left = 0; end[left]! < length; left = end[left]!) this.#propose(bytes, left);
    while (this.#heapSize > 0) {
      const left = this.#heapLeft[0]!;
      const pairEnd = this.#heapEnd[0]!;
      const id = this.#heapId[0]!;
      this.#popHeap();
      // Symbols only grow, so a candidate is still valid exactly if its left one lives and its right one ends where it did.
      const right = end[left]!;
      if (right < 0 || right >= length || end[right] !== pairEnd) continue;
      end[left] = pairEnd;
      end[right] = -1;
      ids[left] = id;
      if (pairEnd < length) {
        this.#previous[pairEnd] = left;
        this.#propose(bytes, left);
      }
      if (left > 0) this.#propose(bytes, this.#previous[left]!);
    }

    let wasUnknown = false;
    for (let left = 0; left < length; left = end[left]!) {
      if (ids[left]! >= 0) {
        out.push(ids[left]!);
        wasUnknown = false;
      } else {
        wasUnknown = this.#pushUnknown(bytes, left, end[left]!, wasUnknown, out);
      }
    }
  }

  #startSymbols(bytes: Uint8Array, length: number): void {
    const whole = this.#options.symbols === 'characters';
    let before = -1;
    for (let start = 0; start < length; ) {
      const lead = bytes[start]!;
      const size = !whole || lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
      const stop = Math.min(start + size, length);
      for (let i = start + 1; i < stop; i++) this.#end[i] = -1;
      this.#end[start] = stop;
      this.#previous[start] = before;
      this.#id[start] = this.#vocabulary.find(bytes, start, stop);
      before = start;
      start = stop;
    }
  }

  /** Puts the pair of `left` and its right neighbour on the heap, if it is a merge. */
  #propose(bytes: Uint8Array, left: number): void {
    const right = this.#end[left]!;
    const end = this.#end[right]!;
    if (end - left > this.#vocabulary.maxIndexedBytes) return;
    const id = this.#vocabulary.find(bytes, left, end);
    if (id < 0) return;
    const rank = this.#ranks.rankOf(id, right - left);
    if (rank !== NO_MERGE) this.#pushHeap(rank, left, end, id);
  }

  #pushUnknown(
    bytes: Uint8Array,
    start: number,
    end: number,
    wasUnknown: boolean,
    out: number[],
  ): boolean {
    const { byteIds, unknownId, fuseUnknown } = this.#options;
    if (byteIds !== null) {
      let hasAll = true;
      for (let i = start; i < end; i++) hasAll &&= byteIds[bytes[i]!]! >= 0;
      if (hasAll) {
        for (let i = start; i < end; i++) out.push(byteIds[bytes[i]!]!);
        return false;
      }
    }
    if (unknownId === null) return false;
    if (!(wasUnknown && fuseUnknown)) out.push(unknownId);
    return true;
  }

  #reserve(length: number): void {
    if (this.#end.length >= length) return;
    const capacity = Math.max(256, length * 2);
    this.#end = new Int32Array(capacity);
    this.#previous = new Int32Array(capacity);
    this.#id = new Int32Array(capacity);
  }

  #pushHeap(rank: number, left: number, end: number, id: number): void {
    if (this.#heapSize === this.#heapRank.length) this.#growHeap();
    const ranks = this.#heapRank;
    const lefts = this.#heapLeft;
    const ends = this.#heapEnd;
    const ids = this.#heapId;
    let at = this.#heapSize++;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const parentRank = ranks[parent]!;
      if (parentRank < rank || (parentRank === rank && lefts[parent]! <= left)) break;
      ranks[at] = parentRank;
      lefts[at] = lefts[parent]!;
      ends[at] = ends[parent]!;
      ids[at] = ids[parent]!;
      at = parent;
    }
    ranks[at] = rank;
    lefts[at] = left;
    ends[at] = end;
    ids[at] = id;
  }

  #popHeap(): void {
    const ranks = this.#heapRank;
    const lefts = this.#heapLeft;
    const ends = this.#heapEnd;
    const ids = this.#heapId;
    const size = --this.#heapSize;
    const rank = ranks[size]!;
    const left = lefts[size]!;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= size) break;
      const other = child + 1;
      if (
        other < size &&
        (ranks[other]! < ranks[child]! ||
          (ranks[other] === ranks[child] && lefts[other]! < lefts[child]!))
      ) {
        child = other;
      }
      if (rank < ranks[child]! || (rank === ranks[child] && left <= lefts[child]!)) break;
      ranks[at] = ranks[child]!;
      lefts[at] = lefts[child]!;
      ends[at] = ends[child]!;
      ids[at] = ids[child]!;
      at = child;
    }
    ranks[at] = rank;
    lefts[at] = left;
    ends[at] = ends[size]!;
    ids[at] = ids[size]!;
  }

  #growHeap(): void {
    const capacity = this.#heapRank.length * 2;
    const grow = <T extends Float64Array | Int32Array>(to: T, from: T): T => {
      to.set(from);
      return to;
    };
    this.#heapRank = grow(new Float64Array(capacity), this.#heapRank);
    this.#heapLeft = grow(new Int32Array(capacity), this.#heapLeft);
    this.#heapEnd = grow(new Int32Array(capacity), this.#heapEnd);
    this.#heapId = grow(new Int32Array(capacity), this.#heapId);
  }
}
