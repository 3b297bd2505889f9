/**
 * Decides what the next step computes: which sequences, how many tokens of each. Owns the queues and moves blocks; runs nothing, samples nothing.
 *
 * One rule under a token budget (vLLM v1's): every sequence has tokens still to compute. In order:
 *   1. waiting sequences are taken in, the most urgent first, while there are blocks for all of their tokens and budget for some; one that is more
 *      urgent by a class takes the place of the least urgent running ones;
 *   2. running sequences that lack one token get it; where no block is free for it, the least urgent gives all of its blocks back and waits to be
 *      computed again;
 *   3. those streams get drafted tokens to check, where that pays;
 *   4. running sequences that lack more get a chunk, the most urgent first.
 * While prompts are computed, sequences of a lower class are left out, for a while at most. The most urgent running sequence is never preempted and
 * every sequence fits alone, so every step brings something to its end.
 */

import { InternalError } from '../platform/errors.ts';
import type { RunnerLimits } from '../targets/model-runner.ts';
import { type BlockManager, PrefixMatch } from './block-manager.ts';
import type { PrefillPacer } from './prefill-pacer.ts';
import {
  DEFAULT_PRIORITY_OPTIONS,
  LEVELS_PER_CLASS,
  PRIORITIES,
  type PriorityOptions,
  sinkOf,
} from './priority.ts';
import type { Sequence } from './sequence.ts';
import type { Speculator } from './speculator.ts';
import { OUTPUT_WEIGHT, TenantShares } from './tenant-shares.ts';
import { WaitingQueue } from './waiting-queue.ts';

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

export interface SchedulerOptions {
  readonly limits: RunnerLimits;
  readonly blocks: BlockManager;
  readonly pacer: PrefillPacer;
  /** `null`: nothing is drafted. */
  readonly speculator?: Speculator | null;
  readonly priorities?: PriorityOptions;
}

/** Prompt tokens of a paused sequence whose time is up, beside those of a more urgent one. */
const OVERDUE_CHUNK = 16;
/** Drafts take at most this share of the tokens that a step has left for prompts. */
const DRAFT_SHARE = 0.5;
const LOWEST_CLASS = PRIORITIES.length - 1;

export class Scheduler {
  readonly #blocks: BlockManager;
  readonly #pacer: PrefillPacer;
  readonly #speculator: Speculator | null;
  readonly #priorities: PriorityOptions;
  readonly #maxTokens: number;
  readonly #maxLogitRows: number;
  readonly #maxRunning: number;
  /** Whether blocks have no keys and values before they are full, so that none is gone on with that was filled for another. */
  readonly #hasOpenBlocks: boolean;
  /** Slots of the runner that no running sequence has. */
  readonly #freeSlots: number[];
  readonly #shares = new TenantShares();
  /** The most urgent first, then in order of arrival. */
  readonly #running: Sequence[] = [];
  readonly #waiting: WaitingQueue;
  readonly #match = new PrefixMatch();
  readonly #output: SchedulerOutput;
  #lastOrder = 0;
  /** When a sequence of each class was last taken in. */
  readonly #lastAdmittedMs = PRIORITIES.map(() => Number.NEGATIVE_INFINITY);
  #nowMs = 0;
  /** Level and class of the most urgent prompt in this step; of nobody: as if there were none. */
  #urgentLevel = Number.POSITIVE_INFINITY;
  #urgentClass = Number.POSITIVE_INFINITY;

