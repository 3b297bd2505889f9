/** What the inputs of a model's linears are like over a text: the mean square of each channel, by GGUF's tensor names. In f32, layer by layer. */
import { ggufTensorName } from '../models/registry.ts';
import type { F32Weights } from './f32-weights.ts';
import { type InputVisitor, LayerWalker, type WalkerOptions } from './layer-walker.ts';

export interface GatherOptions extends Omit<WalkerOptions, 'weights'> {
  readonly weights: F32Weights;
  readonly signal?: AbortSignal;
  onProgress?(doneLayers: number, numLayers: number): void;
}

/**
 * @returns mean squared input per channel, f32 [columns], for each linear of a layer
 * @throws {CompressError} where no native code can run
 */
export async function gatherImportance({
  signal,
  onProgress,
  ...options
}: GatherOptions): Promise<Map<string, Float32Array>> {
  using walker = LayerWalker.create(options);
  const importance = new Map<string, Float32Array>();
  const numTokens = options.windows.reduce((sum, ids) => sum + ids.length, 0);
  for (const layer of walker.layers) {
    const visits = new Map<number, InputVisitor>();
    const sumsOf = new Map<string, Float64Array>();
    for (const site of layer.sites) {
      const sums = new Float64Array(site.columns);
      visits.set(site.command, (inputs, stride, count) => {
        for (let t = 0; t < count; t++) {
          const at = t * stride;
          for (let i = 0; i < sums.length; i++) sums[i]! += inputs[at + i]! * inputs[at + i]!;
        }
      });
      for (const { tensor } of site.parts) {
        const name = ggufTensorName(options.config.architecture, tensor);
        if (name !== null) sumsOf.set(name, sums);
      }
    }
    await walker.moveInTurns(layer.end, visits, signal);
    for (const [tensor, sums] of sumsOf) {
      importance.set(
        tensor,
        Float32Array.from(sums, (sum) => sum / numTokens),
      );
    }
    onProgress?.(layer.index + 1, walker.layers.length);
  }
  return importance;
}
