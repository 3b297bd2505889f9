/**
 * One row of logits with its slice statistics: what lets the sampler find the largest values, and the softmax normaliser, without reading the
 * whole vocabulary. Knows nothing of sampling rules; it finds, sums and edits.
 *
 *   logits    |. . . . . . . .|. . . . . . . .|. . . . .|        vocabSize values
 *   max       |  7.25         |  3.5          | -1      |        one per slice of sliceSize
 *   expSum    |  1.4          |  2.1          |  1.02   |        sum of exp((logit - max) * inverseTemperature) in the slice
 *
 * The class keeps its scratch buffers between rows; one instance serves a whole engine.
 */

import { InternalError } from '../platform/errors.ts';
import { SamplingError } from './errors.ts';
import { weightExp } from './weight-exp.ts';

/** A logit and its index as one double that sorts by logit, then by lower index: 32 bits of ordered float above 21 bits of inverted index. */
const INDEX_RANGE = 2 ** 21;

const floatBits = new Float32Array(1);
const intBits = new Uint32Array(floatBits.buffer);

function sortKey(logit: number, index: number): number {
  floatBits[0] = logit + 0; // -0 becomes 0: equal logits must have equal bits
  const bits = intBits[0]!;
  const ordered = bits >= 0x80000000 ? ~bits >>> 0 : bits + 0x80000000;
  return ordered * INDEX_RANGE + (INDEX_RANGE - 1 - index);
}

function indexOfKey(key: number): number {
  return INDEX_RANGE - 1 - (key - Math.floor(key / INDEX_RANGE) * INDEX_RANGE);
}

/** Restores the heap (smallest key first) below `root`. */
function siftDown(heap: Float64Array, root: number, length: number): void {
  const key = heap[root]!;
  for (;;) {
    let child = 2 * root + 1;
    if (child >= length) break;
    if (child + 1 < length && heap[child + 1]! < heap[child]!) child++;
    if (heap[child]! >= key) break;
    heap[root] = heap[child]!;
    root = child;
  }
  heap[root] = key;
}

function heapify(heap: Float64Array, length: number): void {
  for (let root = (length >> 1) - 1; root >= 0; root--) siftDown(heap, root, length);
}

/** Turns a heap into a list with the largest key first. */
function sortHeapDescending(heap: Float64Array, length: number): void {
  for (let end = length - 1; end > 0; end--) {
    const smallest = heap[0]!;
    heap[0] = heap[end]!;
    heap[end] = smallest;
    siftDown(heap, 0, end);
  }
}

