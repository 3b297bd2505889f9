/**
 * Writes GGUF v3 (little-endian), streaming: a model of any size passes through in chunks. Knows nothing of what metadata means (but
 * general.alignment) nor of tensor contents.
 */
import { Buffer } from 'node:buffer';
import { StringList } from '../platform/string-list.ts';
import type { GgufArray, GgufValue } from './contract.ts';
import { quoted, WeightFileError } from './errors.ts';
import { writeFileByAppending } from './file-appender.ts';
import type { GgufArrayType, GgufEntry } from './gguf-header.ts';
import { GGUF_VALUE_TYPES, type GgufValueType, ggmlTypeOfDtype } from './gguf-types.ts';
import { appendTensor, checkUniqueNames, sizeOfTensor, type TensorToWrite } from './tensor-data.ts';

export type { TensorData, TensorToWrite } from './tensor-data.ts';

const MAGIC = 0x46554747; // 'GGUF'
const VERSION = 3;
const MAX_DIMS = 4;

export interface GgufToWrite {
  /**
   * Metadata in order. A plain value takes the obvious type: string, bool, u32 (i32 below zero, u64 or i64 where 32 bits are too few)
   * for integers, f32 for other numbers; a typed array its own, an array of numbers i32 or f32. An entry `{ type, value }` says it itself.
   */
  readonly metadata: Iterable<readonly [string, GgufValue | readonly number[] | GgufEntry]>;
  readonly tensors: readonly TensorToWrite[];
  /** Power of two, 32 where left out; written as `general.alignment` where it is not 32. */
  readonly alignment?: number;
}

/**
 * Writes `model` under a temporary name, syncs it and renames it to `path`.
 *
 * @returns size of the file in bytes
 * @throws {WeightFileError} if a value does not fit its type, a name is given twice, GGUF has no such dtype, or a tensor's data has not the size its shape says; `path` is then as it was
 */
export async function writeGguf(path: string, model: GgufToWrite): Promise<number> {
  const { header, sizes, alignment } = headerOf(path, model);
  return await writeFileByAppending(path, async (file) => {
    for (const chunk of header.chunks()) await file.append(chunk);
    await file.appendZeros(padded(file.sizeBytes, alignment) - file.sizeBytes);
    for (const [index, tensor] of model.tensors.entries()) {
      await appendTensor(path, file, tensor, sizes[index]!);
      await file.appendZeros(padded(file.sizeBytes, alignment) - file.sizeBytes);
    }
  });
}

/**
 * Bytes that a file has before its tensors' data.
 *
 * @throws {WeightFileError} as `writeGguf` does, for what can be known without the data
 */
export function ggufHeaderBytes(path: string, model: GgufToWrite): number {
  const { header, alignment } = headerOf(path, model);
  let size = 0;
  for (const chunk of header.chunks()) size += chunk.length;
  return padded(size, alignment);
}

interface BuiltHeader {
  readonly header: HeaderBytes;
  /** Of the tensors' data. */
  readonly sizes: readonly number[];
  readonly alignment: number;
}

function headerOf(path: string, model: GgufToWrite): BuiltHeader {
  const alignment = model.alignment ?? 32;
  const header = new HeaderBytes(path);
  const entries = entriesOf(path, model.metadata, alignment);
  checkUniqueNames(path, model.tensors);
  header.u32(MAGIC);
  header.u32(VERSION);
  header.u64(BigInt(model.tensors.length));
  header.u64(BigInt(entries.size));
  for (const [key, entry] of entries) {
    header.string(key);
    header.entry(key, entry);
  }
  let offset = 0;
  const sizes: number[] = [];
  for (const tensor of model.tensors) {
    const sizeBytes = sizeOfTensor(path, tensor);
    if (tensor.shape.length > MAX_DIMS) {
      const message = `has ${tensor.shape.length} dimensions; GGUF holds up to ${MAX_DIMS}`;
      throw usage(path, message, tensor.name);
    }
    header.string(tensor.name);
    header.u32(tensor.shape.length);
    for (const dim of tensor.shape.toReversed()) header.u64(BigInt(dim));
    header.u32(ggmlType(path, tensor));
    header.u64(BigInt(offset));
    sizes.push(sizeBytes);
    offset = padded(offset + sizeBytes, alignment);
  }
  return { header, sizes, alignment };
}

function padded(size: number, alignment: number): number {
  return Math.ceil(size / alignment) * alignment;
}

function usage(path: string, message: string, tensor?: string): WeightFileError {
  return new WeightFileError(message, { fault: 'usage', file: path, tensor });
}

