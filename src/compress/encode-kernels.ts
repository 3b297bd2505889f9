/**
 * Rows of f32 → stored blocks on native code, on the calling thread: what encode-rows.ts does plainly, several times faster and to the byte. Memory is bounded:
 * rows go through it in pieces. Knows nothing of threads and files.
 */
import { encodeBlocksKernel, encodedShape } from '../kernels/encode/encode-blocks.ts';
import type { VectorMachine } from '../kernels/kernel-ir.ts';
import { InternalError } from '../platform/errors.ts';
import { allocate, f32, type NativeRegion, u64 } from '../platform/native-memory.ts';
import { chooseTarget } from '../runtime/target-choice.ts';
import { machineOf } from '../targets/x64/isa.ts';
import { type LoadedCode, loadCode, NativeCodeRefusedError } from '../targets/x64/loader.ts';
import { lowerToX64 } from '../targets/x64/lower.ts';
import type { RowsToEncode } from './encode-rows.ts';

/** Encoded at a time, or a row where that is longer: stays in the second cache. */
const PIECE_ELEMENTS = 1 << 16;

interface LoadedEncoder {
  readonly code: LoadedCode;
  readonly params: readonly string[];
  readonly table: NativeRegion;
  readonly scratch: NativeRegion;
}

export class EncodeKernels implements Disposable {
  readonly #machine: VectorMachine;
  readonly #encoders = new Map<string, LoadedEncoder>();
  /** Of a piece; made larger for longer rows. */
  #values: NativeRegion | null = null;
  #out: NativeRegion | null = null;
  #importance: NativeRegion | null = null;

  constructor(machine: VectorMachine) {
    this.#machine = machine;
  }

  /** Null where there is no native code. */
  static create(): EncodeKernels | null {
    try {
      const choice = chooseTarget();
      return choice.target === 'x64' ? new EncodeKernels(machineOf(choice.isa)) : null;
    } catch (error) {
      if (error instanceof NativeCodeRefusedError) return null;
      throw error;
    }
  }

  /** Null for types without a kernel, and rows that are no whole blocks. */
  encode({ to, values, columns, channels }: RowsToEncode): Uint8Array | null {
    const shape = encodedShape(to);
    if (shape === null || columns % shape.elements !== 0) return null;
    const blocksPerRow = columns / shape.elements;
    const { lanes } = this.#machine;
    const rowsPerPiece = Math.max(1, Math.floor(PIECE_ELEMENTS / columns));
    const mostBlocks = Math.ceil((rowsPerPiece * blocksPerRow) / lanes) * lanes;
    this.#values = largeEnough(this.#values, 4 * mostBlocks * shape.elements);
    this.#out = largeEnough(this.#out, mostBlocks * shape.blockBytes);
    const encoder = this.#encoder(to, channels !== null);
    if (channels !== null) {
      this.#importance = largeEnough(this.#importance, 4 * columns);
      f32(this.#importance.address, columns).set(channels);
    }
    const numRows = values.length / columns;
    const encoded = new Uint8Array(numRows * blocksPerRow * shape.blockBytes);
    const input = f32(this.#values.address, mostBlocks * shape.elements);
    for (let row = 0; row < numRows; row += rowsPerPiece) {
      const end = Math.min(numRows, row + rowsPerPiece);
      const numBlocks = (end - row) * blocksPerRow;
      input.set(values.subarray(row * columns, end * columns));
      this.#run(encoder, Math.ceil(numBlocks / lanes), blocksPerRow);
      const bytes = this.#out.bytes(0, numBlocks * shape.blockBytes);
      encoded.set(bytes, row * blocksPerRow * shape.blockBytes);
    }
    return encoded;
  }

  #run({ code, params, table, scratch }: LoadedEncoder, numUnits: number, blocksPerRow: number) {
    const args: Readonly<Record<string, bigint>> = {
      values: this.#values!.address,
      out: this.#out!.address,
      importance: this.#importance?.address ?? 0n,
      blocksPerRow: BigInt(blocksPerRow),
      numUnits: BigInt(numUnits),
      unitsPerChunk: BigInt(numUnits),
    };
    const fields = u64(table.address, params.length);
    for (const [i, param] of params.entries()) {
      const value = args[param];
      if (value === undefined) throw new InternalError(`encoders take ${param}`);
      fields[i] = value;
    }
    code.call('encode', table.address, 0n, scratch.address);
  }

  #encoder(dtype: RowsToEncode['to'], isWeighted: boolean): LoadedEncoder {
    const name = `${dtype} ${isWeighted}`;
    const known = this.#encoders.get(name);
    if (known !== undefined) return known;
    const program = encodeBlocksKernel(this.#machine, { dtype, isWeighted });
    const encoder = {
      code: loadCode([{ name: 'encode', code: lowerToX64(program) }], { numArguments: 3 }),
      params: program.params,
      table: allocate(8 * program.params.length),
      scratch: allocate(program.scratchBytes),
    };
    this.#encoders.set(name, encoder);
    return encoder;
  }

  [Symbol.dispose](): void {
    for (const { code, table, scratch } of this.#encoders.values()) {
      code.dispose();
      table.free();
      scratch.free();
    }
    this.#encoders.clear();
    for (const region of [this.#values, this.#out, this.#importance]) region?.free();
    this.#values = this.#out = this.#importance = null;
  }
}

/** `region`, or a new one in its place that has room. */
function largeEnough(region: NativeRegion | null, sizeBytes: number): NativeRegion {
  if (region !== null && region.byteLength >= sizeBytes) return region;
  region?.free();
  return allocate(sizeBytes);
}
