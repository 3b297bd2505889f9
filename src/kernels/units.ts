/** The loop that kernels share whose work is cut into units of any kind: which of them a chunk is. Knows nothing of what a unit is. */
import type { KernelBuilder, ScalarSlot } from './builder.ts';

/**
 * Runs `body` for every unit of the chunk, `unitsPerChunk` units from chunk * unitsPerChunk on (the last chunk has fewer of the `numUnits`); both are params.
 * `unit` is the number of the unit; body must not change it.
 */
export function forEachUnit(k: KernelBuilder, body: (unit: ScalarSlot) => void): void {
  const unit = k.slot();
  const perChunk = k.arg('unitsPerChunk');
  const first = k.mul(k.chunk, perChunk);
  unit.set(first);
  k.loop(
    k.min(perChunk, k.sub(k.arg('numUnits'), first)),
    () => {
      body(unit);
      unit.addTo(1);
    },
    { counterInMemory: true },
  );
}
