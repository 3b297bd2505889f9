/**
 * Sign rounding: an offset per weight, added before it is rounded to nearest, and a factor of each group's smallest and largest value are learned by descent along the
 * sign of the gradient, rounding itself taken as the identity. SignRound, Cheng et al. 2023, arXiv:2309.05516 (AutoRound), with the error of the linear's own outputs,
 * trace((Q - W) M (Q - W)ᵀ), in the place of a block's: its gradient is one product, and rows are independent of each other.
 */
import {
  blankMatrix,
  type GroupScheme,
  type QuantizedMatrix,
  roundHalfEven,
  storedScale,
} from './group-quantizer.ts';
import { type Matrix, type MatrixMath, type PackedMatrix, packTransposed } from './matrix-math.ts';
import type { GroupGrid } from './nearest-rounder.ts';

/** Rows at once: all that is looked at in a step stays in the cache. */
const ROWS = 256;
/** Of the first step, times the number of steps; it falls to 0 in a line, so that offsets stay within 0.5 without being held there. Half of what is published, which does worse. */
const RATE = 0.5;

export interface SignRoundOptions {
  readonly scheme: GroupScheme;
  readonly groupSize: number;
  /** Where the descent starts: scales and zero points that factors of 1 stand for. */
  readonly grid: GroupGrid;
  readonly iterations: number;
}

/**
 * Of each row the best codes that were met on the way; those of rounding to nearest on the grid are the first.
 *
 * @param weights f32 [rows, columns]
 * @param moments of the inputs, f32 [columns, columns]
 */
export function signRound(
  math: MatrixMath,
  weights: Matrix,
  moments: Matrix,
  { scheme, groupSize, grid, iterations }: SignRoundOptions,
): QuantizedMatrix {
  const { rows } = weights;
  const { columns } = moments;
  const quantized = blankMatrix(rows, columns, scheme, groupSize);
  using descent = new SignDescent(math, weights, moments, grid, quantized);
  for (let start = 0; start < rows; start += ROWS) {
    descent.begin(start, Math.min(ROWS, rows - start));
    for (let step = 0; step < iterations; step++) {
      descent.step((RATE / iterations) * (1 - step / iterations));
    }
    descent.end();
  }
  return quantized;
}

class SignDescent implements Disposable {
  readonly #math: MatrixMath;
  readonly #weights: Matrix;
  readonly #grid: GroupGrid;
  readonly #best: QuantizedMatrix;
  readonly #packed: PackedMatrix;
  /** Q - W of the rows at hand, f32 [ROWS, columns]. */
  readonly #change: Matrix;
  /** (Q - W) M of them: half the gradient. */
  readonly #gradient: Matrix;
  /** The same bits as integers, for their signs. */
  readonly #gradientBits: Int32Array;
  /** f32 [ROWS, columns] */
  readonly #offsets: Float32Array;
  readonly #codes: Uint8Array;
  /** Of each group of them: factors of its smallest and largest value, and what they make of it. */
  readonly #least: Float64Array;
  readonly #most: Float64Array;
  readonly #scales: Float32Array;
  readonly #zeros: Uint8Array;
  readonly #leastErrors = new Float64Array(ROWS);
  readonly #levels: number;
  #start = 0;
  #rows = 0;

  constructor(
    math: MatrixMath,
    weights: Matrix,
    moments: Matrix,
    grid: GroupGrid,
    best: QuantizedMatrix,
  ) {
    const { columns, groupSize, bits } = best;
    const rows = Math.min(ROWS, best.rows);
    const numGroups = (rows * columns) / groupSize;
    this.#math = math;
    this.#weights = weights;
    this.#grid = grid;
    this.#best = best;
    this.#levels = 2 ** bits - 1;
    this.#packed = math.packed(columns, columns);
    packTransposed(this.#packed, 0, moments, { row: 0, column: 0, count: columns });
    this.#change = math.matrix(rows, columns);
    this.#gradient = math.matrix(rows, columns);
    const { buffer, byteOffset, length } = this.#gradient.values;
    this.#gradientBits = new Int32Array(buffer, byteOffset, length);
    this.#offsets = new Float32Array(rows * columns);
    this.#codes = new Uint8Array(rows * columns);
    this.#least = new Float64Array(numGroups);
    this.#most = new Float64Array(numGroups);
    this.#scales = new Float32Array(numGroups);
    this.#zeros = new Uint8Array(numGroups);
  }

  /** Takes up `rows` rows from `start`, rounded to nearest. */
  begin(start: number, rows: number): void {
    this.#start = start;
    this.#rows = rows;
    this.#offsets.fill(0);
    this.#least.fill(1);
    this.#most.fill(1);
    this.#leastErrors.fill(Number.POSITIVE_INFINITY);
    this.#forGroups((group, row, column) => this.#round(group, row, column));
  }

  #forGroups(visit: (group: number, row: number, column: number) => void): void {
    const { columns, groupSize } = this.#best;
    let group = 0;
    for (let row = 0; row < this.#rows; row++) {
      for (let column = 0; column < columns; column += groupSize) visit(group++, row, column);
    }
  }

