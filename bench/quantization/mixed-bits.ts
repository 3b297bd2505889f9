/**
 * Rounding to nearest with bits per tensor, at the size of the same bits for all. How the predictions change when one tensor alone is rounded is measured once
 * for a model, with PROBED_BITS in groups of 64; what other bits and groups do follows from the rounding errors.
 */
import { allocateBits, type Choice } from '../../src/compress/bit-allocation.ts';
import type { F32Weights } from '../../src/compress/f32-weights.ts';
import {
  bitsPerWeight,
  dequantize,
  type GroupScheme,
  type QuantizedMatrix,
} from '../../src/compress/group-quantizer.ts';
import { MatrixMath } from '../../src/compress/matrix-math.ts';
import { matrixShape } from '../../src/compress/matrix-rows.ts';
import { quantizeToNearest } from '../../src/compress/nearest-rounder.ts';
import { TensorProbe } from '../../src/compress/tensor-probe.ts';
import type { ModelConfig } from '../../src/models/model-config.ts';

/** Bits that a tensor may get. */
const BITS = [2, 3, 4, 5, 6, 8] as const;
/** Two bits hurt more than their errors say. */
const PROBED_BITS = [2, 3, 4] as const;
const PROBED_GROUPS = { groupSize: 64, symmetry: 'asymmetric', searchesRange: false } as const;

/** Of each tensor by its name, for each of PROBED_BITS: divergence of the predictions for a squared error of 1. */
export type Sensitivities = Readonly<Record<string, readonly number[]>>;

export interface SensitivityOptions {
  readonly weights: F32Weights;
  readonly config: ModelConfig;
  /** Texts that predictions are compared on. */
  readonly windows: readonly (readonly number[])[];
  readonly threads: number;
}

export function measureSensitivities(options: SensitivityOptions): Sensitivities {
  const { weights } = options;
  using math = new MatrixMath(options.threads);
  using probe = new TensorProbe(options);
  const linears = linearsOf(weights).sort((a, b) => probe.firstUse(a)! - probe.firstUse(b)!);
  return Object.fromEntries(
    linears.map((name) => {
      const values = weights.readF32(name);
      const perError = PROBED_BITS.map((bits) => {
        const nearest = dequantize(
          rounded(math, weights, name, values, { ...PROBED_GROUPS, bits }),
        );
        return probe.divergence(name, nearest) / squaredError(nearest, values);
      });
      return [name, perError];
    }),
  );
}

/** Names of the weights that all methods round. */
export function linearsOf(weights: F32Weights): string[] {
  return [...weights.tensors.keys()].filter((name) => /_proj\.weight$/.test(name));
}

function rounded(
  math: MatrixMath,
  weights: F32Weights,
  name: string,
  values: Float32Array,
  scheme: GroupScheme,
): QuantizedMatrix {
  const { rows, columns } = matrixShape(weights, name);
  using matrix = math.matrix(rows, columns);
  for (let row = 0; row < rows; row++) {
    matrix.values.set(values.subarray(row * columns, (row + 1) * columns), row * matrix.stride);
  }
  return quantizeToNearest(math, matrix, scheme, name);
}

function squaredError(a: Float32Array, b: Float32Array): number {
  return a.reduce((sum, value, i) => sum + (value - b[i]!) ** 2, 0);
}

/** Puts the rounded values in their places. @returns the rounded tensors */
export function roundToMixedBits(
  weights: F32Weights,
  scheme: GroupScheme,
  sensitivities: Sensitivities,
  threads: number,
): QuantizedMatrix[] {
  using math = new MatrixMath(threads);
  let budget = 0;
  const units = linearsOf(weights).map((name) => {
    const values = weights.readF32(name);
    const choices = BITS.map((bits): Choice<number> => {
      const matrix = rounded(math, weights, name, values, { ...scheme, bits });
      const bytes = (matrix.rows * matrix.columns * bitsPerWeight(matrix)) / 8;
      if (bits === scheme.bits) budget += bytes;
      const probed = Math.min(BITS.indexOf(bits), PROBED_BITS.length - 1);
      const perError = sensitivities[name]![probed]!;
      return { dtype: bits, bytes, loss: perError * squaredError(dequantize(matrix), values) };
    });
    return { name, choices };
  });
  return [...allocateBits(units, budget)].map(([name, { dtype: bits }]) => {
    const matrix = rounded(math, weights, name, weights.readF32(name), { ...scheme, bits });
    weights.replace(name, dequantize(matrix));
    return matrix;
  });
}
