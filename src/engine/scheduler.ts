/**
 * Decides what the next step computes: which sequences, how many tokens of each. Owns the queues and moves blocks; runs nothing, samples nothing.
 *
 * One rule under a token budget (vLLM v1's): every sequence has tokens still to compute. In order:
 *   1. running sequences that lack one token get it (decode first); where no block is free for it, the youngest running sequence gives all of
 *      its blocks back and waits to be computed again;
 *   2. running sequences that lack more get a chunk;
 *   3. waiting ones are taken in, oldest first, if blocks for all of their tokens are free, and get a first chunk.
 * The oldest running sequence is never preempted and every sequence fits alone, so every step brings something to its end.
 */

import { InternalError } from '../platform/errors.ts';
import type { RunnerLimits } from '../targets/model-runner.ts';
import { type BlockManager, PrefixMatch } from './block-manager.ts';
import type { PrefillPacer } from './prefill-pacer.ts';
import type { Sequence } from './sequence.ts';
import type { Speculator } from './speculator.ts';

/** The decision. One object for all steps: valid until the next `schedule`. */
export interface SchedulerOutput {
  /** Sequences in the step; entries from `numSequences` on mean nothing. */
  readonly sequences: Sequence[];
  /** Tokens to compute of each, from its `numComputedTokens` on, i32 [numSequences]. */
  readonly numNewTokens: Int32Array;
  /** Drafted tokens to check behind those, i32 [numSequences]. */
  readonly numDrafts: Int32Array;
  numSequences: number;
  /** Their sum, drafts included. */
  numTokens: number;
  numDraftTokens: number;
  /** Sequences that get their next token by computing one. */
  numStreams: number;
  /** KV blocks to copy before the step: from, to, from, to, ...; i32 [2 * numCopies]. */
  readonly copies: Int32Array;
  numCopies: number;
  /** Sequences that were sent back to wait. */
  numPreempted: number;
}

export class Scheduler {
  readonly #blocks: BlockManager;
  readonly #pacer: PrefillPacer;
  readonly #speculator: Speculator | null;
  readonly #maxTokens: number;
  readonly #maxLogitRows: number;
  readonly #maxRunning: number;
  readonly #running: Sequence[] = [];
  readonly #waiting: Sequence[] = [];
  readonly #match = new PrefixMatch();
  readonly #output: SchedulerOutput;

