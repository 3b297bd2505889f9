/**
 * Heads of keys or values in one of the formats of the KV cache, and the two things that attention does with one: a dot, and a weighted sum. Codes are read
 * as codes: nothing is kept decoded. Knows nothing of blocks; a row is one token of one head, and some formats are written in groups of rows.
 */
import {
  type FloatKvType,
  hasTokenScales,
  KV_GROUP_TOKENS,
  KV_SCALE_BYTES,
  type KvElement,
} from '../../kernels/kv-layout.ts';
import { viewBytes } from '../../platform/view-bytes.ts';
import {
  encodeKvChannel,
  encodeKvHead,
  LARGEST_KV,
  type QuantizedKvType,
} from '../../tensor/kv-row.ts';

export interface KvRows {
  /** Whether rows are of rotated heads (tensor/kv-row.ts): the q of a dot is then rotated too, and sums are to be rotated back. */
  readonly isRotated: boolean;
  /** All memory of the rows, `bytesPerRow` arrays at a time. */
  readonly parts: readonly { readonly data: Uint8Array; readonly bytesPerRow: number }[];
  /** Rows that are written at a time. */
  readonly rowsPerStore: number;
  /** `rowsPerStore` rows, from `row` on, ← as many times `headDim` values from an offset. */
  store(row: number, source: Float32Array, offset: number): void;
  /** q · row, in f64. */
  dot(row: number, q: ArrayLike<number>, offset: number): number;
  /** out ← out + weight * row */
  addTo(row: number, weight: number, out: Float32Array, offset: number): void;
}

/** Bytes of a row. */
export function kvRowBytes(element: KvElement, headDim: number): number {
  if (element === 'f32') return 4 * headDim;
  if (element === 'f16') return 2 * headDim;
  if (element === 'c4') return headDim / 2 + (2 * KV_SCALE_BYTES * headDim) / KV_GROUP_TOKENS;
  return (element === 'q8' ? headDim : headDim / 2) + KV_SCALE_BYTES;
}

export function createKvRows(element: KvElement, numRows: number, headDim: number): KvRows {
  if (element === 'c4') return new ChannelRows(numRows, headDim);
  return hasTokenScales(element)
    ? new CodeRows(element, numRows, headDim)
    : new FloatRows(element, numRows, headDim);
}

export class FloatRows implements KvRows {
  readonly isRotated = false;
  readonly rowsPerStore = 1;
  readonly parts: KvRows['parts'];
  readonly #values: Float32Array | Float16Array;
  readonly #headDim: number;
  readonly #largest: number;

