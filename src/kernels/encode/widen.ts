/** Floats of 16 or 32 bits → f32, and whether all of them are finite. */
import { KernelBuilder } from '../builder.ts';
import type { KernelProgram, LoadFormat, VectorMachine } from '../kernel-ir.ts';
import { forEachUnit } from '../units.ts';

/** Elements of a unit. */
export const WIDENED_ELEMENTS = 32;
export type WideFormat = Extract<LoadFormat, 'bits' | 'f16' | 'bf16'>;

/**
 * out = from; `bits` is f32.
 *
 * Params: from, out f32 `[32 * numUnits]`; differences f32 `[lanes]` receives 0 in all lanes, and something else if a value of the chunk is NaN or infinite;
 * numUnits unitsPerChunk.
 */
export function widenKernel(machine: VectorMachine, format: WideFormat): KernelProgram {
  const k = new KernelBuilder(`widen_${format}`, machine);
  const bytes = format === 'bits' ? 4 : 2;
  const sum = k.zero();
  forEachUnit(k, (unit) => {
    const first = k.mul(unit.get(), WIDENED_ELEMENTS);
    const from = k.add(k.arg('from'), k.mul(first, bytes));
    const out = k.add(k.arg('out'), k.shl(first, 2));
    k.unrolledLanes(WIDENED_ELEMENTS, (element) => {
      const value = k.load(k.at(from, bytes * element), format);
      k.store(k.at(out, 4 * element), value);
      // 0 for every finite value and NaN for the others.
      k.addF(sum, k.subF(value, value, value), sum);
    });
  });
  k.store(k.at(k.arg('differences')), sum);
  return k.finish();
}
