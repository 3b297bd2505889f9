/** The grids of a matrix's groups on native code (kernels/group-grid.ts); nearest-rounder.ts says what is done and does the same plainly. */
import { type FitGroupsShape, fitGroupsKernel, roundGroupsKernel } from '../kernels/group-grid.ts';
import { type GroupScheme, RANGE_SEARCH, SMALLEST_RANGE } from './group-quantizer.ts';
import type { KernelTeam } from './kernel-team.ts';
import type { Matrix, MatrixMath } from './matrix-math.ts';
import type { GroupGrid } from './nearest-rounder.ts';

const F32 = new Float32Array(1);
const BITS = new Uint32Array(F32.buffer);

/** What a kernel is told as a number in an argument. */
function bitsOf(value: number): bigint {
  F32[0] = value;
  return BigInt(BITS[0]!);
}

export class GridKernels implements Disposable {
  readonly #math: MatrixMath;
  readonly #kernels: KernelTeam;
  readonly #symmetry: FitGroupsShape['symmetry'];
  readonly #levels: number;
  readonly #groupSize: number;
  /** Of a matrix's groups, in a row each; made for as many as are asked for. */
  #scales: Matrix;
  #zeros: Matrix;

  private constructor(
    math: MatrixMath,
    kernels: KernelTeam,
    {
      symmetry,
      bits,
      groupSize,
    }: Pick<FitGroupsShape, 'symmetry'> & Record<'bits' | 'groupSize', number>,
  ) {
    this.#math = math;
    this.#kernels = kernels;
    this.#symmetry = symmetry;
    this.#levels = 2 ** bits - 1;
    this.#groupSize = groupSize;
    this.#scales = math.matrix(1, 1);
    this.#zeros = math.matrix(1, 1);
  }

  /** Null where the kernels cannot do it: without native code, for groups that are no whole vectors, for scales that may be negative. */
  static create(
    math: MatrixMath,
    { symmetry, bits }: GroupScheme,
    groupSize: number,
  ): GridKernels | null {
    const { kernels } = math;
    if (kernels === null || symmetry === 'fullRange') return null;
    if (groupSize % kernels.machine.lanes !== 0) return null;
    return new GridKernels(math, kernels, { symmetry, bits, groupSize });
  }

  fit(from: Matrix, columns: number, ratio: number, grid: GroupGrid): void {
    this.#makeRoom(grid.scales.length);
    this.#fit(from, columns, { search: null, isScaled: false }, { ratio: bitsOf(ratio) });
    this.#copyTo(grid);
  }

  search(from: Matrix, columns: number, importance: Float32Array | null, grid: GroupGrid): void {
    this.#makeRoom(grid.scales.length);
    using weights = importance === null ? null : this.#vector(importance);
    const shape = {
      search: { ...RANGE_SEARCH, isWeighted: weights !== null },
      isScaled: false,
    };
    this.#fit(from, columns, shape, weights === null ? {} : { importance: weights.address });
    this.#copyTo(grid);
  }

  #copyTo({ scales, zeros }: GroupGrid): void {
    scales.set(this.#scales.values.subarray(0, scales.length));
    zeros.set(this.#zeros.values.subarray(0, zeros.length));
  }

  round(from: Matrix, columns: number, { scales, zeros }: GroupGrid, into: Matrix): void {
    this.#makeRoom(scales.length);
    this.#scales.values.set(scales);
    this.#zeros.values.set(zeros);
    this.#kernels.run('roundGroups', (m) => roundGroupsKernel(m, { isChange: false }), from.rows, {
      ...this.#groups(from, columns),
      ...{ out: into.address, outStride: BigInt(4 * into.stride) },
    });
  }

  /** What rounding weights times `factors`, then divided by them, adds to the weights. */
  change(from: Matrix, columns: number, factors: Float32Array, into: Matrix): void {
    this.#makeRoom((from.rows * columns) / this.#groupSize);
    using multipliers = this.#vector(factors);
    using inverses = this.#vector(factors.map((factor) => 1 / factor));
    const params = { factors: multipliers.address, ratio: bitsOf(1) };
    this.#fit(from, columns, { search: null, isScaled: true }, params);
    this.#kernels.run(
      'roundGroups change',
      (m) => roundGroupsKernel(m, { isChange: true }),
      from.rows,
      {
        ...this.#groups(from, columns),
        ...{ out: into.address, outStride: BigInt(4 * into.stride) },
        ...{ factors: multipliers.address, inverses: inverses.address },
      },
    );
  }

  #fit(
    from: Matrix,
    columns: number,
    { search, isScaled }: Pick<FitGroupsShape, 'search' | 'isScaled'>,
    params: Readonly<Record<string, bigint>>,
  ): void {
    const symmetry = this.#symmetry;
    const shape: FitGroupsShape = { symmetry, smallestRange: SMALLEST_RANGE, isScaled, search };
    this.#kernels.run(
      `fitGroups ${JSON.stringify(shape)}`,
      (m) => fitGroupsKernel(m, shape),
      from.rows,
      { ...this.#groups(from, columns), ...params },
    );
  }

  #groups(from: Matrix, columns: number): Record<string, bigint> {
    return {
      values: from.address,
      stride: BigInt(4 * from.stride),
      scales: this.#scales.address,
      zeros: this.#zeros.address,
      numGroups: BigInt(columns / this.#groupSize),
      groupVectors: BigInt(this.#groupSize / this.#kernels.machine.lanes),
      levels: BigInt(this.#levels),
    };
  }

  #vector(values: Float32Array): Matrix {
    const vector = this.#math.matrix(1, values.length);
    vector.values.set(values);
    return vector;
  }

  #makeRoom(numGroups: number): void {
    if (this.#scales.columns >= numGroups) return;
    this[Symbol.dispose]();
    this.#scales = this.#math.matrix(1, numGroups);
    this.#zeros = this.#math.matrix(1, numGroups);
  }

  [Symbol.dispose](): void {
    this.#scales[Symbol.dispose]();
    this.#zeros[Symbol.dispose]();
  }
}
