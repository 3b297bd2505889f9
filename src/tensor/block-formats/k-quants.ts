/**
 * ggml's super-blocks of 256 with quantized scales: Q2_K Q3_K Q4_K Q5_K Q6_K. Layout of a block, in bytes:
 *
 *   q2_k  scales:16 (low nibble scale, high nibble min)  codes:64  d:2 dmin:2   value = d*scale*code - dmin*min   groups of 16
 *   q3_k  high:32  codes:64  scales:12 (6 bits)  d:2                            value = d*(scale-32)*(code - 4)   groups of 16
 *   q4_k  d:2 dmin:2  scales:12 (6 bits, scale and min)  nibbles:128            value = d*scale*code - dmin*min   groups of 32
 *   q5_k  d:2 dmin:2  scales:12  high:32  nibbles:128                           value = d*scale*code - dmin*min   groups of 32
 *   q6_k  low:128  high:64  scales:16 (i8)  d:2                                 value = d*scale*(code - 32)       groups of 16
 *
 * Each format is read by one `groups` function that finds scale and min of its groups and one loop over codes. Decoding computes in
 * f64 and rounds on the store; that is bit-exact with f32 arithmetic, see UnpackedRow.
 */
import { F16_TO_F32 } from '../half.ts';
import type { BlockFormat, UnpackedRow } from './block-format.ts';
import { K_QUANT_ENCODERS } from './k-quants-encode.ts';

const QK = 256;

/** Scales and mins (already signed, to be added) of the block in work; f64 so that nothing is rounded twice. */
const groupScale = new Float64Array(16);
const groupMin = new Float64Array(16);
/** Their integer factors. */
const scaleFactor = new Int8Array(16);
const minFactor = new Int8Array(16);

function f16BitsAt(bytes: Uint8Array, at: number): number {
  return bytes[at]! | (bytes[at + 1]! << 8);
}

function f16At(bytes: Uint8Array, at: number): number {
  return F16_TO_F32[f16BitsAt(bytes, at)]!;
}

function setGroup(g: number, d: number, scale: number): void {
  scaleFactor[g] = scale;
  groupScale[g] = d * scale;
}

function setMin(g: number, dmin: number, min: number): void {
  minFactor[g] = min;
  groupMin[g] = -(dmin * min);
}

function groupsQ2K(bytes: Uint8Array, p: number): void {
  const d = f16At(bytes, p + 80);
  const dmin = f16At(bytes, p + 82);
  for (let g = 0; g < 16; g++) {
    const s = bytes[p + g]!;
    setGroup(g, d, s & 15);
    setMin(g, dmin, s >> 4);
  }
}

function groupsQ3K(bytes: Uint8Array, p: number): void {
  const d = f16At(bytes, p + 108);
  const s = p + 96;
  for (let g = 0; g < 16; g++) {
    const low = g < 8 ? bytes[s + g]! & 15 : bytes[s + g - 8]! >> 4;
    const high = (bytes[s + 8 + (g & 3)]! >> (2 * (g >> 2))) & 3;
    setGroup(g, d, (low | (high << 4)) - 32);
  }
}

/** Q4_K and Q5_K: eight 6-bit scales and eight 6-bit mins in 12 bytes. */
function groupsQ4K(bytes: Uint8Array, p: number): void {
  const d = f16At(bytes, p);
  const dmin = f16At(bytes, p + 2);
  const s = p + 4;
  for (let g = 0; g < 4; g++) {
    const scale = bytes[s + g]!;
    const min = bytes[s + 4 + g]!;
    const both = bytes[s + 8 + g]!;
    setGroup(g, d, scale & 63);
    setMin(g, dmin, min & 63);
    setGroup(g + 4, d, (both & 15) | ((scale >> 2) & 48));
    setMin(g + 4, dmin, (both >> 4) | ((min >> 2) & 48));
  }
}

function groupsQ6K(bytes: Uint8Array, p: number): void {
  const d = f16At(bytes, p + 208);
  for (let g = 0; g < 16; g++) setGroup(g, d, (bytes[p + 192 + g]! << 24) >> 24);
}

// ---- decode: hot ----

function decodeQ2K(
  bytes: Uint8Array,
  byteOffset: number,
  out: Float32Array,
  outOffset: number,
  elements: number,
): void {
  let p = byteOffset;
  for (let o = outOffset; o < outOffset + elements; o += QK, p += 84) {
    groupsQ2K(bytes, p);
    for (let g = 0; g < 16; g++) {
      const scale = groupScale[g]!;
      const min = groupMin[g]!;
      // Group g: half of 128 = g >> 3, bit pair = (g >> 1) & 3, half of 32 bytes = g & 1.
      const q = p + 16 + (g >> 3) * 32 + (g & 1) * 16;
      const shift = g & 6;
      for (let j = 0; j < 16; j++) {
        out[o + g * 16 + j] = scale * ((bytes[q + j]! >> shift) & 3) + min;
      }
    }
  }
}

