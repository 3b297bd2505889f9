/** Codes of weights on a grid of scale and zero point, as compress/group-quantizer.ts's `codeOf`; codes are whole numbers in f32 lanes. */
import type { KernelBuilder } from './builder.ts';
import type { Vector } from './kernel-ir.ts';

/** In all lanes, or of each lane's own group. */
export interface Grid {
  readonly scale: Vector;
  readonly zero: Vector;
}

/** The largest code in all lanes; param `levels`, as a number. */
export function levelsOf(k: KernelBuilder): Vector {
  const levels = k.splatScalar(k.arg('levels'));
  return k.unary('f32.fromI32', levels, levels);
}

/** clamp(round(value / scale) + zero, 0, levels) */
export function nearestCode(
  k: KernelBuilder,
  value: Vector,
  { scale, zero }: Grid,
  levels: Vector,
): Vector {
  const code = k.divF(value, scale);
  k.addF(k.unary('f32.round', code, code), zero, code);
  return k.minF(k.maxF(code, k.zero(), code), levels, code);
}
