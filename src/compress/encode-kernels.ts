/**
 * Stored rows → blocks of another type on native code, on the calling thread: what encode-rows.ts does plainly, many times faster and to the byte. Memory is
 * bounded: rows go through it in pieces. Knows nothing of threads and files.
 */
import { encodeBlocksKernel, encodedShape } from '../kernels/encode/encode-blocks.ts';
import { WIDENED_ELEMENTS, type WideFormat, widenKernel } from '../kernels/encode/widen.ts';
import type { VectorMachine } from '../kernels/kernel-ir.ts';
import { allocate, f32, type NativeRegion } from '../platform/native-memory.ts';
import { chooseTarget } from '../runtime/target-choice.ts';
import { machineOf } from '../targets/x64/isa.ts';
import { NativeCodeRefusedError } from '../targets/x64/loader.ts';
import { type DType, rowBytes } from '../tensor/dtype.ts';
import { decodeRows, numRowsOf, type RowsToEncode } from './encode-rows.ts';
import { KernelTeam } from './kernel-team.ts';

/** Encoded at a time, or a row where that is longer: stays in the second cache. */
const PIECE_ELEMENTS = 1 << 16;

/** Types that need no more than widening. */
const WIDENED: Partial<Record<DType, WideFormat>> = { f32: 'bits', f16: 'f16', bf16: 'bf16' };

export class EncodeKernels implements Disposable {
  /** Of the calling thread alone. */
  readonly #team: KernelTeam;
  readonly #memory = new NamedMemory();

  constructor(machine: VectorMachine) {
    this.#team = new KernelTeam(machine, 1);
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

  /**
   * Null for types without a kernel, and rows that are no whole blocks.
   *
   * @throws {NonFiniteWeightError} at the first weight that is NaN or infinite
   */
  encode(rows: RowsToEncode): Uint8Array | null {
    const { to, columns, channels } = rows;
    const shape = encodedShape(to);
    if (shape === null || columns === 0 || columns % shape.elements !== 0) return null;
    const blocksPerRow = columns / shape.elements;
    const bytesPerRow = blocksPerRow * shape.blockBytes;
    const { lanes } = this.#team.machine;
    const rowsPerPiece = Math.max(1, Math.floor(PIECE_ELEMENTS / columns));
    const mostBlocks = Math.ceil((rowsPerPiece * blocksPerRow) / lanes) * lanes;
    const values = this.#memory.of('values', 4 * mostBlocks * shape.elements);
    const out = this.#memory.of('out', mostBlocks * shape.blockBytes);
    const importance = this.#memory.of('importance', 4 * columns);
    const isWeighted = channels !== null && shape.importance !== 'unused';
    if (isWeighted) importance.floats.set(channels);
    const rowMeans = this.#memory.of('rowMeans', 4 * rowsPerPiece + 4 * lanes);
    const numRows = numRowsOf(rows);
    const encoded = new Uint8Array(numRows * bytesPerRow);
    for (let first = 0; first < numRows; first += rowsPerPiece) {
      const end = Math.min(numRows, first + rowsPerPiece);
      this.#decode(rows, { first, end }, values);
      if (isWeighted && shape.importance === 'ofRows') {
        meanSquares(values.floats, columns, rowMeans.floats.subarray(0, end - first));
      }
      this.#team.run(
        `${to} ${isWeighted}`,
        (machine) => encodeBlocksKernel(machine, { dtype: to, isWeighted }),
        Math.ceil(((end - first) * blocksPerRow) / lanes),
        {
          ...{ values: values.address, out: out.address, importance: importance.address },
          ...{ rowMeans: rowMeans.address, blocksPerRow: BigInt(blocksPerRow) },
        },
      );
      encoded.set(out.bytes.subarray(0, (end - first) * bytesPerRow), first * bytesPerRow);
    }
    return encoded;
  }

  #decode(
    rows: RowsToEncode,
    { first, end }: { readonly first: number; readonly end: number },
    into: WorkMemory,
  ): void {
    const { from, stored, columns } = rows;
    const elements = (end - first) * columns;
    const format = WIDENED[from];
    if (format === undefined || elements % WIDENED_ELEMENTS !== 0) {
      decodeRows(rows, { first, end }, into.floats);
      return;
    }
    const bytesPerRow = rowBytes(from, columns);
    const staged = this.#memory.of('staged', (end - first) * bytesPerRow);
    const differences = this.#memory.of('differences', 4 * this.#team.machine.lanes);
    staged.bytes.set(stored.subarray(first * bytesPerRow, end * bytesPerRow));
    this.#team.run(
      `widen ${format}`,
      (machine) => widenKernel(machine, format),
      elements / WIDENED_ELEMENTS,
      { from: staged.address, out: into.address, differences: differences.address },
    );
    const areFinite = differences.floats.every((x) => x === 0);
    // Says which it is.
    if (!areFinite) decodeRows(rows, { first, end }, into.floats);
  }

  [Symbol.dispose](): void {
    this.#team[Symbol.dispose]();
    this.#memory[Symbol.dispose]();
  }
}

/** Of each of the rows that `means` has room for, added up in f32 from its first value on. */
function meanSquares(values: Float32Array, columns: number, means: Float32Array): void {
  for (let row = 0; row < means.length; row++) {
    let sum = 0;
    for (let i = row * columns; i < (row + 1) * columns; i++) {
      sum = Math.fround(sum + Math.fround(values[i]! * values[i]!));
    }
    means[row] = sum / columns;
  }
}

/** Memory that kernels reach, and views of all of it. */
interface WorkMemory {
  readonly region: NativeRegion;
  readonly address: bigint;
  readonly bytes: Uint8Array;
  readonly floats: Float32Array;
}

/** Memory that is used again, and made anew where it has become too small. */
class NamedMemory implements Disposable {
  readonly #known = new Map<string, WorkMemory>();

  of(name: string, sizeBytes: number): WorkMemory {
    const known = this.#known.get(name);
    if (known !== undefined && known.bytes.length >= sizeBytes) return known;
    known?.region.free();
    const region = allocate(Math.ceil(sizeBytes / 4) * 4);
    const { address, byteLength } = region;
    const memory = { region, address, bytes: region.bytes(), floats: f32(address, byteLength / 4) };
    this.#known.set(name, memory);
    return memory;
  }

  [Symbol.dispose](): void {
    for (const { region } of this.#known.values()) region.free();
    this.#known.clear();
  }
}
