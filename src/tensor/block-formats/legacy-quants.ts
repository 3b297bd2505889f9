/**
 * ggml's blocks of 32 with one f16 scale: Q4_0 Q4_1 Q5_0 Q5_1 Q8_0. Layout of a block, in bytes:
 *
 *   q4_0  d:2              nibbles:16      value = d * (code - 8)
 *   q4_1  d:2 m:2          nibbles:16      value = d * code + m
 *   q5_0  d:2     high:4   nibbles:16      value = d * (code - 16)
 *   q5_1  d:2 m:2 high:4   nibbles:16      value = d * code + m
 *   q8_0  d:2              codes:32 (i8)   value = d * code
 *
 * Nibble byte j holds element j (low) and element j + 16 (high); bit i of `high` (u32, little-endian) is the fifth bit of element i.
 * Decoding computes in f64 and rounds on the store; that is bit-exact with f32 arithmetic, see UnpackedRow.
 */
import { F16_TO_F32, f16Bits } from '../half.ts';
import type { BlockFormat, EncodeWeighted, UnpackedRow } from './block-format.ts';
import { affineFit, fitAffine, fitSymmetric, WEIGHTED_SEARCH } from './scale-search.ts';

const QK = 32;

/** A format of 4 or 5 bits per code: where its parts lie in the block. */
interface NibbleLayout {
  readonly blockBytes: number;
  /** Byte offset of the fifth bits, or 0 where there are none. */
  readonly highAt: number;
  readonly nibblesAt: number;
}

const Q4_0: NibbleLayout = { blockBytes: 18, highAt: 0, nibblesAt: 2 };
const Q4_1: NibbleLayout = { blockBytes: 20, highAt: 0, nibblesAt: 4 };
const Q5_0: NibbleLayout = { blockBytes: 22, highAt: 2, nibblesAt: 6 };
const Q5_1: NibbleLayout = { blockBytes: 24, highAt: 4, nibblesAt: 8 };

// ---- decode: one plain loop per format, hot ----

function decodeQ4_0(
  bytes: Uint8Array,
  byteOffset: number,
  out: Float32Array,
  outOffset: number,
  elements: number,
): void {
  let p = byteOffset;
  for (let o = outOffset; o < outOffset + elements; o += QK, p += 18) {
    const d = F16_TO_F32[bytes[p]! | (bytes[p + 1]! << 8)]!;
    for (let j = 0; j < 16; j++) {
      const b = bytes[p + 2 + j]!;
      out[o + j] = d * ((b & 15) - 8);
      out[o + j + 16] = d * ((b >> 4) - 8);
    }
  }
}

function decodeQ4_1(
  bytes: Uint8Array,
  byteOffset: number,
  out: Float32Array,
  outOffset: number,
  elements: number,
): void {
  let p = byteOffset;
  for (let o = outOffset; o < outOffset + elements; o += QK, p += 20) {
    const d = F16_TO_F32[bytes[p]! | (bytes[p + 1]! << 8)]!;
    const m = F16_TO_F32[bytes[p + 2]! | (bytes[p + 3]! << 8)]!;
    for (let j = 0; j < 16; j++) {
      const b = bytes[p + 4 + j]!;
      out[o + j] = d * (b & 15) + m;
      out[o + j + 16] = d * (b >> 4) + m;
    }
  }
}

function decodeQ5_0(
  bytes: Uint8Array,
  byteOffset: number,
  out: Float32Array,
  outOffset: number,
  elements: number,
): void {
  let p = byteOffset;
  for (let o = outOffset; o < outOffset + elements; o += QK, p += 22) {
    const d = F16_TO_F32[bytes[p]! | (bytes[p + 1]! << 8)]!;
    const low = bytes[p + 2]! | (bytes[p + 3]! << 8);
    const high = bytes[p + 4]! | (bytes[p + 5]! << 8);
    for (let j = 0; j < 16; j++) {
      const b = bytes[p + 6 + j]!;
      out[o + j] = d * (((b & 15) | (((low >> j) & 1) << 4)) - 16);
      out[o + j + 16] = d * (((b >> 4) | (((high >> j) & 1) << 4)) - 16);
    }
  }
}

function decodeQ5_1(
  bytes: Uint8Array,
  byteOffset: number,
  out: Float32Array,
  outOffset: number,
  elements: number,
): void {
  let p = byteOffset;
  for (let o = outOffset; o < outOffset + elements; o += QK, p += 24) {
    const d = F16_TO_F32[bytes[p]! | (bytes[p + 1]! << 8)]!;
    const m = F16_TO_F32[bytes[p + 2]! | (bytes[p + 3]! << 8)]!;
    const low = bytes[p + 4]! | (bytes[p + 5]! << 8);
    const high = bytes[p + 6]! | (bytes[p + 7]! << 8);
    for (let j = 0; j < 16; j++) {
      const b = bytes[p + 8 + j]!;
      out[o + j] = d * ((b & 15) | (((low >> j) & 1) << 4)) + m;
      out[o + j + 16] = d * ((b >> 4) | (((high >> j) & 1) << 4)) + m;
    }
  }
}

