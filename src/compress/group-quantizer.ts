/**
 * Groups of weights as integer codes: where scale and zero point of a group come from, and rounding to nearest with them.
 * `value = scale * (code - zero)`, codes from 0 to 2^bits - 1. Knows nothing of calibration data or files.
 *
 *     asymmetric   scale = (max - min) / (2^bits - 1), zero = round(-min / scale), with min <= 0 <= max    AWQ, GPTQ sym=false
 *     symmetric    scale = largest / (2^bits - 1) * 2, zero = 2^(bits-1)                                     GPTQ sym=true, compressed-tensors
 *     fullRange    scale = v / -2^(bits-1), v the element of largest magnitude with its sign; same zero     ggml Q4_0, AutoRound
 */
import { F16_TO_F32, f16Bits } from '../tensor/half.ts';
import type { QuantizedMatrix } from '../tensor/quantized-matrix.ts';
import { CompressError, GroupSizeError } from './errors.ts';

export { dequantize, type QuantizedMatrix } from '../tensor/quantized-matrix.ts';

export const SYMMETRIES = ['asymmetric', 'symmetric', 'fullRange'] as const;
export type Symmetry = (typeof SYMMETRIES)[number];

export interface GroupScheme {
  /** 2 to 8. */
  readonly bits: number;
  /** Inputs of a group; `row` for one group per output. */
  readonly groupSize: number | 'row';
  readonly symmetry: Symmetry;
  /** Also tries smaller ranges and keeps the one of least error. */
  readonly searchesRange: boolean;
}

/**
 * Of the range search: shrink by 1 % up to 20 %, stop after 5 steps without gain (llm-compressor's `mse` observer). Where all elements count alike, errors do by
 * their third power; that observer's 2.4 leaves up to 16 % more KL divergence (SmolLM2-135M).
 */
export const RANGE_SEARCH = { steps: 20, patience: 5 } as const;
export const SMALLEST_RANGE = 1e-5;
const LARGEST_F16 = 65504;

/** Halves to even, as torch.round; for values below 2^51. */
export function roundHalfEven(value: number): number {
  return value + 6755399441055744 - 6755399441055744;
}

/** @throws {CompressError} if the scheme is none; {GroupSizeError} if it does not fit rows of `columns` */
export function resolveGroupSize(scheme: GroupScheme, columns: number, tensor: string): number {
  const { bits, groupSize } = scheme;
  if (!Number.isInteger(bits) || bits < 2 || bits > 8) {
    throw new CompressError(`${bits} bits: expected 2 to 8`);
  }
  const size = groupSize === 'row' ? columns : groupSize;
  if (!Number.isInteger(size) || size < 1 || columns % size !== 0) {
    throw new GroupSizeError(tensor, size, columns);
  }
  return size;
}

/** Scale and zero point of a group. */
export interface GroupParams {
  scale: number;
  zero: number;
}

/** Values of a group and what their squared errors count for. */
interface FittedGroup {
  readonly values: Float32Array;
  readonly start: number;
  readonly n: number;
  readonly weights: Float32Array | null;
  readonly weightStart: number;
}

/** Elements between two looks at whether a range has lost already. */
const ERROR_CHUNK = 16;

/** Finds scale and zero point of groups of one scheme; keeps no state between them. */
export class GroupFitter {
  readonly #scheme: GroupScheme;
  readonly #levels: number;

  constructor(scheme: GroupScheme) {
    this.#scheme = scheme;
    this.#levels = 2 ** scheme.bits - 1;
  }

