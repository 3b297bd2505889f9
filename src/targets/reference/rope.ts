/** Rotary position embedding. */
import type { RopeSpec } from '../../graph/ir.ts';

/**
 * Cosines and sines of one `RopeSpec`, computed as far as positions have been asked for.
 */
export class RopeTable {
  readonly spec: RopeSpec;
  readonly #cos: Float32Array;
  readonly #sin: Float32Array;
  #numPositions = 0;

  constructor(spec: RopeSpec, maxPositions: number) {
    this.spec = spec;
    this.#cos = new Float32Array(maxPositions * spec.frequencies.length);
    this.#sin = new Float32Array(maxPositions * spec.frequencies.length);
  }

  /** cos and sin, each f32 [>= position + 1, rotaryDim / 2], times the spec's magnitude. */
  upTo(position: number): { cos: Float32Array; sin: Float32Array } {
    const { frequencies, magnitude } = this.spec;
    for (; this.#numPositions <= position; this.#numPositions++) {
      const start = this.#numPositions * frequencies.length;
      for (const [j, frequency] of frequencies.entries()) {
        const angle = this.#numPositions * frequency;
        this.#cos[start + j] = Math.cos(angle) * magnitude;
        this.#sin[start + j] = Math.sin(angle) * magnitude;
      }
    }
    return { cos: this.#cos, sin: this.#sin };
  }
}

/** One token's heads: `numHeads` runs of `headDim` values from an offset. */
export interface HeadRow {
  readonly data: Float32Array;
  readonly offset: number;
}

/**
 * Rotates the first rotaryDim values of every head; the rest is copied. `x` and `out` may be the same place.
 *
 * half:        out[j] = x[j] cos_j - x[j+h] sin_j      out[j+h]  = x[j+h] cos_j + x[j] sin_j          h = rotaryDim / 2
 * interleaved: out[2j] = x[2j] cos_j - x[2j+1] sin_j   out[2j+1] = x[2j+1] cos_j + x[2j] sin_j
 */
export function ropeRow(
  x: HeadRow,
  out: HeadRow,
  { numHeads, headDim }: { numHeads: number; headDim: number },
  table: RopeTable,
  position: number,
): void {
  const { style, rotaryDim } = table.spec;
  const { cos, sin } = table.upTo(position);
  const half = rotaryDim / 2;
  const [step, apart] = style === 'half' ? [1, half] : [2, 1];
  for (let head = 0; head < numHeads; head++) {
    const from = x.offset + head * headDim;
    const to = out.offset + head * headDim;
    for (let j = 0; j < half; j++) {
      const c = cos[position * half + j]!;
      const s = sin[position * half + j]!;
      const a = x.data[from + j * step]!;
      const b = x.data[from + j * step + apart]!;
      out.data[to + j * step] = a * c - b * s;
      out.data[to + j * step + apart] = b * c + a * s;
    }
    for (let i = rotaryDim; i < headDim; i++) out.data[to + i] = x.data[from + i]!;
  }
}
