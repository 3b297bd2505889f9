/**
 * What changes the logits of one sequence before a draw: logit bias and the three penalties, over the tokens that they touch and no others.
 * vLLM's order: bias, repetition (prompt and output), then frequency and presence (output only).
 */

import type { SamplingParams } from './sampling-params.ts';
import type { SlicedLogits } from './sliced-logits.ts';

export class Penalties {
  readonly #repetition: number;
  readonly #frequency: number;
  readonly #presence: number;
  readonly #hasPenalty: boolean;
  readonly #indexOfId = new Map<number, number>();
  /** Parallel lists over the touched ids. */
  #ids = new Int32Array(64);
  #bias = new Float64Array(64);
  #outputCount = new Int32Array(64);
  #isInContext = new Uint8Array(64);
  #numIds = 0;

  private constructor(params: SamplingParams) {
    this.#repetition = params.repetitionPenalty;
    this.#frequency = params.frequencyPenalty;
    this.#presence = params.presencePenalty;
    this.#hasPenalty =
      params.repetitionPenalty !== 1 ||
      params.frequencyPenalty !== 0 ||
      params.presencePenalty !== 0;
  }

  /** `null` where the parameters touch no logit. */
  static of(params: SamplingParams, promptTokenIds: Int32Array): Penalties | null {
    const penalties = new Penalties(params);
    const biases = Object.entries(params.logitBias);
    if (!penalties.#hasPenalty && biases.length === 0) return null;
    for (const [id, bias] of biases) penalties.#bias[penalties.#indexFor(Number(id))] = bias;
    if (params.repetitionPenalty !== 1) {
      for (const id of promptTokenIds) penalties.#isInContext[penalties.#indexFor(id)] = 1;
    }
    return penalties;
  }

  /** Counts a token of the output. */
  addOutput(id: number): void {
    if (!this.#hasPenalty) return;
    const index = this.#indexFor(id);
    this.#isInContext[index] = 1;
    this.#outputCount[index]!++;
  }

  #indexFor(id: number): number {
    const known = this.#indexOfId.get(id);
    if (known !== undefined) return known;
    const index = this.#numIds++;
    if (index === this.#ids.length) this.#grow();
    this.#indexOfId.set(id, index);
    this.#ids[index] = id;
    return index;
  }

  #grow(): void {
    const length = this.#ids.length * 2;
    const { buffer: ids } = this.#ids;
    const { buffer: bias } = this.#bias;
    const { buffer: counts } = this.#outputCount;
    const { buffer: flags } = this.#isInContext;
    this.#ids = new Int32Array(ids.transfer(length * 4));
    this.#bias = new Float64Array(bias.transfer(length * 8));
    this.#outputCount = new Int32Array(counts.transfer(length * 4));
    this.#isInContext = new Uint8Array(flags.transfer(length));
  }

  /** Edits the row in place; `row.restore()` takes it back. */
  apply(row: SlicedLogits): void {
    for (let i = 0; i < this.#numIds; i++) {
      const id = this.#ids[i]!;
      let logit = row.logits[id]! + this.#bias[i]!;
      if (this.#isInContext[i] === 1) {
        logit = logit > 0 ? logit / this.#repetition : logit * this.#repetition;
      }
      const count = this.#outputCount[i]!;
      if (count > 0) logit -= this.#frequency * count + this.#presence;
      row.set(id, logit);
    }
    row.settle();
  }
}
