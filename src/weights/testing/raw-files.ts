/**
 * For tests: GGUF and safetensors files built byte by byte, so that every field can be wrong. Knows the layouts, checks nothing.
 */
import { Buffer } from 'node:buffer';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { GGUF_VALUE_TYPES, type GgufValueType } from '../gguf-types.ts';

/** Bytes in the making. */
export class RawBytes {
  readonly #parts: Buffer[] = [];

  raw(...bytes: number[]): this {
    this.#parts.push(Buffer.from(bytes));
    return this;
  }

  u32(value: number): this {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32LE(value);
    this.#parts.push(bytes);
    return this;
  }

  f32(value: number): this {
    const bytes = Buffer.alloc(4);
    bytes.writeFloatLE(value);
    this.#parts.push(bytes);
    return this;
  }

  u64(value: bigint | number): this {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64LE(BigInt(value));
    this.#parts.push(bytes);
    return this;
  }

  string(text: string | Buffer): this {
    const bytes = Buffer.from(text);
    this.u64(bytes.length);
    this.#parts.push(bytes);
    return this;
  }

  /** A value type's number. */
  type(type: GgufValueType): this {
    return this.u32(GGUF_VALUE_TYPES.indexOf(type));
  }

  bytes(bytes: Uint8Array): this {
    this.#parts.push(Buffer.from(bytes));
    return this;
  }

  build(): Buffer {
    return Buffer.concat(this.#parts);
  }
}

export interface RawTensor {
  readonly name?: string | Buffer;
  /** As stored: innermost first. */
  readonly dims?: readonly (bigint | number)[];
  readonly numDims?: number;
  readonly type?: number;
  readonly offset?: bigint | number;
}

export interface RawGguf {
  readonly magic?: string;
  readonly version?: number;
  readonly numTensors?: bigint | number;
  readonly numEntries?: bigint | number;
  /** Each writes key, type and value. */
  readonly entries?: readonly ((bytes: RawBytes) => unknown)[];
  readonly tensors?: readonly RawTensor[];
  /** Of padding; what the file says is an entry. */
  readonly alignment?: number;
  readonly data?: Uint8Array;
}

/** A GGUF file; without options a sound one, with one f32 tensor `w` of 2 x 4. */
export function rawGguf(options: RawGguf = {}): Buffer {
  const entries = options.entries ?? [
    (b) => b.string('general.architecture').type('string').string('test'),
  ];
  const tensors = options.tensors ?? [{}];
  const bytes = new RawBytes();
  bytes.bytes(Buffer.from(options.magic ?? 'GGUF', 'latin1')).u32(options.version ?? 3);
  bytes.u64(options.numTensors ?? tensors.length).u64(options.numEntries ?? entries.length);
  for (const entry of entries) entry(bytes);
  for (const tensor of tensors) {
    const dims = tensor.dims ?? [4, 2];
    bytes.string(tensor.name ?? 'w').u32(tensor.numDims ?? dims.length);
    for (const dim of dims) bytes.u64(dim);
    bytes.u32(tensor.type ?? 0).u64(tensor.offset ?? 0);
  }
  const header = bytes.build();
  const alignment = options.alignment ?? 32;
  const padding = Buffer.alloc((alignment - (header.length % alignment)) % alignment);
  return Buffer.concat([header, padding, options.data ?? Buffer.alloc(32)]);
}

/** A safetensors file of a header as text (or bytes) and zeros. */
export function rawSafetensors(header: string | Buffer, dataBytes = 32): Buffer {
  return Buffer.concat([
    new RawBytes().string(Buffer.from(header)).build(),
    Buffer.alloc(dataBytes),
  ]);
}

/** A folder for a test's files, removed with `using`. */
export class TestFolder implements Disposable {
  readonly path = mkdtempSync(join(tmpdir(), 'hasten-weights-'));

  /** Writes a file and returns its path. */
  file(name: string, bytes: Uint8Array | string): string {
    const path = join(this.path, name);
    writeFileSync(path, bytes);
    return path;
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}