function decodeQ3K(
  bytes: Uint8Array,
  byteOffset: number,
  out: Float32Array,
  outOffset: number,
  elements: number,
): void {
  let p = byteOffset;
  for (let o = outOffset; o < outOffset + elements; o += QK, p += 110) {
    groupsQ3K(bytes, p);
    for (let g = 0; g < 16; g++) {
      const scale = groupScale[g]!;
      const h = p + (g & 1) * 16;
      const q = p + 32 + (g >> 3) * 32 + (g & 1) * 16;
      const shift = g & 6;
      const bit = g >> 1;
      for (let j = 0; j < 16; j++) {
        const code = ((bytes[q + j]! >> shift) & 3) | (((bytes[h + j]! >> bit) & 1) << 2);
        out[o + g * 16 + j] = scale * (code - 4);
      }
    }
  }
}

function decodeQ4K(
  bytes: Uint8Array,
  byteOffset: number,
  out: Float32Array,
  outOffset: number,
  elements: number,
): void {
  let p = byteOffset;
  for (let o = outOffset; o < outOffset + elements; o += QK, p += 144) {
    groupsQ4K(bytes, p);
    for (let g = 0; g < 8; g += 2) {
      const scale0 = groupScale[g]!;
      const min0 = groupMin[g]!;
      const scale1 = groupScale[g + 1]!;
      const min1 = groupMin[g + 1]!;
      const q = p + 16 + g * 16;
      const y = o + g * 32;
      for (let j = 0; j < 32; j++) {
        const b = bytes[q + j]!;
        out[y + j] = scale0 * (b & 15) + min0;
        out[y + 32 + j] = scale1 * (b >> 4) + min1;
      }
    }
  }
}

function decodeQ5K(
  bytes: Uint8Array,
  byteOffset: number,
  out: Float32Array,
  outOffset: number,
  elements: number,
): void {
  let p = byteOffset;
  for (let o = outOffset; o < outOffset + elements; o += QK, p += 176) {
    groupsQ4K(bytes, p);
    for (let g = 0; g < 8; g += 2) {
      const scale0 = groupScale[g]!;
      const min0 = groupMin[g]!;
      const scale1 = groupScale[g + 1]!;
      const min1 = groupMin[g + 1]!;
      const h = p + 16;
      const q = p + 48 + g * 16;
      const y = o + g * 32;
      for (let j = 0; j < 32; j++) {
        const b = bytes[q + j]!;
        const high = bytes[h + j]! >> g;
        out[y + j] = scale0 * ((b & 15) | ((high & 1) << 4)) + min0;
        out[y + 32 + j] = scale1 * ((b >> 4) | ((high & 2) << 3)) + min1;
      }
    }
  }
}

function decodeQ6K(
  bytes: Uint8Array,
  byteOffset: number,
  out: Float32Array,
  outOffset: number,
  elements: number,
): void {
  let p = byteOffset;
  for (let o = outOffset; o < outOffset + elements; o += QK, p += 210) {
    groupsQ6K(bytes, p);
    for (let half = 0; half < 2; half++) {
      for (let k = 0; k < 2; k++) {
        // 16 columns of the four quarters of 32 that share their high bits.
        const g = half * 8 + k;
        const scale0 = groupScale[g]!;
        const scale1 = groupScale[g + 2]!;
        const scale2 = groupScale[g + 4]!;
        const scale3 = groupScale[g + 6]!;
        const low = p + half * 64 + k * 16;
        const high = p + 128 + half * 32 + k * 16;
        const y = o + half * 128 + k * 16;
        for (let j = 0; j < 16; j++) {
          const a = bytes[low + j]!;
          const b = bytes[low + 32 + j]!;
          const h = bytes[high + j]!;
          out[y + j] = scale0 * (((a & 15) | ((h & 3) << 4)) - 32);
          out[y + 32 + j] = scale1 * (((b & 15) | ((h & 12) << 2)) - 32);
          out[y + 64 + j] = scale2 * (((a >> 4) | (h & 48)) - 32);
          out[y + 96 + j] = scale3 * (((b >> 4) | ((h & 192) >> 2)) - 32);
        }
      }
    }
  }
}

// ---- unpack to codes ----

/**
 * The groups in work, `count` of them, to super-block `index` of the row.
 * @param dAt    byte offset of d
 * @param dminAt byte offset of dmin; any where the format has none
 */
function storeGroups(
  out: UnpackedRow,
  index: number,
  count: number,
  bytes: Uint8Array,
  dAt: number,
  dminAt: number,
): void {
  const { scales, mins } = out;
  const factors = out.factors!;
  const first = index * count;
  factors.d[index] = f16BitsAt(bytes, dAt);
  for (let g = 0; g < count; g++) {
    scales[first + g] = groupScale[g]!;
    factors.scales[first + g] = scaleFactor[g]!;
  }
  if (mins === null) return;
  factors.negatedDmin![index] = f16BitsAt(bytes, dminAt) ^ 0x8000;
  for (let g = 0; g < count; g++) {
    mins[first + g] = groupMin[g]!;
    factors.mins![first + g] = minFactor[g]!;
  }
}

