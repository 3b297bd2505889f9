/**
 * Parses the header of one safetensors file. Trusts nothing in it. Knows nothing of shards or tensor contents.
 *
 *   headerBytes:u64 | JSON { name: { dtype, shape, data_offsets: [begin, end] }, "__metadata__": { … } } | data
 *
 * Stricter than JSON.parse (no duplicate names, integers only), and more lenient than the Rust library in one point: bytes that no
 * tensor claims are allowed. Format: https://huggingface.co/docs/safetensors
 */
import { Buffer } from 'node:buffer';
import type { DType } from '../tensor/dtype.ts';
import { rowBytes } from '../tensor/dtype.ts';
import { DTypeError } from '../tensor/errors.ts';
import { type WeightFault, WeightFileError } from './errors.ts';
import { checkNoOverlap } from './overlap.ts';
import type { PositionedFile } from './positioned-file.ts';
import { dtypeOfSafetensors, SAFETENSORS_DTYPE_NAMES } from './safetensors-types.ts';
import { elementCount } from './shape.ts';
import {
  describeJson,
  isJsonObject,
  JsonSyntaxError,
  type JsonValue,
  parseStrictJson,
  unsignedInteger,
} from './strict-json.ts';

/** The same bound as in the Rust library. */
const MAX_HEADER_BYTES = 100_000_000;
const MAX_TENSORS = 1 << 17;
const MAX_DIMS = 32;

export interface SafetensorsTensorInfo {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly sizeBytes: number;
  /** From the start of the file. */
  readonly position: number;
}

/**
 * Reads and checks the header of one safetensors file.
 *
 * @throws {WeightFileError} for anything that is not sound: every tensor lies within the file, has the size its shape says, and none overlaps
 */
export function readSafetensorsHeader(file: PositionedFile): SafetensorsTensorInfo[] {
  const fail = failFor(file);
  if (file.sizeBytes < 8) {
    throw fail('truncated', `has ${file.sizeBytes} bytes; a safetensors file has at least 8`, {
      sizeBytes: file.sizeBytes,
    });
  }
  const lengthBytes = Buffer.alloc(8);
  file.readInto(lengthBytes, 0);
  const headerBytes = lengthBytes.readBigUInt64LE();
  const values = { headerBytes, sizeBytes: file.sizeBytes };
  if (headerBytes > BigInt(file.sizeBytes - 8)) {
    throw fail(
      'truncated',
      `announces a header of ${headerBytes} bytes, but the file has ${file.sizeBytes} bytes. It is cut short, or no safetensors file.`,
      values,
    );
  }
  if (headerBytes > BigInt(MAX_HEADER_BYTES)) {
    throw fail(
      'limit',
      `announces a header of ${headerBytes} bytes; accepted: up to ${MAX_HEADER_BYTES}`,
      values,
    );
  }
  const header = Buffer.alloc(Number(headerBytes));
  file.readInto(header, 8);
  return tensorsOf(file, parseHeader(file, header), 8 + header.length);
}

type Fail = (
  fault: WeightFault,
  message: string,
  values?: Readonly<Record<string, number | bigint | string>>,
  tensor?: string,
  cause?: unknown,
) => WeightFileError;

function failFor(file: PositionedFile): Fail {
  return (fault, message, values = {}, tensor = undefined, cause = undefined) =>
    new WeightFileError(message, { fault, file: file.path, tensor, values, cause });
}

function parseHeader(file: PositionedFile, header: Buffer): ReadonlyMap<string, JsonValue> {
  const fail = failFor(file);
  let value: JsonValue;
  try {
    value = parseStrictJson(header);
  } catch (cause) {
    if (!(cause instanceof JsonSyntaxError)) throw cause;
    const values = { offset: cause.offset, headerBytes: header.length };
    throw fail('corrupt', `header: ${cause.message}`, values, undefined, cause);
  }
  if (!isJsonObject(value)) {
    throw fail('corrupt', `header is ${describeJson(value)}; expected a JSON object`);
  }
  if (value.size > MAX_TENSORS) {
    throw fail('limit', `header has ${value.size} tensors; accepted: up to ${MAX_TENSORS}`, {
      numTensors: value.size,
    });
  }
  return value;
}

