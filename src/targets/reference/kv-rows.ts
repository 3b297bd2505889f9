/**
 * Heads of keys or values in one of the formats of the KV cache, and the two things that attention does with one: a dot, and a weighted sum. Codes are read
 * as codes: nothing is kept decoded. Knows nothing of blocks; a row is one token of one head.
 */
import { KV_SCALE_BYTES, type KvElement } from '../../kernels/kv-layout.ts';
import { encodeKvHead, LARGEST_KV, type QuantizedKvType } from '../../tensor/kv-row.ts';

export interface KvRows {
  /** Whether rows are of rotated heads (tensor/kv-row.ts): the q of a dot is then rotated too, and sums are to be rotated back. */
  readonly isRotated: boolean;
  /** All memory of the rows, `bytesPerRow` arrays at a time. */
  readonly parts: readonly { readonly data: Uint8Array; readonly bytesPerRow: number }[];
  /** Row ← `headDim` values from an offset. */
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
  return (element === 'q8' ? headDim : headDim / 2) + KV_SCALE_BYTES;
}

export function createKvRows(element: KvElement, numRows: number, headDim: number): KvRows {
  return element === 'q8' || element === 'q4'
    ? new CodeRows(element, numRows, headDim)
    : new FloatRows(element, numRows, headDim);
}

class FloatRows implements KvRows {
  readonly isRotated = false;
  readonly parts: KvRows['parts'];
  readonly #values: Float32Array | Float16Array;
  readonly #headDim: number;
  readonly #largest: number;

  constructor(kvType: 'f16' | 'f32', numRows: number, headDim: number) {
    const length = numRows * headDim;
    this.#values = kvType === 'f32' ? new Float32Array(length) : new Float16Array(length);
    this.#headDim = headDim;
    this.#largest = kvType === 'f32' ? Number.POSITIVE_INFINITY : LARGEST_KV;
    this.parts = [{ data: bytesOf(this.#values), bytesPerRow: kvRowBytes(kvType, headDim) }];
  }

  store(row: number, source: Float32Array, offset: number): void {
    const to = row * this.#headDim;
    for (let i = 0; i < this.#headDim; i++) {
      const value = source[offset + i]!;
      this.#values[to + i] = Math.max(-this.#largest, Math.min(this.#largest, value));
    }
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
      { data: bytesOf(this.#codes), bytesPerRow: this.#bytesPerRow },
      { data: bytesOf(this.#scales), bytesPerRow: KV_SCALE_BYTES },
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

function bytesOf(view: ArrayBufferView): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}