  constructor(
    limits: RunnerLimits,
    blocks: BlockManager,
    pacer: PrefillPacer,
    speculator: Speculator | null = null,
  ) {
    this.#blocks = blocks;
    this.#pacer = pacer;
    this.#speculator = speculator;
    this.#maxLogitRows = limits.maxLogitRows;
    this.#maxTokens = limits.maxTokens;
    // Every running sequence can then have its token and its row of logits in every step.
    this.#maxRunning = Math.min(limits.maxSeqs, limits.maxLogitRows, limits.maxTokens);
    this.#output = {
      sequences: [],
      numNewTokens: new Int32Array(this.#maxRunning),
      numDrafts: new Int32Array(this.#maxRunning),
      numSequences: 0,
      numTokens: 0,
      numDraftTokens: 0,
      numStreams: 0,
      copies: new Int32Array(2 * this.#maxRunning),
      numCopies: 0,
      numPreempted: 0,
    };
  }

  get numRunning(): number {
    return this.#running.length;
  }

  get numWaiting(): number {
    return this.#waiting.length;
  }

  /** Queues a new sequence. */
  add(sequence: Sequence): void {
    this.#waiting.push(sequence);
  }

  /** Takes a sequence out, wherever it stands, and frees its blocks. */
  remove(sequence: Sequence): void {
    for (const queue of [this.#running, this.#waiting]) {
      const index = queue.indexOf(sequence);
      if (index >= 0) queue.splice(index, 1);
    }
    this.#blocks.releaseAll(sequence.blockTable);
  }

  /** Decides the next step. With nothing to do, `numSequences` is 0. */
  schedule(): SchedulerOutput {
    const output = this.#output;
    output.numSequences = 0;
    output.numTokens = 0;
    output.numDraftTokens = 0;
    output.numStreams = 0;
    output.numCopies = 0;
    output.numPreempted = 0;

    for (let index = 0; index < this.#running.length; index++) {
      const sequence = this.#running[index]!;
      if (sequence.numTokens - sequence.numComputedTokens === 1 && this.#makeRoom(sequence)) {
        this.#schedule(sequence, 1);
        output.numStreams++;
      }
    }
    const numWaiting = this.#running.length - output.numStreams + this.#waiting.length;
    this.#draft(numWaiting > 0);
    let promptBudget = Math.min(
      this.#pacer.promptTokens(output.numStreams, numWaiting),
      this.#maxTokens - output.numTokens,
    );
    for (const sequence of this.#running) {
      const numMissing = sequence.numTokens - sequence.numComputedTokens;
      if (numMissing < 2 || promptBudget === 0) continue;
      promptBudget -= this.#schedule(sequence, Math.min(numMissing, promptBudget));
    }
    while (promptBudget > 0 && output.numPreempted === 0 && this.#admitNext()) {
      const sequence = this.#running.at(-1)!;
      const numMissing = sequence.numTokens - sequence.numComputedTokens;
      promptBudget -= this.#schedule(sequence, Math.min(numMissing, promptBudget));
    }
    return output;
  }

  #schedule(sequence: Sequence, numNewTokens: number): number {
    const output = this.#output;
    output.sequences[output.numSequences] = sequence;
    output.numNewTokens[output.numSequences] = numNewTokens;
    output.numDrafts[output.numSequences] = 0;
    sequence.numDrafts = 0;
    output.numSequences++;
    output.numTokens += numNewTokens;
    return numNewTokens;
  }

  /** Adds drafts to the streams, as far as logits and blocks reach without taking them from anyone. */
  #draft(hasPrompts: boolean): void {
    const output = this.#output;
    const { numStreams, sequences } = output;
    if (this.#speculator === null || numStreams === 0) return;
    // Every other sequence may catch up in this step and want its row.
    const numRows = Math.min(
      this.#maxLogitRows - this.#maxRunningSoon(),
      this.#maxTokens - output.numTokens,
    );
    const promptTokenMs = hasPrompts
      ? (this.#pacer.promptTokenMs ?? Number.POSITIVE_INFINITY)
      : null;
    this.#speculator.plan(sequences, numStreams, numRows, promptTokenMs);
    const blocks = this.#blocks;
    for (let s = 0; s < numStreams; s++) {
      const sequence = sequences[s]!;
      const { blockTable, numTokens } = sequence;
      if (sequence.numDrafts === 0) continue;
      if (!blocks.grow(blockTable, numTokens + sequence.numDrafts)) {
        sequence.numDrafts = Math.min(
          sequence.numDrafts,
          blockTable.numBlocks * blocks.blockSize - numTokens,
        );
      }
      output.numDrafts[s] = sequence.numDrafts;
      output.numDraftTokens += sequence.numDrafts;
      output.numTokens += sequence.numDrafts;
    }
  }

  /** Sequences that may be running at the end of this step. */
  #maxRunningSoon(): number {
    return Math.min(this.#running.length + this.#waiting.length, this.#maxRunning);
  }

  /** Gets the block for one more token, from the youngest if need be. Returns false if that is this sequence itself. */
  #makeRoom(sequence: Sequence): boolean {
    while (!this.#blocks.grow(sequence.blockTable, sequence.numTokens)) {
      const youngest = this.#running.at(-1)!;
      if (youngest === sequence && this.#running.length === 1) {
        const { numTokens } = sequence;
        throw new InternalError(`${numTokens} tokens of one sequence do not fit an empty KV cache`);
      }
      this.#preempt(youngest);
      if (youngest === sequence) return false;
    }
    return true;
  }

  /** Preemption by recompute: what it has computed survives only as far as the prefix cache keeps it. */
  #preempt(sequence: Sequence): void {
    this.#running.pop();
    this.#blocks.releaseAll(sequence.blockTable);
    sequence.numComputedTokens = 0;
    sequence.numPreemptions++;
    this.#waiting.unshift(sequence);
    this.#output.numPreempted++;
  }

  /**
   * Moves the oldest waiting sequence to the running ones, with blocks for all of its tokens.
   *
   * @returns false if there is none, or no room for it
   */
  #admitNext(): boolean {
    const sequence = this.#waiting[0];
    if (sequence === undefined || this.#running.length >= this.#maxRunning) return false;
    const { numTokens } = sequence;
    // Everything may be cached, but the last token is computed in any case: its logits are wanted. Where a block can be spared, that is
    // one token into a copy of the last block; else the last block is computed as a whole.
    if (!this.#takeBlocks(sequence, numTokens) && !this.#takeBlocks(sequence, numTokens - 1)) {
      return false;
    }
    this.#waiting.shift();
    this.#running.push(sequence);
    sequence.numCachedTokens ??= Math.min(sequence.numComputedTokens, sequence.numPromptTokens);
    return true;
  }

  #takeBlocks(sequence: Sequence, maxCached: number): boolean {
    const { blockTable, numTokens } = sequence;
    const blocks = this.#blocks;
    const match = this.#match;
    blocks.findPrefix(sequence.tokens, maxCached, match);
    const numCached = match.numBlocks * blocks.blockSize;
    const numCopies = numCached === numTokens ? 1 : 0;
    const numNew = blocks.blocksFor(numTokens) - match.numBlocks + numCopies;
    // One block is left for the growth of each running sequence, lest it be preempted at once.
    if (numNew > blocks.numFreeBlocks - match.numFree - this.#running.length) return false;
    blocks.adopt(blockTable, match);
    if (!blocks.grow(blockTable, numTokens))
      throw new InternalError('counted free KV blocks are gone');
    sequence.numComputedTokens = Math.min(numCached, numTokens - 1);
    if (numCopies > 0) this.#copyBlock(sequence, match.numBlocks - 1);
    return true;
  }

  #copyBlock(sequence: Sequence, index: number): void {
    const from = this.#blocks.makeWritable(sequence.blockTable, index);
    if (from === null) return;
    const output = this.#output;
    output.copies[2 * output.numCopies] = from;
    output.copies[2 * output.numCopies + 1] = sequence.blockTable.blockId(index);
    output.numCopies++;
  }
}
