/**
 * Rows of stored elements <-> f32, and rows as integer codes for repacking: the checked entry points over block-formats/.
 * Knows nothing of files or tensors; a row is a run of whole blocks in a byte array, at any alignment.
 */
import {
  type BlockFormat,
  type ScaleFactors,
  SUPER_BLOCK,
  type UnpackedRow,
} from './block-formats/block-format.ts';
import { IQ4_FORMATS } from './block-formats/iq4-quants.ts';
import { K_QUANT_FORMATS } from './block-formats/k-quants.ts';
import { LEGACY_QUANT_FORMATS } from './block-formats/legacy-quants.ts';
import { PLAIN_FORMATS } from './block-formats/plain-formats.ts';
import { SCALED_CODE_FORMATS } from './block-formats/scaled-codes.ts';
import { type DType, rowBytes } from './dtype.ts';
import { DTypeError, RowBufferError, UnsupportedDTypeError } from './errors.ts';

export type { ScaleFactors, UnpackedRow } from './block-formats/block-format.ts';

const FORMATS: ReadonlyMap<DType, BlockFormat> = new Map(
  [
    ...[...PLAIN_FORMATS, ...LEGACY_QUANT_FORMATS, ...K_QUANT_FORMATS, ...IQ4_FORMATS],
    ...SCALED_CODE_FORMATS,
  ].map((format) => [format.dtype, format]),
);

function namesOf(has: (format: BlockFormat) => boolean): string {
  return [...FORMATS.values()]
    .filter(has)
    .map((format) => format.dtype)
    .join(', ');
}

function formatOf(dtype: DType): BlockFormat {
  const format = FORMATS.get(dtype);
  if (format === undefined) {
    throw new UnsupportedDTypeError(
      dtype,
      `cannot be decoded; supported: ${namesOf(() => true)}. Use a file quantized to one of these.`,
    );
  }
  return format;
}

function checkBytes(dtype: DType, bytes: Uint8Array, byteOffset: number, elements: number): void {
  const needed = rowBytes(dtype, elements);
  if (!Number.isInteger(byteOffset) || byteOffset < 0 || byteOffset + needed > bytes.length) {
    throw new RowBufferError(
      dtype,
      `a row of ${elements} elements takes ${needed} bytes from byte ${byteOffset}, but the buffer has ${bytes.length}`,
    );
  }
}

/** Whether {@link decodeRow} knows this dtype. */
export function canDecode(dtype: DType): boolean {
  return FORMATS.has(dtype);
}

/** Whether {@link unpackBlocks} knows this dtype: the quantized ones that can be decoded. */
export function canUnpack(dtype: DType): boolean {
  return FORMATS.get(dtype)?.codeAccess != null;
}

/** Whether the codes of {@link unpackBlocks} are the values exactly, and not only the nearest. */
export function hasExactCodes(dtype: DType): boolean {
  const access = FORMATS.get(dtype)?.codeAccess;
  return access != null && access.isRounded !== true;
}

/** Whether {@link encodeRow} knows this dtype. */
export function canEncode(dtype: DType): boolean {
  return FORMATS.get(dtype)?.encode != null;
}

/**
 * Decodes `elements` consecutive elements to f32, bit-exactly as ggml's reference dequantization in f32 does.
 *
 * @param bytes      stored rows; the row starts at `byteOffset`, at any alignment
 * @param out        receives `out[outOffset .. outOffset + elements)`
 * @param elements   a whole number of blocks; several rows that lie one after the other may be decoded at once
 * @throws {UnsupportedDTypeError} if the format has no decoder
 * @throws {DTypeError} if `elements` is no whole number of blocks
 * @throws {RowBufferError} if a buffer is too short
 */
export function decodeRow(
  dtype: DType,
  bytes: Uint8Array,
  byteOffset: number,
  out: Float32Array,
  elements: number,
  outOffset = 0,
): void {
  const format = formatOf(dtype);
  checkBytes(dtype, bytes, byteOffset, elements);
  if (!Number.isInteger(outOffset) || outOffset < 0 || outOffset + elements > out.length) {
    throw new RowBufferError(
      dtype,
      `${elements} decoded elements do not fit from index ${outOffset} of a Float32Array of ${out.length}`,
    );
  }
  format.decode(bytes, byteOffset, out, outOffset, elements);
}

