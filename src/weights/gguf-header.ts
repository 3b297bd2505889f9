/**
 * Parses what stands before the tensor data of one GGUF file: version, metadata, tensor table. Trusts nothing in it. Knows nothing of
 * splits, of what metadata keys mean (but general.alignment), or of tensor contents.
 *
 *   magic:4 version:u32 numTensors:u64 numEntries:u64 | entries: key type value | tensors: name numDims dims type offset | padding | data
 *
 * Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 */
import type { DType } from '../tensor/dtype.ts';
import { rowBytes } from '../tensor/dtype.ts';
import { DTypeError } from '../tensor/errors.ts';
import { ByteCursor } from './byte-cursor.ts';
import type { GgufArray, GgufValue } from './contract.ts';
import { quoted, WeightFileError } from './errors.ts';
import {
  describeUnknownGgmlType,
  dtypeOfGgmlType,
  GGUF_VALUE_TYPES,
  type GgufValueType,
} from './gguf-types.ts';
import { checkNoOverlap } from './overlap.ts';
import type { PositionedFile } from './positioned-file.ts';
import { elementCount } from './shape.ts';

const MAGIC = 0x46554747; // 'GGUF'
const DEFAULT_ALIGNMENT = 32;

/** Bounds on what a header may announce; a real one stays far below each. */
const MAX_TENSORS = 1 << 18;
const MAX_ENTRIES = 1 << 16;
const MAX_NAME_BYTES = 65535;
/** GGML_MAX_DIMS. */
const MAX_DIMS = 4;
const MAX_ALIGNMENT = 1 << 20;
const MAX_NESTING = 4;
/** Array elements of all entries together. */
const MAX_ARRAY_ELEMENTS = 1 << 25;

/** A metadata value with its stored type, so that it can be written back as it was. */
export interface GgufEntry {
  readonly type: GgufValueType;
  /** Element type, for arrays; arrays of arrays say it per inner array. */
  readonly of?: GgufArrayType;
  readonly value: GgufValue;
}

interface GgufArrayEntry extends GgufEntry {
  readonly of: GgufArrayType;
  readonly value: GgufArray;
}

/** Element type of an array; of an array of arrays, the types of the inner ones in order. */
export type GgufArrayType = Exclude<GgufValueType, 'array'> | readonly GgufArrayType[];

export interface GgufTensorInfo {
  readonly name: string;
  readonly dtype: DType;
  /** Outermost first: the file's dims reversed. */
  readonly shape: readonly number[];
  readonly sizeBytes: number;
  /** From the start of the file. */
  readonly position: number;
}

export interface GgufHeader {
  readonly version: number;
  readonly alignment: number;
  readonly entries: ReadonlyMap<string, GgufEntry>;
  readonly tensors: readonly GgufTensorInfo[];
  /** Where tensor data begins. */
  readonly dataPosition: number;
}

/**
 * Reads and checks the header of one GGUF file (v2 or v3, little-endian).
 *
 * @throws {WeightFileError} for anything that is not sound: every tensor lies within the file, aligned, without overlap
 */
export function readGgufHeader(file: PositionedFile): GgufHeader {
  const cursor = new ByteCursor(file);
  const version = readVersion(cursor);
  const numTensors = cursor.count('tensor count', 24, MAX_TENSORS);
  const numEntries = cursor.count('metadata count', 13, MAX_ENTRIES);
  const entries = readEntries(cursor, numEntries);
  const alignment = alignmentOf(cursor, entries);
  const tensors = readTensorTable(cursor, numTensors, alignment);
  const dataPosition = Math.ceil(cursor.position / alignment) * alignment;
  return {
    version,
    alignment,
    entries,
    dataPosition,
    tensors: placeTensors(file, tensors, dataPosition),
  };
}