function bitCount(word: number): number {
  let bits = word - ((word >>> 1) & 0x55555555);
  bits = (bits & 0x33333333) + ((bits >>> 2) & 0x33333333);
  return Math.imul((bits + (bits >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}

/** Place of the lowest bit that is set. */
function lowestBit(word: number): number {
  return 31 - Math.clz32(word & -word);
}

/** The bits of word `w` that stand for ids from `start` to below `end`. */
function rangeBits(w: number, start: number, end: number): number {
  const low = Math.max(start - (w << 5), 0);
  const high = end - (w << 5);
  return (high >= 32 ? -1 : (1 << high) - 1) & (-1 << low);
}

export class SlicedLogits {
  readonly vocabSize: number;
  readonly sliceSize: number;
  readonly numSlices: number;
  /** Largest logit of each slice, f64 [numSlices]. */
  readonly max: Float64Array;
  /** Sum of exp((logit - max) * inverseTemperature) of each slice, f64 [numSlices]; as exact as the runner's, about 1e-6 of it. */
  readonly expSum: Float64Array;
  /** At which the slices are summed. */
  inverseTemperature = 1;
  /** f32 [vocabSize]; the runner's buffer, edited in place between `set` and `restore`. */
  logits: Float32Array = new Float32Array(0);

  readonly #rawMax: Float64Array;
  readonly #rawExpSum: Float64Array;
  readonly #isTouched: Uint8Array;
  readonly #touchedSlices: Int32Array;
  #numTouchedSlices = 0;
  /** Slices whose maximum was lowered: only a scan tells the new one. */
  readonly #isStale: Uint8Array;
  readonly #editedIds: Int32Array;
  readonly #rawLogits: Float32Array;
  #numEdits = 0;
  /** The runner's row while a masked copy stands in for it. */
  #unmasked: Float32Array | null = null;
  /** The copy, f32 [vocabSize]; made when first needed. */
  #masked: Float32Array | null = null;

  /** Negated sort keys of slices not ranked yet, smallest (so largest maximum) first. */
  readonly #sliceHeap: Float64Array;
  #sliceHeapLength = -1;
  readonly #sliceOrder: Int32Array;
  #numRanked = 0;
  readonly #topKeys: Float64Array;

  constructor(vocabSize: number, sliceSize: number) {
    if (vocabSize > INDEX_RANGE) {
      throw new InternalError(
        `vocabulary of ${vocabSize} tokens: at most ${INDEX_RANGE} are handled`,
      );
    }
    this.vocabSize = vocabSize;
    this.sliceSize = sliceSize;
    this.numSlices = Math.ceil(vocabSize / sliceSize);
    this.max = new Float64Array(this.numSlices);
    this.expSum = new Float64Array(this.numSlices);
    this.#rawMax = new Float64Array(this.numSlices);
    this.#rawExpSum = new Float64Array(this.numSlices);
    this.#isTouched = new Uint8Array(this.numSlices);
    this.#touchedSlices = new Int32Array(this.numSlices);
    this.#isStale = new Uint8Array(this.numSlices);
    this.#editedIds = new Int32Array(vocabSize);
    this.#rawLogits = new Float32Array(vocabSize);
    this.#sliceHeap = new Float64Array(this.numSlices);
    this.#sliceOrder = new Int32Array(this.numSlices);
    this.#topKeys = new Float64Array(vocabSize);
  }

  /**
   * Takes the next row.
   *
   * @param logits      f32 [vocabSize], not copied
   * @param sliceMax    f32 [numSlices], copied; `sliceExpSum` alike
   * @param inverseTemperature at which `sliceExpSum` was summed
   * @throws {SamplingError} if a maximum is NaN
   */
  load(
    logits: Float32Array,
    sliceMax: Float32Array,
    sliceExpSum: Float32Array,
    inverseTemperature = 1,
  ): void {
    this.logits = logits;
    this.inverseTemperature = inverseTemperature;
    this.#unmasked = null;
    for (let s = 0; s < this.numSlices; s++) {
      const max = sliceMax[s]!;
      if (Number.isNaN(max)) {
        throw new SamplingError(`the model gave NaN among logits ${this.#range(s)}`);
      }
      const expSum = max === Number.NEGATIVE_INFINITY ? 0 : sliceExpSum[s]!;
      this.max[s] = max;
      this.expSum[s] = expSum;
      this.#rawMax[s] = max;
      this.#rawExpSum[s] = expSum;
    }
    this.#numEdits = 0;
    this.#numTouchedSlices = 0;
    this.#isTouched.fill(0);
    this.#sliceHeapLength = -1;
  }

  /** First index past slice s. */
  sliceEnd(s: number): number {
    return Math.min((s + 1) * this.sliceSize, this.vocabSize);
  }

  #range(s: number): string {
    return `${s * this.sliceSize}..${this.sliceEnd(s) - 1}`;
  }

  /** Replaces one logit until `restore`. Call `settle` after the last one. */
  set(id: number, value: number): void {
    const old = this.logits[id]!;
    value = Math.fround(value);
    if (value === old) return;
    this.logits[id] = value;
    if (this.#numEdits === this.vocabSize)
      throw new InternalError('more edits than logits in a row');
    this.#editedIds[this.#numEdits] = id;
    this.#rawLogits[this.#numEdits] = old;
    this.#numEdits++;
    const s = Math.floor(id / this.sliceSize);
    if (this.#isTouched[s] === 0) {
      this.#isTouched[s] = 1;
      this.#isStale[s] = 0;
      this.#touchedSlices[this.#numTouchedSlices++] = s;
    }
    if (this.#isStale[s] === 1) return;
    const max = this.max[s]!;
    if (old === max && value < old) {
      this.#isStale[s] = 1;
      return;
    }
    const newMax = Math.max(max, value);
    const p = this.inverseTemperature;
    const kept = this.expSum[s]! === 0 ? 0 : this.expSum[s]! * weightExp((max - newMax) * p);
    const expSum = kept - weightExp((old - newMax) * p) + weightExp((value - newMax) * p);
    this.max[s] = newMax;
    this.expSum[s] = expSum;
    // Where most of the sum was taken away, what is left is rounding: sum again.
    if (!(expSum > 0.25 * this.#rawExpSum[s]!)) this.#isStale[s] = 1;
  }

  /** Brings the statistics of edited slices up to date. */
  settle(): void {
    for (let t = 0; t < this.#numTouchedSlices; t++) {
      const s = this.#touchedSlices[t]!;
      if (this.#isStale[s] === 1) this.#rescan(s);
      this.#isStale[s] = 0;
    }
    this.#sliceHeapLength = -1;
  }

  #rescan(s: number): void {
    const logits = this.logits;
    const end = this.sliceEnd(s);
    let max = Number.NEGATIVE_INFINITY;
    for (let i = s * this.sliceSize; i < end; i++) if (logits[i]! > max) max = logits[i]!;
    this.max[s] = max;
    this.expSum[s] =
      max === Number.NEGATIVE_INFINITY ? 0 : this.weightOfSlice(s, max, this.inverseTemperature);
  }

  /**
   * Leaves only some tokens in the row until `restore`: all others get -Infinity. To be called before any `set`.
   *
   * @param words    bit i is token i, i32 [ceil(vocabSize / 32)]
   * @param isGreedy sums of the slices are not wanted
   * @returns false if no token is left
   */
  mask(words: Int32Array, isGreedy: boolean): boolean {
    const from = this.logits;
    this.#masked ??= new Float32Array(this.vocabSize);
    this.#masked.set(from);
    this.#unmasked = from;
    this.logits = this.#masked;
    this.#sliceHeapLength = -1;
    let isAnyLeft = false;
    for (let s = 0; s < this.numSlices; s++) {
      const start = s * this.sliceSize;
      const end = this.sliceEnd(s);
      let numLeft = 0;
      for (let w = start >> 5; w << 5 < end; w++) {
        numLeft += bitCount(words[w]! & rangeBits(w, start, end));
      }
      if (numLeft > 0) isAnyLeft = true;
      if (numLeft === end - start) continue;
      if (2 * numLeft > end - start) this.#takeOut(s, words, from, isGreedy);
      else this.#leaveIn(s, words, from, isGreedy);
    }
    return isAnyLeft;
  }

  /** Masks a slice of which most is left: goes through what is not. */
  #takeOut(s: number, words: Int32Array, from: Float32Array, isGreedy: boolean): void {
    const start = s * this.sliceSize;
    const end = this.sliceEnd(s);
    const to = this.logits;
    const max = this.max[s]!;
    let isMaxGone = false;
    let gone = 0;
    for (let w = start >> 5; w << 5 < end; w++) {
      let bits = ~words[w]! & rangeBits(w, start, end);
      for (; bits !== 0; bits &= bits - 1) {
        const id = (w << 5) + lowestBit(bits);
        const logit = from[id]!;
        to[id] = Number.NEGATIVE_INFINITY;
        if (logit === max) isMaxGone = true;
        if (!isGreedy) gone += weightExp((logit - max) * this.inverseTemperature);
      }
    }
    const left = this.expSum[s]! - gone;
    // Where most of the sum is gone, what is left of it is rounding.
    if (isMaxGone || (!isGreedy && !(left > 0.25 * this.expSum[s]!))) this.#rescan(s);
    else this.expSum[s] = left;
  }

  /** Masks a slice of which little is left: goes through that. */
  #leaveIn(s: number, words: Int32Array, from: Float32Array, isGreedy: boolean): void {
    const start = s * this.sliceSize;
    const end = this.sliceEnd(s);
    const to = this.logits.fill(Number.NEGATIVE_INFINITY, start, end);
    let max = Number.NEGATIVE_INFINITY;
    for (let w = start >> 5; w << 5 < end; w++) {
      let bits = words[w]! & rangeBits(w, start, end);
      for (; bits !== 0; bits &= bits - 1) {
        const id = (w << 5) + lowestBit(bits);
        const logit = from[id]!;
        to[id] = logit;
        if (logit > max) max = logit;
      }
    }
    this.max[s] = max;
    this.expSum[s] = 0;
    if (isGreedy || max === Number.NEGATIVE_INFINITY) return;
    let sum = 0;
    for (let w = start >> 5; w << 5 < end; w++) {
      let bits = words[w]! & rangeBits(w, start, end);
      for (; bits !== 0; bits &= bits - 1) {
        const logit = to[(w << 5) + lowestBit(bits)]!;
        sum += weightExp((logit - max) * this.inverseTemperature);
      }
    }
    this.expSum[s] = sum;
  }

  /** Undoes `mask` and every `set` since `load`, statistics included. */
  restore(): void {
    if (this.#unmasked !== null) {
      this.logits = this.#unmasked;
      this.#unmasked = null;
      this.max.set(this.#rawMax);
      this.expSum.set(this.#rawExpSum);
      this.#isTouched.fill(0);
      this.#numEdits = 0;
      this.#numTouchedSlices = 0;
      this.#sliceHeapLength = -1;
      return;
    }
    if (this.#numEdits === 0) return;
    for (let e = this.#numEdits - 1; e >= 0; e--) {
      this.logits[this.#editedIds[e]!] = this.#rawLogits[e]!;
    }
    for (let t = 0; t < this.#numTouchedSlices; t++) {
      const s = this.#touchedSlices[t]!;
      this.max[s] = this.#rawMax[s]!;
      this.expSum[s] = this.#rawExpSum[s]!;
      this.#isTouched[s] = 0;
    }
    this.#numEdits = 0;
    this.#numTouchedSlices = 0;
    this.#sliceHeapLength = -1;
  }

  /** @throws {SamplingError} if no logit is finite, or one is infinitely large */
  largest(): number {
    let largest = Number.NEGATIVE_INFINITY;
    for (let s = 0; s < this.numSlices; s++) if (this.max[s]! > largest) largest = this.max[s]!;
    if (!Number.isFinite(largest)) {
      throw new SamplingError(`the largest of ${this.vocabSize} logits is ${largest}`);
    }
    return largest;
  }

  /** Index of the largest logit, the lowest where several are equal. */
  argmax(): number {
    const largest = this.largest();
    const s = this.max.indexOf(largest);
    const end = this.sliceEnd(s);
    for (let i = s * this.sliceSize; i < end; i++) if (this.logits[i] === largest) return i;
    throw new SamplingError(
      `no logit among ${this.#range(s)} equals their stated maximum ${largest}`,
    );
  }

  /** Natural logarithm of the sum of exp(logit): a logit less this is a log-probability. */
  logNormaliser(): number {
    const largest = this.largest();
    let sum = 0;
    for (let s = 0; s < this.numSlices; s++) {
      if (this.expSum[s]! === 0) continue;
      sum +=
        this.inverseTemperature === 1
          ? this.expSum[s]! * weightExp(this.max[s]! - largest)
          : this.weightOfSlice(s, largest, 1);
    }
    return largest + Math.log(sum);
  }

  /** Sum over slice s of exp((logit - origin) * inverseTemperature). */
  weightOfSlice(s: number, origin: number, inverseTemperature: number): number {
    const logits = this.logits;
    const end = this.sliceEnd(s);
    let sum = 0;
    for (let i = s * this.sliceSize; i < end; i++) {
      sum += weightExp((logits[i]! - origin) * inverseTemperature);
    }
    return sum;
  }

  /** The slice with the (rank + 1)-th largest maximum, the lower index first where several are equal. */
  rankedSlice(rank: number): number {
    if (this.#sliceHeapLength < 0) {
      for (let s = 0; s < this.numSlices; s++) this.#sliceHeap[s] = -sortKey(this.max[s]!, s);
      heapify(this.#sliceHeap, this.numSlices);
      this.#sliceHeapLength = this.numSlices;
      this.#numRanked = 0;
    }
    while (this.#numRanked <= rank) {
      this.#sliceOrder[this.#numRanked++] = indexOfKey(-this.#sliceHeap[0]!);
      this.#sliceHeapLength--;
      this.#sliceHeap[0] = this.#sliceHeap[this.#sliceHeapLength]!;
      siftDown(this.#sliceHeap, 0, this.#sliceHeapLength);
    }
    return this.#sliceOrder[rank]!;
  }

  /**
   * Finds the largest logits: the slices by falling maximum, until none can hold a better one.
   *
   * @param count    how many are wanted at most
   * @param minLogit smaller ones are left out
   * @returns how many were found; `topId` gives them, the largest first, equal ones by rising id, until the next call
   */
  selectTop(count: number, minLogit: number): number {
    const logits = this.logits;
    const keys = this.#topKeys;
    count = Math.min(count, this.vocabSize);
    let numFound = 0;
    // As many slices, so as many logits, reach the maximum of the count-th slice: nothing smaller can be among the wanted.
    const isCapped = count > 0 && count <= this.numSlices;
    let floor = isCapped ? Math.max(minLogit, this.max[this.rankedSlice(count - 1)]!) : minLogit;
    const firstFloor = floor;
    for (let rank = 0; rank < this.numSlices; rank++) {
      const s = this.rankedSlice(rank);
      const start = s * this.sliceSize;
      if (this.max[s]! < floor) break;
      if (numFound === count && sortKey(this.max[s]!, start) < keys[0]!) break;
      const end = this.sliceEnd(s);
      for (let i = start; i < end; i++) {
        const logit = logits[i]!;
        if (!(logit >= floor)) continue;
        const key = sortKey(logit, i);
        if (numFound < count) {
          keys[numFound++] = key;
          if (numFound < count) continue;
          heapify(keys, count);
        } else {
          if (key < keys[0]!) continue;
          keys[0] = key;
          siftDown(keys, 0, count);
        }
        floor = Math.max(firstFloor, logits[indexOfKey(keys[0]!)]!);
      }
    }
    if (numFound < count) heapify(keys, numFound);
    sortHeapDescending(keys, numFound);
    return numFound;
  }

  /** Token id of the (index + 1)-th largest logit found by `selectTop`. */
  topId(index: number): number {
    return indexOfKey(this.#topKeys[index]!);
  }
}