function tensorsOf(
  file: PositionedFile,
  header: ReadonlyMap<string, JsonValue>,
  dataPosition: number,
): SafetensorsTensorInfo[] {
  const tensors: SafetensorsTensorInfo[] = [];
  for (const [name, entry] of header) {
    if (name === '__metadata__') {
      if (isJsonObject(entry)) continue;
      throw failFor(file)(
        'corrupt',
        `"__metadata__" is ${describeJson(entry)}; expected an object`,
      );
    }
    tensors.push(tensorOf(file, name, entry, dataPosition));
  }
  checkNoOverlap(file.path, tensors);
  return tensors;
}

function tensorOf(
  file: PositionedFile,
  name: string,
  entry: JsonValue,
  dataPosition: number,
): SafetensorsTensorInfo {
  const fail: Fail = (fault, message, values, _tensor, cause) =>
    failFor(file)(fault, message, values, name, cause);
  if (!isJsonObject(entry)) {
    throw fail('corrupt', `is ${describeJson(entry)}; expected { dtype, shape, data_offsets }`);
  }
  const dtypeName = entry.get('dtype');
  const dtype = typeof dtypeName === 'string' ? dtypeOfSafetensors(dtypeName) : null;
  if (dtype === null) {
    throw fail(
      'corrupt',
      `has dtype ${describeJson(dtypeName)}; accepted: ${SAFETENSORS_DTYPE_NAMES.join(', ')}`,
      { dtype: describeJson(dtypeName) },
    );
  }
  const shape = integers(entry.get('shape'));
  if (shape === null) {
    throw fail(
      'corrupt',
      `has shape ${describeJson(entry.get('shape'))}; expected a list of whole numbers from 0 to 2^53 - 1`,
      { shape: describeJson(entry.get('shape')) },
    );
  }
  if (shape.length > MAX_DIMS) {
    throw fail('limit', `has ${shape.length} dimensions; accepted: up to ${MAX_DIMS}`, {
      numDims: shape.length,
    });
  }
  const offsets = integers(entry.get('data_offsets'));
  const [begin, end] = offsets ?? [];
  if (offsets?.length !== 2 || begin === undefined || end === undefined || begin > end) {
    throw fail(
      'corrupt',
      `has data_offsets ${describeJson(entry.get('data_offsets'))}; expected [begin, end] with begin <= end, in whole numbers up to 2^53 - 1`,
      { offsets: describeJson(entry.get('data_offsets')) },
    );
  }
  const dataBytes = file.sizeBytes - dataPosition;
  if (end > dataBytes) {
    throw fail(
      'truncated',
      `has data_offsets [${begin}, ${end}], but the file has ${dataBytes} bytes of data (${file.sizeBytes} in all). If the file was cut short, fetch it again.`,
      { begin, end, dataBytes },
    );
  }
  const sizeBytes = sizeOf(dtype, shape, fail);
  if (sizeBytes !== end - begin) {
    throw fail(
      'corrupt',
      `has ${end - begin} bytes, but ${dtypeName} of shape [${shape.join(', ')}] takes ${sizeBytes}`,
      { storedBytes: end - begin, sizeBytes },
    );
  }
  return { name, dtype, shape, sizeBytes, position: dataPosition + begin };
}

function sizeOf(dtype: DType, shape: readonly number[], fail: Fail): number {
  const elements = elementCount(shape);
  if (elements === null) {
    throw fail('corrupt', `has shape [${shape.join(', ')}], more than 2^53 - 1 elements`, {
      shape: shape.join(', '),
    });
  }
  try {
    return rowBytes(dtype, elements);
  } catch (error) {
    if (!(error instanceof DTypeError)) throw error;
    throw fail('corrupt', error.message, { shape: shape.join(', ') }, undefined, error);
  }
}

function integers(value: JsonValue | undefined): number[] | null {
  if (!Array.isArray(value)) return null;
  const numbers = value.map((item: JsonValue) => unsignedInteger(item));
  return numbers.every((n) => n !== null) ? numbers : null;
}
