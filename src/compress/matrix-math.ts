/**
 * Products of large f32 matrices on all cores, with the kernel that runs models (kernels/matmul.ts): out = a · bᵀ + residual. What calibration needs:
 * XᵀX, rank updates, Cholesky factors. Where there is no native code, a plain loop does the same, slowly.
 */
import { matmulBlockInputs, matmulKernel, matmulTile } from '../kernels/matmul.ts';
import { floatFormat, ROW_GROUP } from '../kernels/packed-format.ts';
import {
  PACKED_BLOCK_INPUTS,
  packedProductKernel,
  packedProductUnit,
} from '../kernels/packed-product.ts';
import { InternalError } from '../platform/errors.ts';
import { allocate, f32 } from '../platform/native-memory.ts';
import { cpuTopology } from '../platform/topology.ts';
import { resolveTarget } from '../runtime/create-runner.ts';
import type { TargetName } from '../runtime/runner-options.ts';
import { machineOf } from '../targets/x64/isa.ts';
import { KernelTeam } from './kernel-team.ts';
import { SpareMemory } from './spare-memory.ts';

/** Columns are filled up to the unit of the widest kernel. */
const COLUMN_PADDING = 32;
/** Of the right factor. */
const FORMAT = floatFormat('f32');

/** f32 [rows, stride] in memory that kernels can reach; columns from `columns` to `stride` are for their overhang. */
export interface Matrix extends Disposable {
  readonly rows: number;
  readonly columns: number;
  /** In elements. */
  readonly stride: number;
  readonly values: Float32Array;
  readonly address: bigint;
}

/** The right factor of a product, [rows n, columns k], in the kernels' layout: element (n, k) at (n div 16 * capacity + k) * 16 + n mod 16. */
export interface PackedMatrix extends Disposable {
  readonly rows: number;
  /** Most columns that there is room for. */
  readonly capacity: number;
  readonly values: Float32Array;
  readonly address: bigint;
}

export function paddedColumns(columns: number): number {
  return Math.ceil(columns / COLUMN_PADDING) * COLUMN_PADDING;
}

/** One product: out[m][n] = sum over k of a[m][k] * b[n][k] (+ residual[m][n]). */
export interface Product {
  readonly a: Matrix;
  /** First row and column of `a`; defaults 0. */
  readonly aRow?: number;
  readonly aColumn?: number;
  readonly b: PackedMatrix;
  /** First row of `b`, a multiple of 32; default 0. */
  readonly bRow?: number;
  /** First column of `b`; default 0. */
  readonly bColumn?: number;
  readonly m: number;
  /** Taken up to the next multiple of 32: `out` must have room for it. */
  readonly n: number;
  readonly k: number;
  readonly out: Matrix;
  readonly outRow?: number;
  readonly outColumn?: number;
  /** Added; at the same place as `out`. May be `out` itself where k is at most 128. */
  readonly residual?: Matrix;
}

/** One product of packed matrices, which are not transposed for it: out[m][n] = sum over k of a[m][k] * b[n][k] + residual[m][n]. */
export interface PackedProduct {
  readonly a: PackedMatrix;
  /** First rows, multiples of 32; defaults 0. */
  readonly aRow?: number;
  readonly b: PackedMatrix;
  readonly bRow?: number;
  /** Taken up to the next multiple of 16: `out` must have rows for it. */
  readonly m: number;
  /** Taken up to the next multiple of 32: `out` must have columns for it. */
  readonly n: number;
  readonly k: number;
  readonly out: Matrix;
  readonly outRow?: number;
  readonly outColumn?: number;
  /** Added; at the same place as `out`. May be `out` itself where k is at most 128. */
  readonly residual: Matrix;
  /** True where only what is on and above the diagonal of this product is wanted; some of what is below is made all the same. */
  readonly isUpper?: boolean;
}

/** Largest k for which a product may be added to its own output. */
export const IN_PLACE_INPUTS = 128;

const SHAPE = { format: FORMAT, activation: 'f32', bias: false, prefetch: false } as const;

export class MatrixMath implements Disposable {
  /** What runs kernels on these matrices; null where there is no native code. */
  readonly kernels: KernelTeam | null;
  readonly #spare = new SpareMemory();

  /** @param threads null for as many as there are cores */
  constructor(threads: number | null = null, target: TargetName = 'auto') {
    const resolved = resolveTarget(target);
    this.kernels =
      resolved.kind === 'x64'
        ? new KernelTeam(machineOf(resolved.isa), threads ?? cpuTopology().usableCores)
        : null;
  }