  step(rate: number): void {
    this.end();
    this.#forGroups((group, row, column) => {
      this.#descend(group, row, column, rate);
      this.#round(group, row, column);
    });
  }

  /** Keeps rows that are better than ever before. */
  end(): void {
    const { columns, groupSize } = this.#best;
    const numGroups = columns / groupSize;
    const { values: change, stride } = this.#change;
    const gradient = this.#gradient.values;
    this.#math.multiply({
      ...{ a: this.#change, b: this.#packed, out: this.#gradient },
      ...{ m: this.#rows, n: columns, k: columns },
    });
    for (let row = 0; row < this.#rows; row++) {
      let error = 0;
      const at = row * stride;
      for (let j = at; j < at + columns; j++) error += change[j]! * gradient[j]!;
      if (error >= this.#leastErrors[row]!) continue;
      this.#leastErrors[row] = error;
      const { codes, scales, zeros } = this.#best;
      const into = this.#start + row;
      codes.set(this.#codes.subarray(row * columns, (row + 1) * columns), into * columns);
      const [from, to] = [row * numGroups, (row + 1) * numGroups];
      scales.set(this.#scales.subarray(from, to), into * numGroups);
      zeros.set(this.#zeros.subarray(from, to), into * numGroups);
    }
  }

  /** Range of a group on the grid it started from: scale times codes below and above the zero point. */
  #rangeOf(group: number): { below: number; above: number } {
    const at = (this.#start * this.#best.columns) / this.#best.groupSize + group;
    const scale = this.#grid.scales[at]!;
    const zero = this.#grid.zeros[at]!;
    return { below: zero * scale, above: (this.#levels - zero) * scale };
  }

  /** Hot. Codes of a group with its offsets and factors. */
  #round(group: number, row: number, column: number): void {
    const { columns, groupSize, isSymmetric } = this.#best;
    const levels = this.#levels;
    const { below, above } = this.#rangeOf(group);
    const least = (isSymmetric ? this.#most : this.#least)[group]!;
    const scale = storedScale((least * below + this.#most[group]! * above) / levels);
    const nearest = isSymmetric ? (levels + 1) / 2 : roundHalfEven((least * below) / scale);
    const zero = nearest < 0 ? 0 : nearest > levels ? levels : nearest;
    this.#scales[group] = scale;
    this.#zeros[group] = zero;
    const inverse = 1 / scale;
    const weights = this.#weights.values;
    const change = this.#change.values;
    const offsets = this.#offsets;
    const codes = this.#codes;
    const w = (this.#start + row) * this.#weights.stride + column;
    const c = row * this.#change.stride + column;
    const v = row * columns + column;
    for (let i = 0; i < groupSize; i++) {
      const weight = weights[w + i]!;
      const wanted = roundHalfEven(weight * inverse + offsets[v + i]!) + zero;
      const code = wanted < 0 ? 0 : wanted > levels ? levels : wanted;
      codes[v + i] = code;
      change[c + i] = scale * (code - zero) - weight;
    }
  }

  /** Hot. Moves offsets and factors of a group against the sign of their gradients. */
  #descend(group: number, row: number, column: number, rate: number): void {
    const { columns, groupSize, isSymmetric } = this.#best;
    const levels = this.#levels;
    const scale = this.#scales[group]!;
    const zero = this.#zeros[group]!;
    const inverse = 1 / scale;
    const step = scale > 0 ? rate : -rate;
    const weights = this.#weights.values;
    const gradient = this.#gradient.values;
    const bits = this.#gradientBits;
    const offsets = this.#offsets;
    const w = (this.#start + row) * this.#weights.stride + column;
    const g = row * this.#gradient.stride + column;
    const v = row * columns + column;
    let ofScale = 0;
    let ofZero = 0;
    for (let i = 0; i < groupSize; i++) {
      const slope = gradient[g + i]!;
      const exact = weights[w + i]! * inverse;
      const wanted = roundHalfEven(exact + offsets[v + i]!);
      const code = wanted + zero;
      if (code >= 0 && code <= levels) {
        // 1 or -1, without a branch that could go either way.
        offsets[v + i]! -= step * ((bits[g + i]! >> 31) | 1);
        ofScale += slope * (wanted - exact);
      } else {
        // Beyond the range a weight moves with its end alone.
        ofScale += slope * ((code < 0 ? 0 : levels) - zero);
        ofZero -= slope * scale;
      }
    }
    const { below, above } = this.#rangeOf(group);
    if (isSymmetric) {
      this.#most[group]! -= rate * Math.sign(ofScale * (below + above));
      return;
    }
    // scale = (least * below + most * above) / levels, zero = least * below / scale
    const zeroByScale = (ofZero * this.#least[group]! * below) / (scale * scale);
    const ofRange = (ofScale - zeroByScale) / levels;
    this.#most[group]! -= rate * Math.sign(ofRange * above);
    this.#least[group]! -= rate * Math.sign(ofRange * below + (ofZero * below) / scale);
  }

  [Symbol.dispose](): void {
    for (const each of [this.#packed, this.#change, this.#gradient]) each[Symbol.dispose]();
  }
}
