/**
 * Which input columns of a model's linears have outliers: those whose |x| reaches a threshold anywhere in the calibration text (LLM.int8, Dettmers et al. 2022,
 * arXiv:2208.07339, finds them anew in each batch; here they are fixed, so that a row's logits do not depend on the rows beside it). Changes no weight.
 */
import { CompressError } from './errors.ts';
import { visitsOf } from './largest-inputs.ts';
import { LayerWalker, type WalkerOptions } from './layer-walker.ts';

export interface OutlierOptions extends WalkerOptions {
  /** Least |x| of an outlier; 6 is the paper's. */
  readonly threshold: number;
  /** Of a linear's columns, the largest share that may be outliers; the largest maxima come first. */
  readonly maxShare: number;
  readonly signal?: AbortSignal;
  onProgress?(doneLayers: number, numLayers: number): void;
}

/**
 * @returns ascending columns by canonical name of the weight; linears without are left out
 * @throws {CompressError} where no native code can run, or for a threshold or share that is none
 */
export async function findOutlierColumns(
  options: OutlierOptions,
): Promise<ReadonlyMap<string, readonly number[]>> {
  const { threshold, maxShare, signal, onProgress } = options;
  if (!(threshold > 0)) {
    throw new CompressError(`outlier threshold ${threshold}: expected a positive number`);
  }
  if (!(maxShare > 0 && maxShare <= 1)) {
    throw new CompressError(`share of outlier columns ${maxShare}: expected above 0, up to 1`);
  }
  using walker = LayerWalker.create(options);
  const found = new Map<string, readonly number[]>();
  for (const layer of walker.layers) {
    const linears = layer.sites.map((site) => ({ site, largest: new Float32Array(site.columns) }));
    await walker.moveInTurns(layer.end, visitsOf(linears), signal);
    for (const { site, largest } of linears) {
      const columns = outlierColumns(largest, threshold, maxShare);
      if (columns.length === 0) continue;
      for (const { tensor } of site.parts) found.set(tensor, columns);
    }
    onProgress?.(layer.index + 1, walker.layers.length);
  }
  return found;
}

/** Ascending; of equal maxima the first columns. */
function outlierColumns(largest: Float32Array, threshold: number, maxShare: number): number[] {
  return [...largest.keys()]
    .filter((column) => largest[column]! >= threshold)
    .sort((a, b) => largest[b]! - largest[a]! || a - b)
    .slice(0, Math.floor(maxShare * largest.length))
    .sort((a, b) => a - b);
}
