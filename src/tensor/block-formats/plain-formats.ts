/**
 * Elements stored one by one: floats, integers, booleans, little-endian. Rows need not be aligned in their buffer.
 */
import type { DType } from '../dtype.ts';
import { bf16BitsOfF32Bits, F16_TO_F32 } from '../half.ts';
import type { BlockFormat, DecodeBlocks, EncodeBlocks } from './block-format.ts';

type NumberView = { readonly [index: number]: number; readonly length: number };

/** The bytes as elements of `width` bytes: a view where they are aligned, else through a copy. */
function alignedBuffer(
  bytes: Uint8Array,
  byteOffset: number,
  byteLength: number,
  width: number,
): { buffer: ArrayBufferLike; offset: number } {
  const offset = bytes.byteOffset + byteOffset;
  if (offset % width === 0) return { buffer: bytes.buffer, offset };
  return { buffer: bytes.slice(byteOffset, byteOffset + byteLength).buffer, offset: 0 };
}

/** Every number of the row, rounded to f32 by the store. */
function decodeThrough(
  width: number,
  view: (buffer: ArrayBufferLike, offset: number, length: number) => NumberView,
): DecodeBlocks {
  return (bytes, byteOffset, out, outOffset, elements) => {
    const source = alignedBuffer(bytes, byteOffset, elements * width, width);
    const values = view(source.buffer, source.offset, elements);
    for (let i = 0; i < elements; i++) out[outOffset + i] = values[i]!;
  };
}

function decodeThroughBigInt(
  view: (buffer: ArrayBufferLike, offset: number, length: number) => BigInt64Array | BigUint64Array,
): DecodeBlocks {
  return (bytes, byteOffset, out, outOffset, elements) => {
    const source = alignedBuffer(bytes, byteOffset, elements * 8, 8);
    const values = view(source.buffer, source.offset, elements);
    for (let i = 0; i < elements; i++) out[outOffset + i] = Number(values[i]!);
  };
}

/** f32 is copied as bytes, so that the payload of a NaN survives. */
function copyF32(
  bytes: Uint8Array,
  byteOffset: number,
  out: Float32Array,
  outOffset: number,
  elements: number,
): void {
  new Uint8Array(out.buffer, out.byteOffset + outOffset * 4, elements * 4).set(
    bytes.subarray(byteOffset, byteOffset + elements * 4),
  );
}

function decodeF16(
  bytes: Uint8Array,
  byteOffset: number,
  out: Float32Array,
  outOffset: number,
  elements: number,
): void {
  const source = alignedBuffer(bytes, byteOffset, elements * 2, 2);
  const bits = new Uint16Array(source.buffer, source.offset, elements);
  for (let i = 0; i < elements; i++) out[outOffset + i] = F16_TO_F32[bits[i]!]!;
}

function decodeBf16(
  bytes: Uint8Array,
  byteOffset: number,
  out: Float32Array,
  outOffset: number,
  elements: number,
): void {
  const source = alignedBuffer(bytes, byteOffset, elements * 2, 2);
  const bits = new Uint16Array(source.buffer, source.offset, elements);
  const outBits = new Uint32Array(out.buffer, out.byteOffset + outOffset * 4, elements);
  for (let i = 0; i < elements; i++) outBits[i] = bits[i]! << 16;
}

const encodeF32: EncodeBlocks = (values, elements, into, byteOffset) => {
  into.set(new Uint8Array(values.buffer, values.byteOffset, elements * 4), byteOffset);
};

const encodeF16: EncodeBlocks = (values, elements, into, byteOffset) => {
  const halves = new Float16Array(elements);
  for (let i = 0; i < elements; i++) halves[i] = values[i]!;
  into.set(new Uint8Array(halves.buffer), byteOffset);
};

const encodeBf16: EncodeBlocks = (values, elements, into, byteOffset) => {
  const bits = new Uint32Array(values.buffer, values.byteOffset, elements);
  const halves = new Uint16Array(elements);
  for (let i = 0; i < elements; i++) halves[i] = bf16BitsOfF32Bits(bits[i]!);
  into.set(new Uint8Array(halves.buffer), byteOffset);
};

function plain(
  dtype: DType,
  decode: DecodeBlocks,
  encode: EncodeBlocks | null = null,
): BlockFormat {
  return { dtype, decode, codeAccess: null, encode };
}

const decodeU8 = decodeThrough(1, (b, o, n) => new Uint8Array(b, o, n));

export const PLAIN_FORMATS: readonly BlockFormat[] = [
  plain('f32', copyF32, encodeF32),
  plain('f16', decodeF16, encodeF16),
  plain('bf16', decodeBf16, encodeBf16),
  plain(
    'f64',
    decodeThrough(8, (b, o, n) => new Float64Array(b, o, n)),
  ),
  plain(
    'i8',
    decodeThrough(1, (b, o, n) => new Int8Array(b, o, n)),
  ),
  plain(
    'i16',
    decodeThrough(2, (b, o, n) => new Int16Array(b, o, n)),
  ),
  plain(
    'i32',
    decodeThrough(4, (b, o, n) => new Int32Array(b, o, n)),
  ),
  plain(
    'i64',
    decodeThroughBigInt((b, o, n) => new BigInt64Array(b, o, n)),
  ),
  plain('u8', decodeU8),
  plain(
    'u16',
    decodeThrough(2, (b, o, n) => new Uint16Array(b, o, n)),
  ),
  plain(
    'u32',
    decodeThrough(4, (b, o, n) => new Uint32Array(b, o, n)),
  ),
  plain(
    'u64',
    decodeThroughBigInt((b, o, n) => new BigUint64Array(b, o, n)),
  ),
  plain('bool', decodeU8),
];
