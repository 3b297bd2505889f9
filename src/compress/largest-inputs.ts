/** The largest magnitude of each input column of linears, over a calibration text. */
import type { InputVisitor, LinearSite } from './layer-walker.ts';

/** A linear, and the largest |x| of each of its input columns so far. */
export interface LargestInputs {
  readonly site: LinearSite;
  /** f32 [columns] */
  readonly largest: Float32Array;
}

/** Visitors that gather into `largest`, by command, for `LayerWalker.moveTo`. */
export function visitsOf(linears: readonly LargestInputs[]): ReadonlyMap<number, InputVisitor> {
  return new Map(
    linears.map(({ site, largest }): [number, InputVisitor] => [
      site.command,
      (inputs, stride, numTokens) => takeLargest(largest, inputs, stride, numTokens),
    ]),
  );
}

/** @param values f32 [numRows, stride], the first `largest.length` of each row in use */
export function takeLargest(
  largest: Float32Array,
  values: Float32Array,
  stride: number,
  numRows: number,
): void {
  for (let row = 0; row < numRows; row++) {
    for (let j = 0; j < largest.length; j++) {
      const value = Math.abs(values[row * stride + j]!);
      if (value > largest[j]!) largest[j] = value;
    }
  }
}
