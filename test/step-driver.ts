/**
 * Drives a `ModelRunner` by hand in tests: sequences with KV blocks of their own, steps of any mix of them. What the engine does, in its simplest
 * form and without sampling.
 */
import type { ModelRunner } from '../src/targets/model-runner.ts';

export interface DrivenSequence {
  readonly blockTable: number[];
  contextLen: number;
}

/** Tokens of one sequence to run in a step. */
export interface StepPart {
  readonly sequence: DrivenSequence;
  readonly tokenIds: readonly number[];
  /** Of which tokens, by index in `tokenIds`, logits are wanted. */
  readonly logitsOf: readonly number[];
}

export class StepDriver {
  readonly runner: ModelRunner;
  #nextBlock: number;
  /** By slot of the runner, the sequence that has it and the step that it was last in. */
  readonly #holders: { sequence: DrivenSequence | null; step: number }[];
  #step = 0;
  readonly #blockStride: number;

  /** @param options.scatterBlocks hands out blocks in an order that is not ascending, so that block tables matter */
  constructor(runner: ModelRunner, { scatterBlocks = true } = {}) {
    this.runner = runner;
    const { numBlocks, maxSeqs } = runner.limits;
    this.#holders = Array.from({ length: maxSeqs }, () => ({ sequence: null, step: 0 }));
    this.#blockStride = scatterBlocks ? coprimeStride(numBlocks) : 1;
    this.#nextBlock = 0;
  }

  newSequence(): DrivenSequence {
    return { blockTable: [], contextLen: 0 };
  }

  /** Runs one step and gives a copy of each row of logits that was asked for, in order of parts. */
  step(parts: readonly StepPart[]): Float32Array[] {
    const { batch, limits } = this.runner;
    batch.numTokens = 0;
    batch.numLogitRows = 0;
    batch.numSeqs = parts.length;
    batch.queryStarts[0] = 0;
    this.#step++;
    const sequences = parts.map(({ sequence }) => sequence);
    for (const holder of this.#holders) {
      if (holder.sequence && sequences.includes(holder.sequence)) holder.step = this.#step;
    }
    for (const [s, { sequence, tokenIds, logitsOf }] of parts.entries()) {
      const first = batch.numTokens;
      for (const tokenId of tokenIds) {
        const position = sequence.contextLen++;
        const block = this.#blockFor(sequence, position);
        batch.tokenIds[batch.numTokens] = tokenId;
        batch.positions[batch.numTokens] = position;
        batch.slotMapping[batch.numTokens] =
          block * limits.blockSize + (position % limits.blockSize);
        batch.numTokens++;
      }
      for (const index of logitsOf) batch.logitRows[batch.numLogitRows++] = first + index;
      batch.queryStarts[s + 1] = batch.numTokens;
      batch.contextLens[s] = sequence.contextLen;
      batch.sequenceSlots[s] = this.#slotOf(sequence);
      batch.blockTables.set(sequence.blockTable, s * batch.maxBlocksPerSeq);
    }
    const ticket = this.runner.submit();
    if (!ticket.isDone) throw new Error('StepDriver is for runners whose steps are done on return');
    return Array.from({ length: batch.numLogitRows }, (_, row) => this.runner.logits(row).slice());
  }

  /** Logits of every token of a text that is run from the start in steps of `chunkSize` tokens. */
  logitsOfAll(tokenIds: readonly number[], chunkSize: number = tokenIds.length): Float32Array[] {
    const sequence = this.newSequence();
    const rows: Float32Array[] = [];
    for (let start = 0; start < tokenIds.length; start += chunkSize) {
      const chunk = tokenIds.slice(start, start + chunkSize);
      rows.push(...this.step([{ sequence, tokenIds: chunk, logitsOf: chunk.map((_, i) => i) }]));
    }
    return rows;
  }

  /** The `count` most likely ids after a prompt, one by one; end-of-text ids do not stop it. */
  greedy(promptIds: readonly number[], count: number): number[] {
    const sequence = this.newSequence();
    const chosen: number[] = [];
    let tokenIds = promptIds;
    while (chosen.length < count) {
      const [logits] = this.step([{ sequence, tokenIds, logitsOf: [tokenIds.length - 1] }]);
      const next = argmax(logits!);
      chosen.push(next);
      tokenIds = [next];
    }
    return chosen;
  }

  /** A new sequence gets the slot that was not used for longest. */
  #slotOf(sequence: DrivenSequence): number {
    const known = this.#holders.findIndex((holder) => holder.sequence === sequence);
    if (known >= 0) return known;
    const oldest = Math.min(...this.#holders.map(({ step }) => step));
    const slot = this.#holders.findIndex(({ step }) => step === oldest);
    this.#holders[slot] = { sequence, step: this.#step };
    return slot;
  }

  #blockFor(sequence: DrivenSequence, position: number): number {
    const { blockSize, numBlocks } = this.runner.limits;
    const index = Math.floor(position / blockSize);
    const known = sequence.blockTable[index];
    if (known !== undefined) return known;
    const block = this.#nextBlock;
    this.#nextBlock = (this.#nextBlock + this.#blockStride) % numBlocks;
    sequence.blockTable.push(block);
    return block;
  }
}

function argmax(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
}

export function maxAbsDifference(a: Float32Array, b: ArrayLike<number>): number {
  let largest = a.length === b.length ? 0 : Number.POSITIVE_INFINITY;
  for (let i = 0; i < a.length; i++) {
    const difference = Math.abs(a[i]! - b[i]!);
    if (!(difference <= largest)) largest = difference; // NaN too
  }
  return largest;
}

/** A stride that visits every one of `count` blocks once before any comes again. */
function coprimeStride(count: number): number {
  const divides = (a: number, b: number): boolean => (b === 0 ? a === 1 : divides(b, a % b));
  let stride = Math.max(1, Math.floor(count / 3));
  while (!divides(count, stride)) stride++;
  return stride;
}

/** Root mean square of what `a` is off by, of that of `b`. */
export function relativeDifference(a: readonly Float32Array[], b: readonly Float32Array[]): number {
  let difference = 0;
  let size = 0;
  for (const [row, logits] of a.entries()) {
    for (const [i, logit] of logits.entries()) {
      difference += (logit - b[row]![i]!) ** 2;
      size += b[row]![i]! ** 2;
    }
  }
  return Math.sqrt(difference / size);
}
