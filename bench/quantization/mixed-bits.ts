/**
 * Rounding to nearest with bits per tensor, at the size of the same bits for all: how much each tensor's rounding changes the predictions is measured at those
 * bits, one tensor at a time, and follows for other bits from the rounding errors.
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

export interface MixOptions {
  readonly weights: F32Weights;
  readonly config: ModelConfig;
  readonly scheme: GroupScheme;
  /** Texts that predictions are compared on. */
  readonly windows: readonly (readonly number[])[];
  readonly threads: number;
}

/** Puts the rounded values in their places. @returns the rounded tensors */
export function roundToMixedBits({ weights, scheme, ...rest }: MixOptions): QuantizedMatrix[] {
  const names = [...weights.tensors.keys()].filter((name) => /_proj\.weight$/.test(name));
  const rounded = (name: string, values: Float32Array, bits: number): QuantizedMatrix => {
    const { rows, columns } = matrixShape(weights, name);
    return quantizeToNearest(values, rows, columns, { ...scheme, bits }, { tensor: name });
  };
  const bytesOf = (matrix: QuantizedMatrix): number =>
    (matrix.rows * matrix.columns * bitsPerWeight(matrix)) / 8;
  let budget = 0;
  const units: { name: string; choices: Choice<number>[] }[] = [];
  {
    using probe = new TensorProbe({ weights, ...rest });
    for (const name of names) {
      const values = weights.readF32(name);
      let divergence = 0;
      const choices = BITS.map((bits): Choice<number> => {
        const matrix = rounded(name, values, bits);
        const nearest = dequantize(matrix);
        if (bits === scheme.bits) divergence = probe.divergence(name, nearest);
        const loss = nearest.reduce((sum, v, i) => sum + (v - values[i]!) ** 2, 0);
        return { dtype: bits, bytes: bytesOf(matrix), loss };
      });
      const uniform = choices.find(({ dtype }) => dtype === scheme.bits)!;
      budget += uniform.bytes;
      const perError = divergence / uniform.loss;
      units.push({
        name,
        choices: choices.map((choice) => ({ ...choice, loss: perError * choice.loss })),
      });
    }
  }
  return [...allocateBits(units, budget)].map(([name, { dtype: bits }]) => {
    const matrix = rounded(name, weights.readF32(name), bits);
    weights.replace(name, dequantize(matrix));
    return matrix;
  });
}
