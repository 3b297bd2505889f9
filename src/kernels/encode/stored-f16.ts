/** Scales of blocks as they are stored, f16. Lanes are blocks. */
import type { KernelBuilder } from '../builder.ts';
import type { Vector } from '../kernel-ir.ts';

export class StoredF16 {
  readonly #k: KernelBuilder;
  readonly #halves: number;

  constructor(k: KernelBuilder) {
    this.#k = k;
    this.#halves = k.reserveScratch(2 * k.lanes);
  }

  /** The bits, in the low half of i32 lanes, and what they are worth, f32. */
  round(value: Vector): { bits: Vector; stored: Vector } {
    const k = this.#k;
    const at = k.at(k.scratch, this.#halves);
    k.store(at, value, 'f16OrInfinity');
    // As if they were bf16, they come to stand in the upper half.
    const bits = k.load(at, 'bf16');
    return { bits: k.shift('i32.shr', bits, 16, bits), stored: k.load(at, 'f16') };
  }
}
