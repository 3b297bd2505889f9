/** The norm that makes a linear's inputs: where factors of the inputs can be taken out again without changing what the model computes. */
import type { F32Weights } from './f32-weights.ts';
import type { LayerWalker, LinearSite } from './layer-walker.ts';

export interface NormBefore {
  readonly tensor: string;
  /** The norm's weights with each output divided by `scales`, f32 [columns]. */
  divided(scales: Float32Array): Float32Array;
}

/** Null if no norm alone makes the inputs of `site`. */
export function normBefore(
  { plan }: Pick<LayerWalker, 'plan'>,
  weights: F32Weights,
  site: LinearSite,
): NormBefore | null {
  for (let i = site.command - 1; i >= 0; i--) {
    const command = plan.commands[i]!;
    const { out, weight, residual } = command.variants[0]!.params;
    if (out?.kind !== 'buffer' || out.buffer !== site.input.buffer) continue;
    if (command.op !== 'rmsNorm' || weight?.kind !== 'weight' || residual !== undefined) {
      return null;
    }
    const { ref, rows } = plan.weights[weight.weight]!;
    const part = ref.parts[0]!;
    const isPlain = ref.parts.length === 1 && ref.scale === 1 && part.rowStart === 0;
    if (!isPlain || rows !== site.columns) return null;
    const divided = (scales: Float32Array): Float32Array => {
      const values = weights.readF32(part.tensor);
      for (let j = 0; j < values.length; j++) {
        values[j] = (values[j]! + ref.offset) / scales[j]! - ref.offset;
      }
      return values;
    };
    return { tensor: part.tensor, divided };
  }
  return null;
}
