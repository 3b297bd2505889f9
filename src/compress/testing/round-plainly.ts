/** Rounding to nearest without native code: what tests hold other ways of rounding to. */
import type { GroupScheme, QuantizedMatrix } from '../group-quantizer.ts';
import { MatrixMath } from '../matrix-math.ts';
import { quantizeToNearest } from '../nearest-rounder.ts';

/** @param values f32 [rows, columns] */
export function roundPlainly(
  values: Float32Array,
  rows: number,
  columns: number,
  scheme: GroupScheme,
): QuantizedMatrix {
  using math = new MatrixMath(1, 'reference');
  using weights = math.matrix(rows, columns);
  for (let row = 0; row < rows; row++) {
    weights.values.set(values.subarray(row * columns, (row + 1) * columns), row * weights.stride);
  }
  return quantizeToNearest(math, weights, scheme, 'w');
}