/**
 * Encodes `values[0 .. elements)` as ggml does, byte for byte ({@link canEncode} says which formats).
 *
 * @param into receives the row from `byteOffset`
 * @throws {UnsupportedDTypeError} if the format has no encoder
 * @throws {DTypeError} if `elements` is no whole number of blocks
 * @throws {RowBufferError} if a buffer is too short
 */
export function encodeRow(
  dtype: DType,
  values: Float32Array,
  elements: number,
  into: Uint8Array,
  byteOffset = 0,
): void {
  const format = formatOf(dtype);
  if (format.encode === null) {
    throw new UnsupportedDTypeError(
      dtype,
      `cannot be encoded; supported: ${namesOf((f) => f.encode !== null)}`,
    );
  }
  checkBytes(dtype, into, byteOffset, elements);
  if (elements > values.length) {
    throw new RowBufferError(dtype, `${elements} elements asked of an array of ${values.length}`);
  }
  format.encode(values, elements, into, byteOffset);
}

/**
 * Encodes one row so that errors count by the importance of their input channel (ggml's imatrix: the mean of the squared inputs); formats that have no
 * use for it (floats, Q8_0) are encoded as {@link encodeRow} does.
 *
 * @param values     f32 [importance.length], the row
 * @throws as {@link encodeRow}
 */
export function encodeRowWeighted(
  dtype: DType,
  values: Float32Array,
  importance: Float32Array,
  into: Uint8Array,
  byteOffset = 0,
): void {
  const elements = importance.length;
  const { encodeWeighted } = formatOf(dtype);
  if (encodeWeighted === undefined) {
    encodeRow(dtype, values, elements, into, byteOffset);
    return;
  }
  checkBytes(dtype, into, byteOffset, elements);
  if (elements > values.length) {
    throw new RowBufferError(dtype, `${elements} elements asked of an array of ${values.length}`);
  }
  encodeWeighted(values, elements, into, byteOffset, importance);
}

/**
 * Buffers for {@link unpackBlocks}: for rows of `dtype` of up to `elements` elements, to be used again for each row.
 *
 * @throws {UnsupportedDTypeError} if the format has no codes
 */
export function createUnpackedRow(dtype: DType, elements: number): UnpackedRow {
  const access = codeAccessOf(dtype);
  rowBytes(dtype, elements);
  const groups = elements / access.groupSize;
  return {
    dtype,
    codes: access.signed ? new Int8Array(elements) : new Uint8Array(elements),
    groupSize: access.groupSize,
    scales: new Float32Array(groups),
    mins: access.hasMins ? new Float32Array(groups) : null,
    zero: access.zero,
    factors: access.hasFactors ? createFactors(elements, groups, access.hasMins) : null,
  };
}

function createFactors(elements: number, groups: number, hasMins: boolean): ScaleFactors {
  const superBlocks = elements / SUPER_BLOCK;
  return {
    d: new Uint16Array(superBlocks),
    negatedDmin: hasMins ? new Uint16Array(superBlocks) : null,
    scales: new Int8Array(groups),
    mins: hasMins ? new Int8Array(groups) : null,
  };
}

/**
 * Describes a row without loss as integer codes with a scale (and min) per group; allocates nothing.
 *
 * @param out from {@link createUnpackedRow} for the same dtype; entries past the row are left as they were
 * @throws {UnsupportedDTypeError} if the format has no codes
 * @throws {DTypeError} if `elements` is no whole number of blocks, or `out` was made for another dtype
 * @throws {RowBufferError} if a buffer is too short
 */
export function unpackBlocks(
  dtype: DType,
  bytes: Uint8Array,
  byteOffset: number,
  elements: number,
  out: UnpackedRow,
): void {
  const access = codeAccessOf(dtype);
  checkBytes(dtype, bytes, byteOffset, elements);
  if (out.dtype !== dtype) {
    throw new DTypeError(dtype, `the buffers for its codes were made for ${out.dtype}`);
  }
  if (elements > out.codes.length) {
    throw new RowBufferError(
      dtype,
      `a row of ${elements} elements does not fit buffers made for ${out.codes.length}`,
    );
  }
  access.unpack(bytes, byteOffset, elements, out);
}

function codeAccessOf(dtype: DType): NonNullable<BlockFormat['codeAccess']> {
  const access = formatOf(dtype).codeAccess;
  if (access === null) {
    throw new UnsupportedDTypeError(
      dtype,
      `has no integer codes; formats that have: ${namesOf((f) => f.codeAccess !== null)}`,
    );
  }
  return access;
}