  constructor(options: SchedulerOptions) {
    const { limits } = options;
    this.#blocks = options.blocks;
    this.#pacer = options.pacer;
    this.#speculator = options.speculator ?? null;
    this.#priorities = options.priorities ?? DEFAULT_PRIORITY_OPTIONS;
    this.#waiting = new WaitingQueue(this.#shares, this.#priorities.climbMs);
    this.#maxTokens = limits.maxTokens;
    this.#maxLogitRows = limits.maxLogitRows;
    // Every running sequence can then have its token and its row of logits in every step.
    this.#maxRunning = Math.min(limits.maxSeqs, limits.maxLogitRows, limits.maxTokens);
    this.#hasOpenBlocks = limits.hasOpenBlocks ?? false;
    this.#freeSlots = Array.from({ length: this.#maxRunning }, (_, i) => this.#maxRunning - 1 - i);
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

  /** Token slots of blocks that sequences hold and no token stands in: the ends of last blocks, which nobody shares. */
  get numUnusedSlots(): number {
    const { blockSize } = this.#blocks;
    let count = 0;
    for (const { blockTable, numTokens } of this.#running) {
      count += blockTable.numBlocks * blockSize - numTokens;
    }
    return count;
  }

  get numWaiting(): number {
    return this.#waiting.length;
  }

  /** Queues a new sequence. */
  add(sequence: Sequence): void {
    sequence.order = ++this.#lastOrder;
    sequence.waitingSinceMs = sequence.arrivalMs;
    this.#shares.enter(sequence.tenant);
    this.#waiting.push(sequence);
  }

  /** Takes a sequence out, wherever it stands, and frees its blocks. */
  remove(sequence: Sequence): void {
    if (!this.#waiting.remove(sequence)) {
      const index = this.#running.indexOf(sequence);
      if (index < 0) return;
      this.#stopRunning(index);
    }
    this.#shares.leave(sequence.tenant);
    this.#blocks.releaseAll(sequence.blockTable);
    sequence.drafter?.drop();
  }

  /** Decides the next step. With nothing to do, `numSequences` is 0. */
  schedule(nowMs: number): SchedulerOutput {
    const output = this.#output;
    output.numSequences = 0;
    output.numTokens = 0;
    output.numDraftTokens = 0;
    output.numStreams = 0;
    output.numCopies = 0;
    output.numPreempted = 0;
    this.#nowMs = nowMs;

    this.#sortRunning();
    this.#findUrgentPrompt();
    if (this.#waiting.length > 0) this.#admit();
    for (let index = 0; index < this.#running.length; index++) {
      const sequence = this.#running[index]!;
      if (!isStream(sequence) || this.#isPaused(sequence)) continue;
      if (!this.#makeRoom(sequence)) continue;
      this.#schedule(sequence, 1);
      output.numStreams++;
    }
    const numWaiting = this.#running.length - output.numStreams + this.#waiting.length;
    this.#draft(numWaiting);
    this.#schedulePrompts(numWaiting);
    return output;
  }

  /** Insertion sort of a list that hardly ever changes. */
  #sortRunning(): void {
    const running = this.#running;
    for (let i = 1; i < running.length; i++) {
      const sequence = running[i]!;
      let at = i;
      for (; at > 0 && isBefore(sequence, running[at - 1]!); at--) running[at] = running[at - 1]!;
      running[at] = sequence;
    }
  }

  #findUrgentPrompt(): void {
    this.#urgentLevel = Number.POSITIVE_INFINITY;
    this.#urgentClass = Number.POSITIVE_INFINITY;
    for (const sequence of this.#running) if (!isStream(sequence)) this.#noteUrgency(sequence);
  }

  /** An escorted sequence is urgent for its own sake only: nobody is paused for it. */
  #noteUrgency(sequence: Sequence): void {
    if (sequence.level < 0 || sequence.level >= this.#urgentLevel) return;
    this.#urgentLevel = sequence.level;
    this.#urgentClass = sequence.classIndex;
  }

  /** Whether the sequence is left out of this step in favour of a prompt of a higher class. */
  #isPaused(sequence: Sequence): boolean {
    return this.#isOutranked(sequence) && !this.#isOverdue(sequence);
  }

  #isOutranked(sequence: Sequence): boolean {
    return (
      sequence.classIndex > this.#urgentClass &&
      sequence.level >= this.#urgentLevel + LEVELS_PER_CLASS
    );
  }

  #isOverdue(sequence: Sequence): boolean {
    return this.#nowMs - sequence.lastServedMs >= this.#priorities.maxPauseMs;
  }