function decodeQ8_0(
  bytes: Uint8Array,
  byteOffset: number,
  out: Float32Array,
  outOffset: number,
  elements: number,
): void {
  let p = byteOffset;
  for (let o = outOffset; o < outOffset + elements; o += QK, p += 34) {
    const d = F16_TO_F32[bytes[p]! | (bytes[p + 1]! << 8)]!;
    for (let j = 0; j < QK; j++) out[o + j] = d * ((bytes[p + 2 + j]! << 24) >> 24);
  }
}

// ---- unpack to codes ----

function unpackNibbles(layout: NibbleLayout, hasMins: boolean) {
  const { blockBytes, highAt, nibblesAt } = layout;
  return (bytes: Uint8Array, byteOffset: number, elements: number, out: UnpackedRow): void => {
    const { codes, scales, mins } = out;
    let p = byteOffset;
    for (let o = 0, g = 0; o < elements; o += QK, g++, p += blockBytes) {
      scales[g] = F16_TO_F32[bytes[p]! | (bytes[p + 1]! << 8)]!;
      if (hasMins) mins![g] = F16_TO_F32[bytes[p + 2]! | (bytes[p + 3]! << 8)]!;
      let low = 0;
      let high = 0;
      if (highAt !== 0) {
        low = bytes[p + highAt]! | (bytes[p + highAt + 1]! << 8);
        high = bytes[p + highAt + 2]! | (bytes[p + highAt + 3]! << 8);
      }
      for (let j = 0; j < 16; j++) {
        const b = bytes[p + nibblesAt + j]!;
        codes[o + j] = (b & 15) | (((low >> j) & 1) << 4);
        codes[o + j + 16] = (b >> 4) | (((high >> j) & 1) << 4);
      }
    }
  };
}

function unpackQ8_0(
  bytes: Uint8Array,
  byteOffset: number,
  elements: number,
  out: UnpackedRow,
): void {
  const { codes, scales } = out;
  let p = byteOffset;
  for (let o = 0, g = 0; o < elements; o += QK, g++, p += 34) {
    scales[g] = F16_TO_F32[bytes[p]! | (bytes[p + 1]! << 8)]!;
    for (let j = 0; j < QK; j++) codes[o + j] = (bytes[p + 2 + j]! << 24) >> 24;
  }
}

// ---- encode: ggml's reference rounding, every step in f32 ----

const fround = Math.fround;
const codeScratch = new Uint8Array(QK);

function storeF16(into: Uint8Array, at: number, value: number): void {
  const bits = f16Bits(value);
  into[at] = bits & 255;
  into[at + 1] = bits >> 8;
}

function storeCodes(layout: NibbleLayout, into: Uint8Array, at: number): void {
  const c = codeScratch;
  for (let j = 0; j < 16; j++) {
    into[at + layout.nibblesAt + j] = (c[j]! & 15) | ((c[j + 16]! & 15) << 4);
  }
  if (layout.highAt === 0) return;
  for (let k = 0; k < 4; k++) {
    let bits = 0;
    for (let i = 0; i < 8; i++) bits |= (c[k * 8 + i]! >> 4) << i;
    into[at + layout.highAt + k] = bits;
  }
}

/** The truncated value within 0..limit; a NaN (from an infinite or NaN input) becomes 0. */
function clampCode(value: number, limit: number): number {
  return value >= limit ? limit : value > 0 ? Math.trunc(value) : 0;
}

/** Q4_0 and Q5_0: the element of largest magnitude, with its sign, becomes code 0. */
function encodeSymmetric(layout: NibbleLayout, zero: number) {
  return (values: Float32Array, elements: number, into: Uint8Array, byteOffset: number): void => {
    let at = byteOffset;
    for (let o = 0; o < elements; o += QK, at += layout.blockBytes) {
      let largest = 0;
      let signed = 0;
      for (let j = 0; j < QK; j++) {
        const v = values[o + j]!;
        if (Math.abs(v) > largest) {
          largest = Math.abs(v);
          signed = v;
        }
      }
      const d = fround(signed / -zero);
      const inverse = d === 0 ? 0 : fround(1 / d);
      for (let j = 0; j < QK; j++) {
        const scaled = fround(fround(values[o + j]! * inverse) + (zero + 0.5));
        codeScratch[j] = clampCode(scaled, 2 * zero - 1);
      }
      storeF16(into, at, d);
      storeCodes(layout, into, at);
    }
  };
}