function ggmlType(path: string, tensor: TensorToWrite): number {
  const type = ggmlTypeOfDtype(tensor.dtype);
  if (type === null) throw usage(path, `GGUF has no type for ${tensor.dtype}`, tensor.name);
  return type;
}

function entriesOf(
  path: string,
  metadata: GgufToWrite['metadata'],
  alignment: number,
): Map<string, GgufEntry> {
  if (alignment < 1 || !Number.isInteger(Math.log2(alignment)) || alignment > 1 << 20) {
    throw usage(path, `alignment is ${alignment}; expected a power of two up to ${1 << 20}`);
  }
  const entries = new Map<string, GgufEntry>();
  for (const [key, value] of metadata) {
    if (entries.has(key)) throw usage(path, `metadata key ${quoted(key)} is given twice`);
    entries.set(key, isEntry(value) ? value : inferEntry(path, key, value));
  }
  const stated = entries.get('general.alignment')?.value;
  if (stated !== undefined && stated !== alignment) {
    throw usage(path, `metadata "general.alignment" is ${stated}, but alignment is ${alignment}`);
  }
  if (alignment !== 32) entries.set('general.alignment', { type: 'u32', value: alignment });
  return entries;
}

function isEntry(value: GgufValue | readonly number[] | GgufEntry): value is GgufEntry {
  return (
    typeof value === 'object' &&
    !Array.isArray(value) &&
    !ArrayBuffer.isView(value) &&
    !(value instanceof StringList) &&
    'type' in value
  );
}

/** The obvious type of a plain value. */
function inferEntry(path: string, key: string, value: GgufValue | readonly number[]): GgufEntry {
  if (typeof value === 'string') return { type: 'string', value };
  if (typeof value === 'boolean') return { type: 'bool', value };
  if (typeof value === 'bigint' || Number.isSafeInteger(value)) {
    const number = value as number | bigint;
    if (number >= 0) return { type: number < 2 ** 32 ? 'u32' : 'u64', value: number };
    return { type: number >= -(2 ** 31) ? 'i32' : 'i64', value: number };
  }
  if (typeof value === 'number') return { type: 'f32', value };
  const array = value as GgufArray | readonly number[];
  const type = inferArrayType(array);
  if (type === null) {
    throw usage(path, `metadata ${quoted(key)} is an array of mixed or unknown elements`);
  }
  return { type: 'array', of: type, value: array as GgufArray };
}

const TYPED_ARRAY_TYPES: readonly (readonly [
  new (...args: never[]) => ArrayBufferView,
  Exclude<GgufValueType, 'array'>,
])[] = [
  [Uint8Array, 'u8'],
  [Int8Array, 'i8'],
  [Uint16Array, 'u16'],
  [Int16Array, 'i16'],
  [Uint32Array, 'u32'],
  [Int32Array, 'i32'],
  [Float32Array, 'f32'],
  [Float64Array, 'f64'],
  [BigUint64Array, 'u64'],
  [BigInt64Array, 'i64'],
];

function inferArrayType(array: GgufArray | readonly number[]): GgufArrayType | null {
  const typed = TYPED_ARRAY_TYPES.find(([TypedArray]) => array instanceof TypedArray);
  if (typed !== undefined) return typed[1];
  if (array instanceof StringList) return 'string';
  const items = array as readonly unknown[];
  if (items.every((item) => typeof item === 'string')) return 'string';
  if (items.every((item) => typeof item === 'boolean')) return 'bool';
  if (items.every((item) => typeof item === 'number')) {
    return items.every((item) => (item | 0) === item) ? 'i32' : 'f32';
  }
  if (!items.every((item) => typeof item === 'object' && item !== null)) return null;
  const inner = items.map((item) => inferArrayType(item as GgufArray));
  return inner.every((type) => type !== null) ? inner : null;
}

const INTEGER_RANGES = {
  u8: [0n, 2n ** 8n - 1n],
  i8: [-(2n ** 7n), 2n ** 7n - 1n],
  u16: [0n, 2n ** 16n - 1n],
  i16: [-(2n ** 15n), 2n ** 15n - 1n],
  u32: [0n, 2n ** 32n - 1n],
  i32: [-(2n ** 31n), 2n ** 31n - 1n],
  u64: [0n, 2n ** 64n - 1n],
  i64: [-(2n ** 63n), 2n ** 63n - 1n],
} as const;

const VALUE_BYTES = { u8: 1, i8: 1, u16: 2, i16: 2, u32: 4, i32: 4, u64: 8, i64: 8 } as const;

