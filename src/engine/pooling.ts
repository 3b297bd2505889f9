/**
 * The hidden states of a text as one vector. Knows rows and their positions; not where they come from, nor what the vector is for.
 */

export const POOLINGS = ['mean', 'last'] as const;
/** `mean`: over all tokens. `last`: of the last token, the one that has seen all others. */
export type Pooling = (typeof POOLINGS)[number];

export class Pooler {
  readonly pooling: Pooling;
  /** Sums in f64, in the order of positions: the same whatever the chunks. */
  #sums: Float64Array | null = null;
  #numPooled = 0;

  constructor(pooling: Pooling) {
    this.pooling = pooling;
  }

  /** Positions from 0 whose rows are in already and need not come again. */
  get numPooled(): number {
    return this.#numPooled;
  }

  /** Of the next `numNewTokens` positions, how many rows (the last ones) are wanted. */
  numRows(numNewTokens: number, isCaughtUp: boolean): number {
    if (this.pooling === 'mean') return numNewTokens;
    return isCaughtUp ? 1 : 0;
  }

  /**
   * Takes in the row of one position; positions rise, but may begin again after a preemption.
   *
   * @param hidden f32 [hiddenSize]
   */
  add(position: number, hidden: Float32Array): void {
    if (position < this.#numPooled) return;
    this.#numPooled = position + 1;
    this.#sums ??= new Float64Array(hidden.length);
    const sums = this.#sums;
    for (let i = 0; i < sums.length; i++) sums[i]! += hidden[i]!;
  }

  /** f32 [hiddenSize] */
  result(): Float32Array {
    const sums = this.#sums ?? new Float64Array(0);
    const count = this.pooling === 'mean' ? this.#numPooled : 1;
    return Float32Array.from(sums, (sum) => sum / count);
  }
}

/**
 * The first `dimensions` values, as a vector of length 1 (of a zero vector: itself).
 *
 * Cutting a vector short loses little where a model was trained for it (Kusupati et al. 2022, arXiv:2205.13147), and more elsewhere.
 */
export function unitVector(values: Float32Array, dimensions: number = values.length): Float32Array {
  const cut = values.subarray(0, dimensions);
  const length = Math.sqrt(cut.reduce((sum, value) => sum + value * value, 0));
  return length > 0 ? cut.map((value) => value / length) : cut.slice();
}