function readVersion(cursor: ByteCursor): number {
  const magic = cursor.u32('the magic number');
  if (magic !== MAGIC) {
    const bytes = [0, 8, 16, 24].map((s) => ((magic >>> s) & 255).toString(16).padStart(2, '0'));
    throw cursor.error(
      'unrecognised',
      `is not a GGUF file: it begins with the bytes ${bytes.join(' ')}; expected 47 47 55 46 ("GGUF")`,
      { magic },
    );
  }
  const version = cursor.u32('the version');
  if (version === 2 || version === 3) return version;
  if (version !== 0 && (version & 0xffff) === 0) {
    throw cursor.error(
      'unsupported',
      `is a big-endian GGUF file (version field 0x${version.toString(16).padStart(8, '0')}); accepted: little-endian. Convert it with gguf-py's gguf_convert_endian.`,
      { version },
    );
  }
  throw cursor.error(
    'unsupported',
    `has GGUF version ${version}; accepted: 2 and 3. Convert the model again with a current converter.`,
    { version },
  );
}

function readEntries(cursor: ByteCursor, count: number): Map<string, GgufEntry> {
  const entries = new Map<string, GgufEntry>();
  const budget = { elements: MAX_ARRAY_ELEMENTS };
  for (let i = 0; i < count; i++) {
    const key = cursor.string(`metadata key ${i}`, { maxBytes: MAX_NAME_BYTES, strict: true });
    if (entries.has(key)) {
      throw cursor.error('corrupt', `metadata key ${quoted(key)} appears twice`, { entry: i });
    }
    const what = `metadata ${quoted(key)}`;
    const type = valueType(cursor, what);
    if (type === 'array') {
      entries.set(key, readArray(cursor, what, budget, 1));
    } else {
      entries.set(key, { type, value: readScalar(cursor, type, what) });
    }
  }
  return entries;
}

function valueType(cursor: ByteCursor, what: string): GgufValueType {
  const id = cursor.u32(`the type of ${what}`);
  const type = GGUF_VALUE_TYPES[id];
  if (type === undefined) {
    throw cursor.error(
      'corrupt',
      `${what} has value type ${id}; accepted: 0 to ${GGUF_VALUE_TYPES.length - 1}`,
      { valueType: id },
    );
  }
  return type;
}