function unpackQ2K(
  bytes: Uint8Array,
  byteOffset: number,
  elements: number,
  out: UnpackedRow,
): void {
  const { codes } = out;
  let p = byteOffset;
  for (let o = 0; o < elements; o += QK, p += 84) {
    groupsQ2K(bytes, p);
    storeGroups(out, o / QK, 16, bytes, p + 80, p + 82);
    for (let i = 0; i < QK; i++) {
      codes[o + i] = (bytes[p + 16 + (i >> 7) * 32 + (i & 31)]! >> (2 * ((i >> 5) & 3))) & 3;
    }
  }
}

function unpackQ3K(
  bytes: Uint8Array,
  byteOffset: number,
  elements: number,
  out: UnpackedRow,
): void {
  const { codes } = out;
  let p = byteOffset;
  for (let o = 0; o < elements; o += QK, p += 110) {
    groupsQ3K(bytes, p);
    storeGroups(out, o / QK, 16, bytes, p + 108, p);
    for (let i = 0; i < QK; i++) {
      const low = (bytes[p + 32 + (i >> 7) * 32 + (i & 31)]! >> (2 * ((i >> 5) & 3))) & 3;
      codes[o + i] = low | (((bytes[p + (i & 31)]! >> (i >> 5)) & 1) << 2);
    }
  }
}

function unpackQ4K(
  bytes: Uint8Array,
  byteOffset: number,
  elements: number,
  out: UnpackedRow,
): void {
  const { codes } = out;
  let p = byteOffset;
  for (let o = 0; o < elements; o += QK, p += 144) {
    groupsQ4K(bytes, p);
    storeGroups(out, o / QK, 8, bytes, p, p + 2);
    for (let j = 0; j < 128; j++) {
      const b = bytes[p + 16 + j]!;
      const y = o + (j >> 5) * 64 + (j & 31);
      codes[y] = b & 15;
      codes[y + 32] = b >> 4;
    }
  }
}

function unpackQ5K(
  bytes: Uint8Array,
  byteOffset: number,
  elements: number,
  out: UnpackedRow,
): void {
  const { codes } = out;
  let p = byteOffset;
  for (let o = 0; o < elements; o += QK, p += 176) {
    groupsQ4K(bytes, p);
    storeGroups(out, o / QK, 8, bytes, p, p + 2);
    for (let j = 0; j < 128; j++) {
      const b = bytes[p + 48 + j]!;
      const high = bytes[p + 16 + (j & 31)]! >> (2 * (j >> 5));
      const y = o + (j >> 5) * 64 + (j & 31);
      codes[y] = (b & 15) | ((high & 1) << 4);
      codes[y + 32] = (b >> 4) | ((high & 2) << 3);
    }
  }
}

function unpackQ6K(
  bytes: Uint8Array,
  byteOffset: number,
  elements: number,
  out: UnpackedRow,
): void {
  const { codes } = out;
  let p = byteOffset;
  for (let o = 0; o < elements; o += QK, p += 210) {
    groupsQ6K(bytes, p);
    storeGroups(out, o / QK, 16, bytes, p + 208, p);
    for (let j = 0; j < 64; j++) {
      // j counts the bytes of high bits: two halves of 32.
      const a = bytes[p + (j >> 5) * 64 + (j & 31)]!;
      const b = bytes[p + (j >> 5) * 64 + 32 + (j & 31)]!;
      const h = bytes[p + 128 + j]!;
      const y = o + (j >> 5) * 128 + (j & 31);
      codes[y] = (a & 15) | ((h & 3) << 4);
      codes[y + 32] = (b & 15) | ((h & 12) << 2);
      codes[y + 64] = (a >> 4) | (h & 48);
      codes[y + 96] = (b >> 4) | ((h & 192) >> 2);
    }
  }
}

const access16 = { groupSize: 16, signed: false, hasFactors: true } as const;
const access32 = { groupSize: 32, signed: false, hasFactors: true } as const;

export const K_QUANT_FORMATS: readonly BlockFormat[] = [
  {
    dtype: 'q2_k',
    decode: decodeQ2K,
    codeAccess: { ...access16, zero: 0, hasMins: true, unpack: unpackQ2K },
    ...K_QUANT_ENCODERS.q2_k,
  },
  {
    dtype: 'q3_k',
    decode: decodeQ3K,
    codeAccess: { ...access16, zero: 4, hasMins: false, unpack: unpackQ3K },
    ...K_QUANT_ENCODERS.q3_k,
  },
  {
    dtype: 'q4_k',
    decode: decodeQ4K,
    codeAccess: { ...access32, zero: 0, hasMins: true, unpack: unpackQ4K },
    ...K_QUANT_ENCODERS.q4_k,
  },
  {
    dtype: 'q5_k',
    decode: decodeQ5K,
    codeAccess: { ...access32, zero: 0, hasMins: true, unpack: unpackQ5K },
    ...K_QUANT_ENCODERS.q5_k,
  },
  {
    dtype: 'q6_k',
    decode: decodeQ6K,
    codeAccess: { ...access16, zero: 32, hasMins: false, unpack: unpackQ6K },
    ...K_QUANT_ENCODERS.q6_k,
  },
];