/** The header in memory: small beside the tensors (a large tokenizer makes 10 MB). */
class HeaderBytes {
  readonly #path: string;
  readonly #full: Buffer[] = [];
  #chunk = Buffer.alloc(1 << 20);
  #used = 0;

  constructor(path: string) {
    this.#path = path;
  }

  *chunks(): Iterable<Uint8Array> {
    yield* this.#full;
    yield this.#chunk.subarray(0, this.#used);
  }

  /** Room for `length` bytes: where they begin in the chunk. */
  #reserve(length: number): number {
    if (this.#used + length > this.#chunk.length) {
      this.#full.push(this.#chunk.subarray(0, this.#used));
      this.#chunk = Buffer.alloc(Math.max(length, 1 << 20));
      this.#used = 0;
    }
    const at = this.#used;
    this.#used += length;
    return at;
  }

  u32(value: number): void {
    const at = this.#reserve(4);
    this.#chunk.writeUInt32LE(value, at);
  }

  u64(value: bigint): void {
    const at = this.#reserve(8);
    this.#chunk.writeBigUInt64LE(value, at);
  }

  string(text: string): void {
    const length = Buffer.byteLength(text);
    this.u64(BigInt(length));
    const at = this.#reserve(length);
    this.#chunk.write(text, at);
  }

  entry(key: string, entry: GgufEntry): void {
    this.#type(entry.type);
    if (entry.type !== 'array') {
      this.#scalar(key, entry.type, entry.value);
      return;
    }
    if (entry.of === undefined) {
      throw usage(this.#path, `metadata ${quoted(key)} is an array; say of what in \`of\``);
    }
    this.#array(key, entry.of, entry.value);
  }

  #type(type: GgufValueType): void {
    this.u32(GGUF_VALUE_TYPES.indexOf(type));
  }

  #array(key: string, of: GgufArrayType, value: unknown): void {
    const items = (value instanceof StringList ? value.toArray() : value) as ArrayLike<unknown>;
    if (!(value instanceof StringList) && !Array.isArray(value) && !ArrayBuffer.isView(value)) {
      throw usage(this.#path, `metadata ${quoted(key)} should be an array`);
    }
    if (typeof of === 'string') {
      this.#type(of);
      this.u64(BigInt(items.length));
      for (let i = 0; i < items.length; i++) this.#scalar(key, of, items[i]);
      return;
    }
    if (of.length !== items.length) {
      throw usage(
        this.#path,
        `metadata ${quoted(key)} has ${items.length} inner arrays, but ${of.length} types`,
      );
    }
    this.#type('array');
    this.u64(BigInt(items.length));
    for (const [i, inner] of of.entries()) this.#array(key, inner, items[i]);
  }

  #scalar(key: string, type: Exclude<GgufValueType, 'array'>, value: unknown): void {
    if (type === 'string' && typeof value === 'string') {
      this.string(value);
    } else if (type === 'bool' && typeof value === 'boolean') {
      const at = this.#reserve(1);
      this.#chunk[at] = value ? 1 : 0;
    } else if (type === 'f32' && typeof value === 'number') {
      const at = this.#reserve(4);
      this.#chunk.writeFloatLE(value, at);
    } else if (type === 'f64' && typeof value === 'number') {
      const at = this.#reserve(8);
      this.#chunk.writeDoubleLE(value, at);
    } else if (type in INTEGER_RANGES) {
      this.#integer(key, type as keyof typeof INTEGER_RANGES, value);
    } else {
      throw this.#doesNotFit(key, type, value);
    }
  }

  #integer(key: string, type: keyof typeof INTEGER_RANGES, value: unknown): void {
    if (typeof value !== 'bigint' && !Number.isSafeInteger(value)) {
      throw this.#doesNotFit(key, type, value);
    }
    const integer = BigInt(value as number | bigint);
    const [min, max] = INTEGER_RANGES[type];
    if (integer < min || integer > max) throw this.#doesNotFit(key, type, value);
    const width = VALUE_BYTES[type];
    const at = this.#reserve(width);
    if (width === 8) this.#chunk.writeBigUInt64LE(BigInt.asUintN(64, integer), at);
    else this.#chunk.writeUIntLE(Number(BigInt.asUintN(width * 8, integer)), at, width);
  }

  #doesNotFit(key: string, type: string, value: unknown): WeightFileError {
    const shown = typeof value === 'string' ? quoted(value) : String(value);
    return usage(this.#path, `metadata ${quoted(key)}: ${shown} is no ${type}`);
  }
}
