/**
 * Rounding to nearest with bits per tensor, at the size of the same bits for all. How much the predictions change for a tensor's rounding error is measured
 * once for a model, one tensor at a time, with SENSITIVITY_SCHEME; what other bits and groups cost follows from their rounding errors.
 */
import { allocateBits, type Choice } from '../../src/compress/bit-allocation.ts';
import type { F32Weights } from '../../src/compress/f32-weights.ts';
import {
  bitsPerWeight,
  dequantize,
  type GroupScheme,
  type QuantizedMatrix,
  quantizeToNearest,
} from '../../src/compress/group-quantizer.ts';
import { matrixShape } from '../../src/compress/matrix-rows.ts';
import { TensorProbe } from '../../src/compress/tensor-probe.ts';
import type { ModelConfig } from '../../src/models/model-config.ts';

/** Bits that a tensor may get. */
const BITS = [2, 3, 4, 5, 6, 8] as const;
const SENSITIVITY_SCHEME: GroupScheme = {
  ...{ bits: 4, groupSize: 64, symmetry: 'asymmetric', searchesRange: false },
};

/** Divergence of the predictions for a squared error of 1, by tensor. */
export type Sensitivities = Readonly<Record<string, number>>;

export interface SensitivityOptions {
  readonly weights: F32Weights;
  readonly config: ModelConfig;
  /** Texts that predictions are compared on. */
  readonly windows: readonly (readonly number[])[];
  readonly threads: number;
}

export function measureSensitivities(options: SensitivityOptions): Sensitivities {
  const { weights } = options;
  using probe = new TensorProbe(options);
  const linears = linearsOf(weights).sort((a, b) => probe.firstUse(a)! - probe.firstUse(b)!);
  return Object.fromEntries(
    linears.map((name) => {
      const values = weights.readF32(name);
      const nearest = dequantize(rounded(weights, name, values, SENSITIVITY_SCHEME));
      return [name, probe.divergence(name, nearest) / squaredError(nearest, values)];
    }),
  );
}

function linearsOf(weights: F32Weights): string[] {
  return [...weights.tensors.keys()].filter((name) => /_proj\.weight$/.test(name));
}

function rounded(
  weights: F32Weights,
  name: string,
  values: Float32Array,
  scheme: GroupScheme,
): QuantizedMatrix {
  const { rows, columns } = matrixShape(weights, name);
  return quantizeToNearest(values, rows, columns, scheme, { tensor: name });
}

function squaredError(a: Float32Array, b: Float32Array): number {
  return a.reduce((sum, value, i) => sum + (value - b[i]!) ** 2, 0);
}

/** Puts the rounded values in their places. @returns the rounded tensors */
export function roundToMixedBits(
  weights: F32Weights,
  scheme: GroupScheme,
  sensitivities: Sensitivities,
): QuantizedMatrix[] {
  let budget = 0;
  const units = linearsOf(weights).map((name) => {
    const values = weights.readF32(name);
    const choices = BITS.map((bits): Choice<number> => {
      const matrix = rounded(weights, name, values, { ...scheme, bits });
      const bytes = (matrix.rows * matrix.columns * bitsPerWeight(matrix)) / 8;
      if (bits === scheme.bits) budget += bytes;
      const loss = sensitivities[name]! * squaredError(dequantize(matrix), values);
      return { dtype: bits, bytes, loss };
    });
    return { name, choices };
  });
  return [...allocateBits(units, budget)].map(([name, { dtype: bits }]) => {
    const matrix = rounded(weights, name, weights.readF32(name), { ...scheme, bits });
    weights.replace(name, dequantize(matrix));
    return matrix;
  });
}