  constructor(kvType: FloatKvType, numRows: number, headDim: number) {
    const length = numRows * headDim;
    this.#values = kvType === 'f32' ? new Float32Array(length) : new Float16Array(length);
    this.#headDim = headDim;
    this.#largest = kvType === 'f32' ? Number.POSITIVE_INFINITY : LARGEST_KV;
    this.parts = [{ data: viewBytes(this.#values), bytesPerRow: kvRowBytes(kvType, headDim) }];
  }

  store(row: number, source: Float32Array, offset: number): void {
    const to = row * this.#headDim;
    for (let i = 0; i < this.#headDim; i++) {
      const value = source[offset + i]!;
      this.#values[to + i] = Math.max(-this.#largest, Math.min(this.#largest, value));
    }
  }

  read(row: number, into: Float32Array, offset: number): void {
    const from = row * this.#headDim;
    into.set(this.#values.subarray(from, from + this.#headDim), offset);
  }

  dot(row: number, q: ArrayLike<number>, offset: number): number {
    const from = row * this.#headDim;
    let sum = 0;
    for (let i = 0; i < this.#headDim; i++) sum += q[offset + i]! * this.#values[from + i]!;
    return sum;
  }

  addTo(row: number, weight: number, out: Float32Array, offset: number): void {
    const from = row * this.#headDim;
    for (let i = 0; i < this.#headDim; i++) {
      out[offset + i] = out[offset + i]! + weight * this.#values[from + i]!;
    }
  }
}

/** q8: a byte per code. q4: dimension 2i in the low half of byte i, 2i + 1 in the high half. */
class CodeRows implements KvRows {
  readonly isRotated = true;
  readonly rowsPerStore = 1;
  readonly parts: KvRows['parts'];
  readonly #type: QuantizedKvType;
  readonly #headDim: number;
  readonly #codes: Int8Array;
  readonly #scales: Float16Array;
  readonly #bytesPerRow: number;
  readonly #head: Float32Array;
  readonly #headCodes: Int8Array;

  constructor(type: QuantizedKvType, numRows: number, headDim: number) {
    this.#type = type;
    this.#headDim = headDim;
    this.#bytesPerRow = type === 'q8' ? headDim : headDim / 2;
    this.#codes = new Int8Array(numRows * this.#bytesPerRow);
    this.#scales = new Float16Array(numRows);
    this.#head = new Float32Array(headDim);
    this.#headCodes = new Int8Array(headDim);
    this.parts = [
      { data: viewBytes(this.#codes), bytesPerRow: this.#bytesPerRow },
      { data: viewBytes(this.#scales), bytesPerRow: KV_SCALE_BYTES },
    ];
  }

  store(row: number, source: Float32Array, offset: number): void {
    this.#head.set(source.subarray(offset, offset + this.#headDim));
    this.#scales[row] = encodeKvHead(this.#type, this.#head, this.#headCodes);
    const to = row * this.#bytesPerRow;
    if (this.#type === 'q8') {
      this.#codes.set(this.#headCodes, to);
      return;
    }
    for (let i = 0; i < this.#bytesPerRow; i++) {
      this.#codes[to + i] = (this.#headCodes[2 * i]! & 15) | (this.#headCodes[2 * i + 1]! << 4);
    }
  }

  #code(from: number, i: number): number {
    if (this.#type === 'q8') return this.#codes[from + i]!;
    const byte = this.#codes[from + (i >> 1)]!;
    return i % 2 === 0 ? (byte << 28) >> 28 : byte >> 4;
  }

  dot(row: number, q: ArrayLike<number>, offset: number): number {
    const from = row * this.#bytesPerRow;
    let sum = 0;
    for (let i = 0; i < this.#headDim; i++) sum += q[offset + i]! * this.#code(from, i);
    return sum * this.#scales[row]!;
  }

  addTo(row: number, weight: number, out: Float32Array, offset: number): void {
    const from = row * this.#bytesPerRow;
    const factor = weight * this.#scales[row]!;
    for (let i = 0; i < this.#headDim; i++) {
      out[offset + i] = out[offset + i]! + factor * this.#code(from, i);
    }
  }
}

/** Codes of groups of 32 rows with a scale and a minimum for each of `headDim` channels; dimension i of a row in byte i >> 1, as q4. */
class ChannelRows implements KvRows {
  readonly isRotated = false;
  readonly rowsPerStore = KV_GROUP_TOKENS;
  readonly parts: KvRows['parts'];
  readonly #headDim: number;
  readonly #codes: Uint8Array;
  /** [groups, headDim] each */
  readonly #scales: Float16Array;
  readonly #minima: Float16Array;

  constructor(numRows: number, headDim: number) {
    this.#headDim = headDim;
    const numChannels = (numRows / KV_GROUP_TOKENS) * headDim;
    this.#codes = new Uint8Array((numRows * headDim) / 2);
    this.#scales = new Float16Array(numChannels);
    this.#minima = new Float16Array(numChannels);
    const bytesPerRow = (KV_SCALE_BYTES * headDim) / KV_GROUP_TOKENS;
    this.parts = [
      { data: this.#codes, bytesPerRow: headDim / 2 },
      { data: viewBytes(this.#scales), bytesPerRow },
      { data: viewBytes(this.#minima), bytesPerRow },
    ];
  }

  store(row: number, source: Float32Array, offset: number): void {
    const headDim = this.#headDim;
    const channel = new Float32Array(KV_GROUP_TOKENS);
    const codes = new Uint8Array(KV_GROUP_TOKENS);
    for (let i = 0; i < headDim; i++) {
      for (let t = 0; t < KV_GROUP_TOKENS; t++) channel[t] = source[offset + t * headDim + i]!;
      const { scale, minimum } = encodeKvChannel(channel, codes);
      this.#scales[this.#channelAt(row) + i] = scale;
      this.#minima[this.#channelAt(row) + i] = minimum;
      for (let t = 0; t < KV_GROUP_TOKENS; t++) {
        const at = ((row + t) * headDim + i) >> 1;
        const [kept, shift] = i % 2 === 0 ? [0xf0, 0] : [0x0f, 4];
        this.#codes[at] = (this.#codes[at]! & kept) | (codes[t]! << shift);
      }
    }
  }

  #channelAt(row: number): number {
    return Math.floor(row / KV_GROUP_TOKENS) * this.#headDim;
  }

  #value(row: number, i: number): number {
    const byte = this.#codes[(row * this.#headDim + i) >> 1]!;
    const channel = this.#channelAt(row) + i;
    const code = i % 2 === 0 ? byte & 15 : byte >> 4;
    return this.#minima[channel]! + this.#scales[channel]! * code;
  }

  dot(row: number, q: ArrayLike<number>, offset: number): number {
    let sum = 0;
    for (let i = 0; i < this.#headDim; i++) sum += q[offset + i]! * this.#value(row, i);
    return sum;
  }

  addTo(row: number, weight: number, out: Float32Array, offset: number): void {
    for (let i = 0; i < this.#headDim; i++) {
      out[offset + i] = out[offset + i]! + weight * this.#value(row, i);
    }
  }
}