  #schedule(sequence: Sequence, numNewTokens: number): number {
    const output = this.#output;
    output.sequences[output.numSequences] = sequence;
    output.numNewTokens[output.numSequences] = numNewTokens;
    output.numDrafts[output.numSequences] = 0;
    output.numSequences++;
    output.numTokens += numNewTokens;
    sequence.numDrafts = 0;
    sequence.lastServedMs = this.#nowMs;
    sequence.numServed += numNewTokens;
    sequence.sink = sinkOf(sequence.numServed, this.#priorities.sinkTokens);
    this.#shares.charge(
      sequence.tenant,
      isStream(sequence) ? OUTPUT_WEIGHT * numNewTokens : numNewTokens,
    );
    return numNewTokens;
  }

  /** Prompt tokens that the step may take beside the streams and drafts it has so far. */
  #promptBudget(numWaiting: number): number {
    const { numStreams, numDraftTokens } = this.#output;
    const givesWay = this.#urgentClass >= LOWEST_CLASS;
    return this.#pacer.promptTokens(numStreams + numDraftTokens, numWaiting, givesWay);
  }

  #schedulePrompts(numWaiting: number): void {
    const output = this.#output;
    let budget = Math.min(this.#promptBudget(numWaiting), this.#maxTokens - output.numTokens);
    const numScheduled = output.numSequences;
    // Those whose pause is over get a little at once, lest the more urgent ones take all there is.
    for (const sequence of this.#running) {
      if (isStream(sequence) || !this.#isOutranked(sequence) || !this.#isOverdue(sequence))
        continue;
      if (budget === 0) return;
      budget -= this.#schedule(sequence, Math.min(numMissing(sequence), OVERDUE_CHUNK, budget));
    }
    const numOverdue = output.numSequences - numScheduled;
    for (const sequence of this.#running) {
      if (budget === 0) return;
      if (isStream(sequence) || this.#isPaused(sequence)) continue;
      if (numOverdue > 0 && this.#isScheduledFrom(sequence, numScheduled)) continue;
      budget -= this.#schedule(sequence, Math.min(numMissing(sequence), budget));
    }
  }

  #isScheduledFrom(sequence: Sequence, start: number): boolean {
    const index = this.#output.sequences.indexOf(sequence, start);
    return index >= 0 && index < this.#output.numSequences;
  }

  /** Adds drafts to the streams, as far as logits and blocks reach without taking them from anyone. */
  #draft(numWaiting: number): void {
    const output = this.#output;
    const { numStreams, sequences } = output;
    if (this.#speculator === null || numStreams === 0) return;
    // Every other running sequence may catch up in this step and want its row.
    const numRows = Math.min(
      this.#maxLogitRows - this.#running.length,
      this.#maxTokens - output.numTokens,
    );
    if (numWaiting === 0) {
      this.#speculator.plan(sequences, numStreams, numRows, null);
    } else {
      const promptTokenMs = this.#pacer.promptTokenMs ?? Number.POSITIVE_INFINITY;
      const share = Math.floor(DRAFT_SHARE * this.#promptBudget(numWaiting));
      this.#speculator.plan(sequences, numStreams, Math.min(numRows, share), promptTokenMs);
    }
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

  /** Gets the block for one more token, from the least urgent if need be. Returns false if that is this sequence itself. */
  #makeRoom(sequence: Sequence): boolean {
    while (!this.#blocks.grow(sequence.blockTable, sequence.numTokens)) {
      const last = this.#running.at(-1)!;
      if (last === sequence && this.#running.length === 1) {
        if (this.#blocks.unpinAll()) continue;
        const { numTokens } = sequence;
        throw new InternalError(`${numTokens} tokens of one sequence do not fit an empty KV cache`);
      }
      this.#preempt(last);
      if (last === sequence) return false;
    }
    return true;
  }

  /** Preemption by recompute: what it has computed survives only as far as the prefix cache keeps it. */
  #preempt(sequence: Sequence): void {
    this.#stopRunning(this.#running.indexOf(sequence));
    this.#dropCopy(sequence);
    this.#blocks.releaseAll(sequence.blockTable);
    sequence.drafter?.drop();
    sequence.numComputedTokens = 0;
    sequence.numPreemptions++;
    sequence.waitingSinceMs = this.#nowMs;
    this.#waiting.unshift(sequence);
    this.#output.numPreempted++;
  }

  /** Takes waiting sequences in, while there is room and prompt budget for them. */
  #admit(): void {
    const starving = this.#starving();
    if (starving !== null) this.#escort(starving);
    for (;;) {
      const sequence = this.#waiting.best(this.#nowMs);
      if (sequence === null || this.#isOutranked(sequence)) return;
      const victimLevel = sequence.level + LEVELS_PER_CLASS;
      if (this.#running.length >= this.#maxRunning && !this.#hasVictim(victimLevel)) return;
      if (!this.#hasBudgetFor(sequence)) return;
      if (!this.#takeBlocks(sequence) && !this.#displaceFor(sequence, victimLevel)) {
        // Alone every sequence fits, if need be in the place of pinned prefixes.
        if (this.#running.length > 0 || !this.#blocks.unpinAll()) return;
        continue;
      }
      this.#run(sequence);
    }
  }

  /** Whether the step would have prompt tokens left for the sequence, after those that come before it. */
  #hasBudgetFor(sequence: Sequence): boolean {
    const outranked = sequence.level + LEVELS_PER_CLASS;
    let numStreams = 0;
    let numPrompts = 0;
    let numTokensBefore = 0;
    for (const other of this.#running) {
      const isPrompt = !isStream(other);
      if (isPrompt) numPrompts++;
      if (other.classIndex > sequence.classIndex && other.level >= outranked) continue;
      if (!isPrompt) numStreams++;
      else if (other.level <= sequence.level) numTokensBefore += numMissing(other);
    }
    const givesWay = Math.min(this.#urgentClass, sequence.classIndex) >= LOWEST_CLASS;
    const budget = Math.min(
      this.#pacer.promptTokens(numStreams, numPrompts + this.#waiting.length, givesWay),
      this.#maxTokens - numStreams,
    );
    return numTokensBefore < budget;
  }

  /** The first in line of a class that has had nobody taken in for too long. */
  #starving(): Sequence | null {
    const { starvationMs } = this.#priorities;
    for (let c = 1; c < PRIORITIES.length; c++) {
      if (this.#nowMs - this.#lastAdmittedMs[c]! < starvationMs) continue;
      const first = this.#waiting.bestOfClass(c, this.#nowMs);
      if (first !== null && this.#nowMs - first.waitingSinceMs >= starvationMs) return first;
    }
    return null;
  }

  /** Takes a sequence in ahead of everybody, for a while; in the place of others if need be. */
  #escort(sequence: Sequence): void {
    if (this.#running.some(({ level }) => level < 0)) return; // One at a time.
    if (!this.#takeBlocks(sequence) && !this.#displaceFor(sequence, 0)) return;
    sequence.escortEnd = sequence.numOutputTokens + this.#priorities.escortTokens;
    this.#run(sequence);
  }

  /** Moves a sequence that has its blocks from the waiting to the running ones. */
  #run(sequence: Sequence): void {
    this.#waiting.remove(sequence);
    this.#running.push(sequence);
    sequence.slot = this.#freeSlots.pop()!;
    this.#sortRunning();
    sequence.lastServedMs = this.#nowMs;
    sequence.numCachedTokens ??= Math.min(sequence.numComputedTokens, sequence.numPromptTokens);
    this.#lastAdmittedMs[sequence.classIndex] = this.#nowMs;
    this.#noteUrgency(sequence);
  }

  #stopRunning(index: number): void {
    const [sequence] = this.#running.splice(index, 1);
    this.#freeSlots.push(sequence!.slot);
  }

  /** Whether a sequence of this level or a less urgent one is running. */
  #hasVictim(level: number): boolean {
    const last = this.#running.at(-1);
    return last !== undefined && last.level >= level;
  }

  /**
   * Sends running sequences back to wait, the least urgent first, and takes blocks for `sequence` instead.
   *
   * @param level only sequences of this level and less urgent ones go
   * @returns false if that would not be enough; then all stay
   */
  #displaceFor(sequence: Sequence, level: number): boolean {
    const blocks = this.#blocks;
    let numFree = blocks.numFreeBlocks;
    let numLeft = this.#running.length;
    for (const other of this.#running) {
      if (other.level < level) continue;
      numFree += blocks.numFreedBy(other.blockTable);
      numLeft--;
    }
    if (numLeft === this.#running.length || numLeft >= this.#maxRunning) return false;
    // Whatever of it is cached needs no block more, but may be counted among the free ones: so all of it is counted.
    if (blocks.blocksFor(sequence.numTokens) > numFree - numLeft) return false;
    while (this.#hasVictim(level)) {
      this.#preempt(this.#running.at(-1)!);
      if (this.#takeBlocks(sequence)) return true;
    }
    return false;
  }

  /**
   * Blocks for all tokens of a sequence that is to run, cached ones first. Everything may be cached, but the last token is computed in any case:
   * its logits are wanted. Where a block can be spared, that is one token into a copy of the last block; else, and where blocks are open until they are
   * full, the last block is computed as a whole.
   *
   * @returns false if there is no room for it
   */
  #takeBlocks(sequence: Sequence): boolean {
    if (this.#running.length >= this.#maxRunning) return false;
    const { numTokens } = sequence;
    return (
      (!this.#hasOpenBlocks && this.#takeBlocksAfter(sequence, numTokens)) ||
      this.#takeBlocksAfter(sequence, numTokens - 1)
    );
  }

  /** @param maxCached most tokens that may come from the cache */
  #takeBlocksAfter(sequence: Sequence, maxCached: number): boolean {
    const { blockTable, numTokens } = sequence;
    const blocks = this.#blocks;
    const match = this.#match;
    const maxFound = Math.min(maxCached, sequence.maxCachedTokens);
    // Copies are made when the step is decided, stored content is written at once: it could take a block that is still to be copied.
    const hasStore = this.#output.numCopies === 0;
    blocks.findPrefix(sequence.tokens, maxFound, match, blockTable.root, hasStore);
    const numCopies = match.numBlocks * blocks.blockSize === numTokens ? 1 : 0;
    const numNew = blocks.blocksFor(numTokens) - match.numPooled + numCopies;
    // One block is left for the growth of each running sequence, lest it be preempted at once.
    if (numNew > blocks.numFreeBlocks - match.numFree - this.#running.length) return false;
    const numBlocks = blocks.adopt(blockTable, match);
    if (!blocks.grow(blockTable, numTokens)) {
      // Blocks were counted that stored content did not come back for.
      blocks.releaseAll(blockTable);
      return false;
    }
    const numCached = numBlocks * blocks.blockSize;
    sequence.numComputedTokens = Math.min(numCached, numTokens - 1);
    if (numCached === numTokens) this.#copyBlock(sequence, numBlocks - 1);
    return true;
  }

  /** A sequence that is sent back in the step that took it in needs no copy: its block is another's. */
  #dropCopy({ blockTable }: Sequence): void {
    const output = this.#output;
    const { copies, numCopies } = output;
    const own = blockTable.ids.subarray(0, blockTable.numBlocks);
    for (let c = 0; c < numCopies; c++) {
      if (!own.includes(copies[2 * c + 1]!)) continue;
      copies.copyWithin(2 * c, 2 * c + 2, 2 * numCopies);
      output.numCopies--;
      return;
    }
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

function numMissing(sequence: Sequence): number {
  return sequence.numTokens - sequence.numComputedTokens;
}

/** Whether all but its latest token of output is computed. */
function isStream(sequence: Sequence): boolean {
  return numMissing(sequence) === 1 && sequence.numOutputTokens > 0;
}

function isBefore(a: Sequence, b: Sequence): boolean {
  return a.level !== b.level ? a.level < b.level : a.order < b.order;
}