/** Q4_1 and Q5_1: the range from the smallest to the largest element in `levels` steps. */
function encodeAffine(layout: NibbleLayout, levels: number) {
  return (values: Float32Array, elements: number, into: Uint8Array, byteOffset: number): void => {
    let at = byteOffset;
    for (let o = 0; o < elements; o += QK, at += layout.blockBytes) {
      let min = values[o]!;
      let max = min;
      for (let j = 1; j < QK; j++) {
        const v = values[o + j]!;
        if (v < min) min = v;
        if (v > max) max = v;
      }
      const d = fround(fround(max - min) / levels);
      const inverse = d === 0 ? 0 : fround(1 / d);
      for (let j = 0; j < QK; j++) {
        const scaled = fround(fround(fround(values[o + j]! - min) * inverse) + 0.5);
        codeScratch[j] = clampCode(scaled, levels);
      }
      storeF16(into, at, d);
      storeF16(into, at + 2, min);
      storeCodes(layout, into, at);
    }
  };
}

const groupScratch = new Float32Array(QK);
const weightScratch = new Float32Array(QK);

/** With an importance: the scale (and min) of least weighted error instead of the plain range. `levels` is the zero code, or the largest with a min. */
function encodeByImportance(layout: NibbleLayout, levels: number, hasMin: boolean): EncodeWeighted {
  return (values, elements, into, byteOffset, importance) => {
    let sum = 0;
    for (let i = 0; i < elements; i++) sum = fround(sum + fround(values[i]! * values[i]!));
    const sigma2 = fround(sum / elements);
    let at = byteOffset;
    for (let o = 0; o < elements; o += QK, at += layout.blockBytes) {
      for (let i = 0; i < QK; i++) {
        const v = values[o + i]!;
        groupScratch[i] = v;
        const root = fround(Math.sqrt(fround(sigma2 + fround(v * v))));
        weightScratch[i] = fround((importance === null ? 1 : importance[o + i]!) * root);
      }
      if (hasMin) {
        const d = fitAffine(QK, levels, groupScratch, weightScratch, codeScratch, WEIGHTED_SEARCH);
        storeF16(into, at, d);
        storeF16(into, at + 2, -affineFit.min);
      } else {
        storeF16(into, at, fitSymmetric(QK, levels, groupScratch, codeScratch, weightScratch));
      }
      storeCodes(layout, into, at);
    }
  };
}

function encodeQ8_0(
  values: Float32Array,
  elements: number,
  into: Uint8Array,
  byteOffset: number,
): void {
  let at = byteOffset;
  for (let o = 0; o < elements; o += QK, at += 34) {
    let largest = 0;
    for (let j = 0; j < QK; j++) largest = Math.max(largest, Math.abs(values[o + j]!));
    const d = fround(largest / 127);
    const inverse = d === 0 ? 0 : fround(1 / d);
    for (let j = 0; j < QK; j++) {
      // Rounded half away from zero, as C's roundf; the store wraps modulo 256.
      const scaled = fround(values[o + j]! * inverse);
      into[at + 2 + j] = scaled < 0 ? -Math.floor(0.5 - scaled) : Math.floor(scaled + 0.5);
    }
    storeF16(into, at, d);
  }
}

const access = { groupSize: 32, signed: false } as const;

export const LEGACY_QUANT_FORMATS: readonly BlockFormat[] = [
  {
    dtype: 'q4_0',
    decode: decodeQ4_0,
    codeAccess: { ...access, zero: 8, hasMins: false, unpack: unpackNibbles(Q4_0, false) },
    encode: encodeSymmetric(Q4_0, 8),
    encodeWeighted: encodeByImportance(Q4_0, 8, false),
  },
  {
    dtype: 'q4_1',
    decode: decodeQ4_1,
    codeAccess: { ...access, zero: 0, hasMins: true, unpack: unpackNibbles(Q4_1, true) },
    encode: encodeAffine(Q4_1, 15),
    encodeWeighted: encodeByImportance(Q4_1, 15, true),
  },
  {
    dtype: 'q5_0',
    decode: decodeQ5_0,
    codeAccess: { ...access, zero: 16, hasMins: false, unpack: unpackNibbles(Q5_0, false) },
    encode: encodeSymmetric(Q5_0, 16),
    encodeWeighted: encodeByImportance(Q5_0, 16, false),
  },
  {
    dtype: 'q5_1',
    decode: decodeQ5_1,
    codeAccess: { ...access, zero: 0, hasMins: true, unpack: unpackNibbles(Q5_1, true) },
    encode: encodeAffine(Q5_1, 31),
    encodeWeighted: encodeByImportance(Q5_1, 31, true),
  },
  {
    dtype: 'q8_0',
    decode: decodeQ8_0,
    codeAccess: { ...access, zero: 0, signed: true, hasMins: false, unpack: unpackQ8_0 },
    encode: encodeQ8_0,
  },
];
