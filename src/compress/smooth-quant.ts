/**
 * SmoothQuant: what makes activations hard to round is moved into the weights. Per input channel j of the linears behind a norm
 * `s_j = max|X_j|^a / max|W_j|^(1-a)`; the norm is divided by it, the weights are multiplied: the model computes the same, and outliers of the inputs are
 * smaller. Xiao et al. 2023, arXiv:2211.10438. Linears whose inputs come from elsewhere stay as they are.
 */

import { CompressError } from './errors.ts';
import type { F32Weights } from './f32-weights.ts';
import { takeLargest, visitsOf } from './largest-inputs.ts';
import { LayerWalker, type LinearSite, type WalkerOptions } from './layer-walker.ts';
import { type NormBefore, normBefore } from './norm-before.ts';

const LEAST_SCALE = 1e-5;

export interface SmoothOptions extends Omit<WalkerOptions, 'weights'> {
  readonly weights: F32Weights;
  /** a: 0 leaves all to the activations, 1 moves all into the weights; 0.5 is the paper's. */
  readonly strength: number;
  readonly signal?: AbortSignal;
  onProgress?(doneLayers: number, numLayers: number): void;
}

/**
 * @returns the tensors that changed, by canonical names; `weights` gives them from now on
 * @throws {CompressError} where no native code can run, or for a strength that is none
 */
export async function smoothInputs(
  options: SmoothOptions,
): Promise<ReadonlyMap<string, Float32Array>> {
  const { weights, strength, signal, onProgress } = options;
  if (!(strength >= 0 && strength <= 1)) {
    throw new CompressError(`smoothing strength ${strength}: expected a number from 0 to 1`);
  }
  using walker = LayerWalker.create(options);
  for (const layer of walker.layers) {
    const behind = layer.sites.flatMap((site) => {
      const norm = normBefore(walker, weights, site);
      return norm === null ? [] : [{ site, norm, largest: new Float32Array(site.columns) }];
    });
    // What the layer gives is the same before and after.
    await walker.moveInTurns(layer.end, visitsOf(behind), signal);
    const norms = Map.groupBy(behind, ({ norm }) => norm.tensor);
    for (const group of norms.values()) smooth(weights, group, strength);
    onProgress?.(layer.index + 1, walker.layers.length);
  }
  return weights.replaced;
}

/** The linears behind one norm. */
function smooth(
  weights: F32Weights,
  group: readonly { site: LinearSite; norm: NormBefore; largest: Float32Array }[],
  strength: number,
): void {
  const { norm, largest } = group[0]!;
  const columns = largest.length;
  const tensors = new Set(group.flatMap(({ site }) => site.parts.map(({ tensor }) => tensor)));
  const matrices = [...tensors].map((tensor) => ({ tensor, values: weights.readF32(tensor) }));
  const ofWeights = new Float32Array(columns);
  for (const { values } of matrices) {
    takeLargest(ofWeights, values, columns, values.length / columns);
  }
  const scales = Float32Array.from(ofWeights, (ofWeight, j) => {
    const scale = largest[j]! ** strength / Math.max(ofWeight, LEAST_SCALE) ** (1 - strength);
    // A channel that the text never used stays as it is.
    return largest[j] === 0 ? 1 : Math.max(scale, LEAST_SCALE);
  });
  weights.replace(norm.tensor, norm.divided(scales));
  for (const { tensor, values } of matrices) {
    for (let i = 0; i < values.length; i++) values[i]! *= scales[i % columns]!;
    weights.replace(tensor, values);
  }
}