  /**
   * @param values `values[start + i * stride]` for i < n
   * @param weights of the squared error per element (`weights[weightStart + i]`), null for all alike
   */
  fit(
    values: Float32Array,
    start: number,
    n: number,
    weights: Float32Array | null,
    weightStart: number,
    into: GroupParams,
  ): void {
    const { min, max } = this.#rangeOf(values, start, n);
    this.#params(min, max, 1, into);
    if (!this.#scheme.searchesRange) return;
    const group = { values, start, n, weights, weightStart };
    let best = this.#error(group, into, Number.POSITIVE_INFINITY);
    let { scale, zero } = into;
    let withoutGain = 0;
    for (let step = 1; step <= RANGE_SEARCH.steps && withoutGain < RANGE_SEARCH.patience; step++) {
      this.#params(min, max, 1 - step / 100, into);
      const error = this.#error(group, into, best);
      withoutGain++;
      if (error < best) {
        best = error;
        scale = into.scale;
        zero = into.zero;
        withoutGain = 0;
      }
    }
    into.scale = scale;
    into.zero = zero;
  }

  /** Of the range of the group times `shrink`, without search. */
  fitShrunk(
    values: Float32Array,
    start: number,
    n: number,
    shrink: number,
    into: GroupParams,
  ): void {
    const { min, max } = this.#rangeOf(values, start, n);
    this.#params(min, max, shrink, into);
  }

  /** Range of the values and 0. */
  #rangeOf(values: Float32Array, start: number, n: number): { min: number; max: number } {
    let min = 0;
    let max = 0;
    for (let i = start; i < start + n; i++) {
      const v = values[i]!;
      if (v < min) min = v;
      if (v > max) max = v;
    }
    return { min, max };
  }

  /** Of the range [min, max] times `shrink`; min <= 0 <= max. The scale is an f16 that is not 0. */
  #params(min: number, max: number, shrink: number, into: GroupParams): void {
    const levels = this.#levels;
    const half = (levels + 1) / 2;
    switch (this.#scheme.symmetry) {
      case 'asymmetric': {
        const range = Math.max((max - min) * shrink, SMALLEST_RANGE);
        into.scale = storedScale(range / levels);
        const zero = roundHalfEven((-min * shrink) / into.scale);
        into.zero = zero < 0 ? 0 : zero > levels ? levels : zero;
        return;
      }
      case 'symmetric': {
        const largest = Math.max(-min, max) * shrink;
        into.scale = storedScale(Math.max(2 * largest, SMALLEST_RANGE) / levels);
        into.zero = half;
        return;
      }
      case 'fullRange': {
        const signed = (-min > max ? min : max) * shrink;
        const scale = signed / -half;
        into.scale = Math.abs(scale) < 1e-7 ? storedScale(1e-7) : storedScale(scale);
        into.zero = half;
        return;
      }
      default:
        this.#scheme.symmetry satisfies never;
    }
  }

  /** As far as it is below `limit`. */
  #error(
    { values, start, n, weights, weightStart }: FittedGroup,
    { scale, zero }: GroupParams,
    limit: number,
  ): number {
    const levels = this.#levels;
    let error = 0;
    for (let begin = 0; begin < n && error < limit; begin += ERROR_CHUNK) {
      const end = Math.min(n, begin + ERROR_CHUNK);
      for (let i = begin; i < end; i++) {
        const v = values[start + i]!;
        const off = Math.abs(v - scale * (codeOf(v, scale, zero, levels) - zero));
        error += off * off * (weights === null ? off : weights[weightStart + i]!);
      }
    }
    return error;
  }
}

/** The f16 nearest to `scale`, but finite and not 0. */
export function storedScale(scale: number): number {
  const stored = F16_TO_F32[f16Bits(Math.max(-LARGEST_F16, Math.min(LARGEST_F16, scale)))]!;
  if (stored !== 0) return stored;
  return scale < 0 ? -(2 ** -24) : 2 ** -24;
}

/** The code nearest to `value`, 0 to `levels`. */
export function codeOf(value: number, scale: number, zero: number, levels: number): number {
  const code = roundHalfEven(value / scale) + zero;
  return code < 0 ? 0 : code > levels ? levels : code;
}

/** A matrix whose codes, scales and zero points are still to be found: all 0. */
export function blankMatrix(
  rows: number,
  columns: number,
  { bits, symmetry }: GroupScheme,
  groupSize: number,
): QuantizedMatrix {
  const numGroups = (rows * columns) / groupSize;
  return {
    ...{ rows, columns, bits, groupSize },
    codes: new Uint8Array(rows * columns),
    scales: new Float32Array(numGroups),
    zeros: new Uint8Array(numGroups),
    isSymmetric: symmetry !== 'asymmetric',
  };
}

/** Bits per weight with f16 scales, and zero points of `bits` where they are not all alike. */
export function bitsPerWeight(matrix: Pick<QuantizedMatrix, 'bits' | 'groupSize' | 'isSymmetric'>) {
  return matrix.bits + (16 + (matrix.isSymmetric ? 0 : matrix.bits)) / matrix.groupSize;
}
