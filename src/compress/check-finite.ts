/** Weights that are no numbers are named before anything is made of them. */
import { NonFiniteWeightError } from './errors.ts';

/**
 * @param values f32 [rows, columns], row-major; `firstRow` is the number of its first row in the tensor
 * @throws {NonFiniteWeightError} naming the first one
 */
export function checkFinite(
  tensor: string,
  values: Float32Array,
  columns: number,
  firstRow = 0,
): void {
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    // x - x is 0 for every finite x and NaN for the others.
    if (value - value === 0) continue;
    throw new NonFiniteWeightError(tensor, firstRow + Math.floor(i / columns), i % columns, value);
  }
}
