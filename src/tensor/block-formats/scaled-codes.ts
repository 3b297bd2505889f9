/**
 * Blocks of 32 with an f32 scale, which no file has: rows of bitsandbytes' code books and of other toolkits' 8-bit codes on their way to the kernels.
 * Layout of a block, in bytes:
 *
 *   nf4, fp4   absmax:4   nibbles:16      value = absmax * table[code]
 *   q8_f32     scale:4    codes:32 (i8)   value = scale * code
 *
 * Nibble byte j holds element 2j (high) and element 2j + 1 (low), as bitsandbytes has them. Values are the products in f32. Unpacked codes of nf4 and fp4
 * are the nearest of 8 bits.
 */
import { CODEBOOK_INT8, type CodebookName, codebookOf, NearestCode } from '../codebook.ts';
import type { BlockFormat, CodeAccess, EncodeBlocks } from './block-format.ts';

const QK = 32;
/** Bytes of a block of a code book. */
const TABLE_BLOCK = 20;
const Q8_BLOCK = 36;

const scratch = new DataView(new ArrayBuffer(4));

function f32At(bytes: Uint8Array, at: number): number {
  for (let i = 0; i < 4; i++) scratch.setUint8(i, bytes[at + i]!);
  return scratch.getFloat32(0, true);
}

/** Little-endian. */
export function putF32(value: number, into: Uint8Array, at: number): void {
  scratch.setFloat32(0, value, true);
  for (let i = 0; i < 4; i++) into[at + i] = scratch.getUint8(i);
}

function largestOf(values: Float32Array, start: number): number {
  let largest = 0;
  for (let i = start; i < start + QK; i++) largest = Math.max(largest, Math.abs(values[i]!));
  return largest;
}

function codebookFormat(dtype: CodebookName): BlockFormat {
  const table = codebookOf(dtype);
  const { values: table8, steps } = CODEBOOK_INT8[dtype];
  const unpack: CodeAccess['unpack'] = (bytes, byteOffset, elements, out) => {
    let p = byteOffset;
    for (let o = 0; o < elements; o += QK, p += TABLE_BLOCK) {
      out.scales[o / QK] = f32At(bytes, p) / steps;
      for (let j = 0; j < QK / 2; j++) {
        const b = bytes[p + 4 + j]!;
        out.codes[o + 2 * j] = table8[b >> 4]!;
        out.codes[o + 2 * j + 1] = table8[b & 15]!;
      }
    }
  };
  const nearest = new NearestCode(dtype);
  const encode: EncodeBlocks = (values, elements, into, byteOffset) => {
    let p = byteOffset;
    for (let o = 0; o < elements; o += QK, p += TABLE_BLOCK) {
      const absmax = largestOf(values, o);
      const inverse = absmax === 0 ? 0 : Math.fround(1 / absmax);
      putF32(absmax, into, p);
      for (let j = 0; j < QK / 2; j++) {
        const high = nearest.of(Math.fround(values[o + 2 * j]! * inverse));
        into[p + 4 + j] = (high << 4) | nearest.of(Math.fround(values[o + 2 * j + 1]! * inverse));
      }
    }
  };
  return {
    dtype,
    decode(bytes, byteOffset, out, outOffset, elements) {
      let p = byteOffset;
      for (let o = outOffset; o < outOffset + elements; o += QK, p += TABLE_BLOCK) {
        const absmax = f32At(bytes, p);
        for (let j = 0; j < QK / 2; j++) {
          const b = bytes[p + 4 + j]!;
          out[o + 2 * j] = absmax * table[b >> 4]!;
          out[o + 2 * j + 1] = absmax * table[b & 15]!;
        }
      }
    },
    codeAccess: { groupSize: 32, zero: 0, signed: true, hasMins: false, isRounded: true, unpack },
    encode,
  };
}

const Q8_F32: BlockFormat = {
  dtype: 'q8_f32',
  decode(bytes, byteOffset, out, outOffset, elements) {
    let p = byteOffset;
    for (let o = outOffset; o < outOffset + elements; o += QK, p += Q8_BLOCK) {
      const scale = f32At(bytes, p);
      for (let j = 0; j < QK; j++) out[o + j] = scale * ((bytes[p + 4 + j]! << 24) >> 24);
    }
  },
  codeAccess: {
    ...{ groupSize: 32, zero: 0, signed: true, hasMins: false },
    unpack(bytes, byteOffset, elements, out) {
      let p = byteOffset;
      for (let o = 0; o < elements; o += QK, p += Q8_BLOCK) {
        out.scales[o / QK] = f32At(bytes, p);
        for (let j = 0; j < QK; j++) out.codes[o + j] = bytes[p + 4 + j]!;
      }
    },
  },
  encode(values, elements, into, byteOffset) {
    let p = byteOffset;
    for (let o = 0; o < elements; o += QK, p += Q8_BLOCK) {
      const scale = Math.fround(largestOf(values, o) / 127);
      putF32(scale, into, p);
      for (let j = 0; j < QK; j++) {
        into[p + 4 + j] = scale === 0 ? 0 : Math.round(values[o + j]! / scale);
      }
    }
  },
};

export const SCALED_CODE_FORMATS: readonly BlockFormat[] = [
  codebookFormat('nf4'),
  codebookFormat('fp4'),
  Q8_F32,
];