function safeInteger(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

function readScalar(
  cursor: ByteCursor,
  type: Exclude<GgufValueType, 'array'>,
  what: string,
): GgufValue {
  switch (type) {
    case 'u64':
    case 'i64':
      return safeInteger(cursor[type](what));
    case 'bool':
      return readBool(cursor, what);
    default:
      return cursor[type](what);
  }
}

function readBool(cursor: ByteCursor, what: string): boolean {
  const value = cursor.u8(what);
  if (value > 1) {
    throw cursor.error('corrupt', `${what} is a bool with value ${value}; accepted: 0 and 1`, {
      value,
    });
  }
  return value === 1;
}

const NUMERIC_ARRAYS = {
  u8: Uint8Array,
  i8: Int8Array,
  u16: Uint16Array,
  i16: Int16Array,
  u32: Uint32Array,
  i32: Int32Array,
  f32: Float32Array,
  u64: BigUint64Array,
  i64: BigInt64Array,
  f64: Float64Array,
} as const;

const MIN_STRING_BYTES = 8;
const MIN_ARRAY_BYTES = 12;

function readArray(
  cursor: ByteCursor,
  what: string,
  budget: { elements: number },
  depth: number,
): GgufArrayEntry {
  const type = 'array';
  if (depth > MAX_NESTING) {
    throw cursor.error('limit', `${what} nests arrays deeper than ${MAX_NESTING}`, { depth });
  }
  const of = valueType(cursor, `elements of ${what}`);
  const length = (minBytesEach: number): number => {
    const count = cursor.count(`length of ${what}`, minBytesEach, budget.elements);
    budget.elements -= count;
    return count;
  };
  switch (of) {
    case 'string':
      return { type, of, value: cursor.strings(length(MIN_STRING_BYTES), what) };
    case 'bool': {
      const value: boolean[] = [];
      for (let n = length(1); n > 0; n--) value.push(readBool(cursor, what));
      return { type, of, value };
    }
    case 'array': {
      const inner: GgufArrayEntry[] = [];
      for (let n = length(MIN_ARRAY_BYTES); n > 0; n--) {
        inner.push(readArray(cursor, what, budget, depth + 1));
      }
      return { type, of: inner.map((entry) => entry.of), value: inner.map(({ value }) => value) };
    }
    default: {
      const Numbers = NUMERIC_ARRAYS[of];
      const value = new Numbers(length(Numbers.BYTES_PER_ELEMENT));
      cursor.bytesInto(new Uint8Array(value.buffer), what);
      return { type, of, value };
    }
  }
}

function alignmentOf(cursor: ByteCursor, entries: ReadonlyMap<string, GgufEntry>): number {
  const alignment = entries.get('general.alignment')?.value;
  if (alignment === undefined) return DEFAULT_ALIGNMENT;
  const isPowerOfTwo =
    typeof alignment === 'number' && alignment >= 1 && Number.isInteger(Math.log2(alignment));
  if (!isPowerOfTwo || alignment > MAX_ALIGNMENT) {
    const shown = typeof alignment === 'object' ? 'an array' : String(alignment);
    throw cursor.error(
      'corrupt',
      `metadata "general.alignment" is ${shown}; accepted: a power of two up to ${MAX_ALIGNMENT}`,
      { alignment: shown },
    );
  }
  return alignment;
}

type TensorRecord = Omit<GgufTensorInfo, 'position'> & { readonly offset: bigint };

function readTensorTable(cursor: ByteCursor, count: number, alignment: number): TensorRecord[] {
  const names = new Set<string>();
  const tensors: TensorRecord[] = [];
  for (let i = 0; i < count; i++) {
    const name = cursor.string(`name of tensor ${i}`, { maxBytes: MAX_NAME_BYTES, strict: true });
    cursor.tensor = name;
    if (names.has(name)) throw cursor.error('corrupt', 'appears twice', { index: i });
    names.add(name);
    const numDims = cursor.u32('its number of dimensions');
    if (numDims > MAX_DIMS) {
      throw cursor.error('limit', `has ${numDims} dimensions; accepted: up to ${MAX_DIMS}`, {
        numDims,
      });
    }
    const dims: bigint[] = [];
    for (let d = 0; d < numDims; d++) dims.push(cursor.u64('its dimensions'));
    const typeId = cursor.u32('its type');
    const offset = cursor.u64('its offset');
    const elements = elementCount(dims);
    if (elements === null) {
      throw cursor.error(
        'corrupt',
        `has dimensions [${dims.join(', ')}], more than 2^53 - 1 elements`,
        {
          dims: dims.join(', '),
        },
      );
    }
    const dtype = dtypeOfGgmlType(typeId);
    if (dtype === null) {
      throw cursor.error('corrupt', `has ${describeUnknownGgmlType(typeId)}`, { type: typeId });
    }
    if (offset % BigInt(alignment) !== 0n) {
      throw cursor.error(
        'corrupt',
        `begins at offset ${offset}, which is not a multiple of the alignment ${alignment}`,
        { offset, alignment },
      );
    }
    const shape = dims.map(Number).reverse();
    let sizeBytes: number;
    try {
      // Blocks lie along the innermost dimension.
      rowBytes(dtype, shape.at(-1) ?? 1);
      sizeBytes = rowBytes(dtype, elements);
    } catch (error) {
      if (!(error instanceof DTypeError)) throw error;
      throw cursor.error('corrupt', error.message, { dims: dims.join(', '), type: dtype }, error);
    }
    tensors.push({ name, dtype, shape, sizeBytes, offset });
    cursor.tensor = undefined;
  }
  return tensors;
}

/** Turns offsets into positions in the file, and checks that every tensor lies inside and none over another. */
function placeTensors(
  file: PositionedFile,
  records: readonly TensorRecord[],
  dataPosition: number,
): GgufTensorInfo[] {
  const dataBytes = Math.max(0, file.sizeBytes - dataPosition);
  const tensors = records.map(({ offset, ...tensor }): GgufTensorInfo => {
    if (offset + BigInt(tensor.sizeBytes) > BigInt(dataBytes)) {
      throw new WeightFileError(
        `takes ${tensor.sizeBytes} bytes at offset ${offset}, but the file has ${dataBytes} bytes of tensor data ` +
          `(${file.sizeBytes} in all). If the file was cut short, fetch it again.`,
        {
          fault: 'truncated',
          file: file.path,
          tensor: tensor.name,
          values: { offset, sizeBytes: tensor.sizeBytes, dataBytes },
        },
      );
    }
    return { ...tensor, position: dataPosition + Number(offset) };
  });
  checkNoOverlap(file.path, tensors);
  return tensors;
}