  matrix(rows: number, columns: number): Matrix {
    const stride = paddedColumns(columns);
    return { rows, columns, stride, ...this.#memoryOf(Math.max(1, rows) * stride) };
  }

  packed(rows: number, capacity: number): PackedMatrix {
    return { rows, capacity, ...this.#memoryOf(paddedColumns(rows) * Math.max(1, capacity)) };
  }

  /** Zeros. */
  #memoryOf(elements: number): { values: Float32Array; address: bigint } & Disposable {
    if (this.kernels === null) {
      return { values: new Float32Array(elements), address: 0n, [Symbol.dispose]: () => {} };
    }
    // A cache line more: kernels may read a vector past the end.
    const sizeBytes = 4 * elements + 64;
    const used = this.#spare.take(sizeBytes);
    const region = used ?? allocate(sizeBytes, { hugePages: elements > 1 << 20 });
    const values = f32(region.address, elements);
    if (used !== null) values.fill(0);
    let isDisposed = false;
    const dispose = (): void => {
      if (!isDisposed) this.#spare.put(region);
      isDisposed = true;
    };
    return { values, address: region.address, [Symbol.dispose]: dispose };
  }

  multiply(product: Product): void {
    const { b, k, n, out, residual, bRow = 0, bColumn = 0 } = product;
    if (bColumn + k > b.capacity || bRow % COLUMN_PADDING !== 0) {
      throw new InternalError(
        `product over ${k} of ${b.capacity}, from row ${bRow}, column ${bColumn}`,
      );
    }
    if (residual === out && k > IN_PLACE_INPUTS) {
      throw new InternalError(`a product over ${k} cannot be added in place`);
    }
    const width = paddedColumns(n);
    if ((product.outColumn ?? 0) + width > out.stride || k === 0) {
      throw new InternalError(`no room for ${width} columns`);
    }
    if (this.kernels === null) multiplyPlainly(product, width);
    else multiplyOn(this.kernels, product, width);
  }

  multiplyPacked(product: PackedProduct): void {
    const { a, b, m, n, k, out, residual, aRow = 0, bRow = 0, outRow = 0, outColumn = 0 } = product;
    const numGroups = Math.ceil(m / ROW_GROUP);
    const width = paddedColumns(n);
    const fits = k >= 1 && k <= Math.min(a.capacity, b.capacity);
    const isApart = residual !== out || k <= IN_PLACE_INPUTS;
    const isAligned = aRow % COLUMN_PADDING === 0 && bRow % COLUMN_PADDING === 0;
    const hasRoom = outRow + numGroups * ROW_GROUP <= out.rows && outColumn + width <= out.stride;
    if (!fits || !isApart || !isAligned || !hasRoom) {
      throw new InternalError(`no room for a packed product of ${m} x ${n} over ${k}`);
    }
    if (this.kernels === null) {
      multiplyPackedPlainly(product, numGroups * ROW_GROUP, width);
      return;
    }
    const unit = packedProductUnit(this.kernels.machine);
    const addressOfRow = (matrix: PackedMatrix, row: number): bigint =>
      matrix.address + BigInt(4 * row * matrix.capacity);
    this.kernels.run('packedProduct', packedProductKernel, width / unit, {
      a: addressOfRow(a, aRow),
      aGroupStride: BigInt(4 * ROW_GROUP * a.capacity),
      b: addressOfRow(b, bRow),
      bGroupStride: BigInt(4 * ROW_GROUP * b.capacity),
      inputs: BigInt(k),
      blockInputs: BigInt(Math.min(k, PACKED_BLOCK_INPUTS)),
      numGroups: BigInt(numGroups),
      groupsPerUnit: BigInt(product.isUpper ? unit / ROW_GROUP : numGroups),
      out: addressOf(out, outRow, outColumn),
      outStride: BigInt(4 * out.stride),
      residual: addressOf(residual, outRow, outColumn),
      residualStride: BigInt(4 * residual.stride),
    });
  }

  [Symbol.dispose](): void {
    this.kernels?.[Symbol.dispose]();
    this.#spare[Symbol.dispose]();
  }
}

function multiplyOn(kernels: KernelTeam, product: Product, width: number): void {
  const { a, aRow = 0, aColumn = 0, b, bRow = 0, m, k, out, outRow = 0, outColumn = 0 } = product;
  const { residual, bColumn = 0 } = product;
  const { unitRows } = matmulTile(kernels.machine, SHAPE);
  const values: Record<string, bigint> = {
    weight: b.address + BigInt(4 * (bRow * b.capacity + bColumn * ROW_GROUP)),
    groupStride: BigInt(4 * ROW_GROUP * b.capacity),
    inputs: BigInt(k),
    blockInputs: BigInt(matmulBlockInputs('f32', FORMAT, k)),
    x: addressOf(a, aRow, aColumn),
    xStride: BigInt(4 * a.stride),
    out: addressOf(out, outRow, outColumn),
    outStride: BigInt(4 * out.stride),
    numRows: BigInt(m),
  };
  if (residual !== undefined) {
    values.residual = addressOf(residual, outRow, outColumn);
    values.residualStride = BigInt(4 * residual.stride);
  }
  const shape = { ...SHAPE, residual: residual !== undefined };
  const name = `matmul${shape.residual ? ' added' : ''}`;
  kernels.run(name, (machine) => matmulKernel(machine, shape), width / unitRows, values);
}

/** Where an element stands. */
export function addressOf(matrix: Matrix, row: number, column: number): bigint {
  return matrix.address + BigInt(4 * (row * matrix.stride + column));
}

function multiplyPlainly(product: Product, width: number): void {
  const { a, aRow = 0, aColumn = 0, b, bRow = 0, m, k, out, outRow = 0, outColumn = 0 } = product;
  const { residual, bColumn = 0 } = product;
  for (let i = 0; i < m; i++) {
    const aAt = (aRow + i) * a.stride + aColumn;
    const outAt = (outRow + i) * out.stride + outColumn;
    for (let j = 0; j < width; j++) {
      const row = bRow + j;
      const bAt = ((row >> 4) * b.capacity + bColumn) * ROW_GROUP + (row & 15);
      let sum = 0;
      for (let t = 0; t < k; t++) sum += a.values[aAt + t]! * b.values[bAt + t * ROW_GROUP]!;
      const before =
        residual === undefined
          ? 0
          : residual.values[(outRow + i) * residual.stride + outColumn + j]!;
      out.values[outAt + j] = before + sum;
    }
  }
}

function multiplyPackedPlainly(product: PackedProduct, m: number, n: number): void {
  const { a, aRow = 0, b, bRow = 0, k, out, outRow = 0, outColumn = 0, residual } = product;
  for (let i = 0; i < m; i++) {
    const aAt = packedAt(a, aRow + i);
    const outAt = (outRow + i) * out.stride + outColumn;
    const residualAt = (outRow + i) * residual.stride + outColumn;
    for (let j = product.isUpper ? i : 0; j < n; j++) {
      const bAt = packedAt(b, bRow + j);
      let sum = 0;
      for (let t = 0; t < k; t++) {
        sum += a.values[aAt + t * ROW_GROUP]! * b.values[bAt + t * ROW_GROUP]!;
      }
      out.values[outAt + j] = residual.values[residualAt + j]! + sum;
    }
  }
}

/** Where the first column of a row stands; the next is `ROW_GROUP` behind. */
function packedAt({ capacity }: PackedMatrix, row: number): number {
  return Math.floor(row / ROW_GROUP) * ROW_GROUP * capacity + (row % ROW_GROUP);
}

/**
 * Rows of `from` become columns of `into`: into(n, k) = sign * from(row + k, column + n), for k < count and n < rows.
 * @param at first column of `into`
 */
export function packTransposed(
  into: PackedMatrix,
  at: number,
  from: Matrix,
  { row, column, count, rows = into.rows, sign = 1 }: Omit<PackRange, 'rows'> & { rows?: number },
): void {
  const { values, capacity } = into;
  const source = from.values;
  for (let n = 0; n < paddedColumns(rows); n += ROW_GROUP) {
    let s = row * from.stride + column + n;
    let d = n * capacity + at * ROW_GROUP;
    for (let k = 0; k < count; k++, s += from.stride, d += ROW_GROUP) {
      for (let r = 0; r < ROW_GROUP; r++) values[d + r] = sign * source[s + r]!;
    }
  }
}

/** Rows stay rows: into(n, k) = sign * from(row + n, column + k), for n < into.rows and k < count; rows past `rows` become 0. */
export function packRows(
  into: PackedMatrix,
  from: Matrix,
  { row, column, rows, count, sign = 1 }: PackRange,
): void {
  const { values, capacity } = into;
  for (let n = 0; n < paddedColumns(into.rows); n++) {
    let d = (n >> 4) * capacity * ROW_GROUP + (n & 15);
    if (n >= rows) {
      for (let k = 0; k < count; k++, d += ROW_GROUP) values[d] = 0;
      continue;
    }
    const s = (row + n) * from.stride + column;
    for (let k = 0; k < count; k++, d += ROW_GROUP) values[d] = sign * from.values[s + k]!;
  }
}

export interface PackRange {
  readonly row: number;
  readonly column: number;
  readonly rows: number;
  readonly count: number;
  readonly sign?: 1 | -1;
}
