/**
 * ggml's 4-bit formats with a fixed non-linear table of 16 values: IQ4_NL and IQ4_XS. Layout of a block, in bytes:
 *
 *   iq4_nl  32 elements    d:2  nibbles:16                                  value = d * table[code]
 *   iq4_xs  256 elements   d:2  scalesHigh:2  scalesLow:4  nibbles:128      value = d * (scale - 32) * table[code], groups of 32
 *
 * Within a group of 32, byte j holds element j (low nibble) and element j + 16 (high). Unpacked codes are the table's values.
 */
import { F16_TO_F32 } from '../half.ts';
import type { BlockFormat, UnpackedRow } from './block-format.ts';
import { encodeIq4Nl, encodeIq4Xs } from './iq4-encode.ts';
import { IQ4_TABLE } from './iq4-table.ts';

/** Scale of group g without d: -32..31. */
function scaleFactorXs(bytes: Uint8Array, p: number, g: number): number {
  const high = bytes[p + 2]! | (bytes[p + 3]! << 8);
  const low = (bytes[p + 4 + (g >> 1)]! >> (4 * (g & 1))) & 15;
  return (low | (((high >> (2 * g)) & 3) << 4)) - 32;
}

function scaleOfGroupXs(bytes: Uint8Array, p: number, g: number): number {
  return F16_TO_F32[bytes[p]! | (bytes[p + 1]! << 8)]! * scaleFactorXs(bytes, p, g);
}

function decodeGroup(
  bytes: Uint8Array,
  q: number,
  scale: number,
  out: Float32Array,
  o: number,
): void {
  for (let j = 0; j < 16; j++) {
    const b = bytes[q + j]!;
    out[o + j] = scale * IQ4_TABLE[b & 15]!;
    out[o + j + 16] = scale * IQ4_TABLE[b >> 4]!;
  }
}

function unpackGroup(bytes: Uint8Array, q: number, codes: Uint8Array | Int8Array, o: number): void {
  for (let j = 0; j < 16; j++) {
    const b = bytes[q + j]!;
    codes[o + j] = IQ4_TABLE[b & 15]!;
    codes[o + j + 16] = IQ4_TABLE[b >> 4]!;
  }
}

function decodeNl(
  bytes: Uint8Array,
  byteOffset: number,
  out: Float32Array,
  outOffset: number,
  elements: number,
): void {
  let p = byteOffset;
  for (let o = outOffset; o < outOffset + elements; o += 32, p += 18) {
    decodeGroup(bytes, p + 2, F16_TO_F32[bytes[p]! | (bytes[p + 1]! << 8)]!, out, o);
  }
}

function decodeXs(
  bytes: Uint8Array,
  byteOffset: number,
  out: Float32Array,
  outOffset: number,
  elements: number,
): void {
  let p = byteOffset;
  for (let o = outOffset; o < outOffset + elements; o += 256, p += 136) {
    for (let g = 0; g < 8; g++) {
      decodeGroup(bytes, p + 8 + g * 16, scaleOfGroupXs(bytes, p, g), out, o + g * 32);
    }
  }
}

function unpackNl(bytes: Uint8Array, byteOffset: number, elements: number, out: UnpackedRow): void {
  let p = byteOffset;
  for (let o = 0, g = 0; o < elements; o += 32, g++, p += 18) {
    out.scales[g] = F16_TO_F32[bytes[p]! | (bytes[p + 1]! << 8)]!;
    unpackGroup(bytes, p + 2, out.codes, o);
  }
}

function unpackXs(bytes: Uint8Array, byteOffset: number, elements: number, out: UnpackedRow): void {
  let p = byteOffset;
  const { d, scales } = out.factors!;
  for (let o = 0; o < elements; o += 256, p += 136) {
    d[o / 256] = bytes[p]! | (bytes[p + 1]! << 8);
    for (let g = 0; g < 8; g++) {
      scales[o / 32 + g] = scaleFactorXs(bytes, p, g);
      out.scales[o / 32 + g] = scaleOfGroupXs(bytes, p, g);
      unpackGroup(bytes, p + 8 + g * 16, out.codes, o + g * 32);
    }
  }
}

const access = { groupSize: 32, zero: 0, signed: true, hasMins: false } as const;

export const IQ4_FORMATS: readonly BlockFormat[] = [
  {
    dtype: 'iq4_nl',
    decode: decodeNl,
    codeAccess: { ...access, unpack: unpackNl },
    encode: (values, elements, into, at) => encodeIq4Nl(values, elements, into, at, null),
    encodeWeighted: encodeIq4Nl,
  },
  {
    dtype: 'iq4_xs',
    decode: decodeXs,
    codeAccess: { ...access, hasFactors: true, unpack: unpackXs },
    encode: (values, elements, into, at) => encodeIq4Xs(values, elements, into, at, null),
    encodeWeighted: encodeIq4Xs,
  },
];
