/**
 * Which open group the tokens of a step belong to, for runners whose KV blocks are written when they are full (kernels/open-group.ts).
 *
 * A sequence, known by its slot in the batch, keeps the group that it was in when a step ended, and the one before it if that step ended it: so it may
 * be taken back as far as the step's first token, which is how drafts are refused. It gives up what it does not need when it goes on. Groups that a step
 * both begins and ends are gone with it. Knows positions only; the memory is its runner's.
 */
import { KV_GROUP_TOKENS } from '../kernels/kv-layout.ts';
import type { StepBatch } from './model-runner.ts';
import { StepError } from './step-batch.ts';

/** Groups that a sequence keeps at most. */
const KEPT_PER_SEQUENCE = 2;

export interface OpenGroupLimits {
  readonly maxTokens: number;
  readonly maxSeqs: number;
}

/** Groups that sequences keep, in all. */
export function numOwnGroups({ maxSeqs }: OpenGroupLimits): number {
  return KEPT_PER_SEQUENCE * maxSeqs;
}

/** Groups that a step may begin and end. */
export function maxStepGroups({ maxTokens }: OpenGroupLimits): number {
  return Math.floor(maxTokens / KV_GROUP_TOKENS);
}

/** Groups that a step may fill. */
export function maxSeals({ maxTokens, maxSeqs }: OpenGroupLimits): number {
  return Math.min(maxTokens, maxStepGroups({ maxTokens, maxSeqs }) + maxSeqs);
}

interface OpenGroupLists {
  readonly openSlots: Int32Array;
  readonly seals: Int32Array;
}

export class OpenGroups {
  /** Where each token's k and v go: group * 32 + place in it, i32 [maxTokens]. */
  readonly openSlots: Int32Array;
  /** Groups that the step fills, and the blocks that they become: group, block, group, block, ...; i32 [2 * numSeals]. */
  readonly seals: Int32Array;
  numSeals = 0;
  readonly #numOwn: number;
  readonly #free: Int32Array;
  #numFree: number;
  /** Per slot what it keeps: which group of its sequence (-1: none), where it is, and how many positions of the sequence are computed at its end. */
  readonly #index: Int32Array;
  readonly #id: Int32Array;
  readonly #end: Int32Array;
  /** Of the step: of each sequence its first group and where that of it stands in `#ids`. */
  readonly #firstIndex: Int32Array;
  readonly #firstOfIds: Int32Array;
  /** Groups of the step's sequences, each in order. */
  readonly #ids: Int32Array;
  readonly #isNamed: Uint8Array;

  /** @param lists memory for these, i32 [maxTokens] and [2 * maxSeals] */
  constructor(limits: OpenGroupLimits, lists?: OpenGroupLists) {
    const { maxTokens, maxSeqs } = limits;
    this.openSlots = lists?.openSlots ?? new Int32Array(maxTokens);
    this.seals = lists?.seals ?? new Int32Array(2 * maxSeals(limits));
    this.#numOwn = numOwnGroups(limits);
    // The last one freed is the first one taken, so that no more memory is touched than is in use.
    this.#free = Int32Array.from({ length: this.#numOwn }, (_, i) => this.#numOwn - 1 - i);
    this.#numFree = this.#numOwn;
    this.#index = new Int32Array(this.#numOwn).fill(-1);
    this.#id = new Int32Array(this.#numOwn);
    this.#end = new Int32Array(this.#numOwn);
    this.#firstIndex = new Int32Array(maxSeqs);
    this.#firstOfIds = new Int32Array(maxSeqs);
    this.#ids = new Int32Array(maxStepGroups(limits) + KEPT_PER_SEQUENCE * maxSeqs);
    this.#isNamed = new Uint8Array(maxSeqs);
  }

  /**
   * Finds a group for every token of a valid batch.
   * @throws {StepError} if a sequence goes on in a group that its slot does not keep; nothing is changed then
   */
  make(batch: StepBatch): void {
    this.#check(batch);
    this.numSeals = 0;
    let numIds = 0;
    let numStepGroups = 0;
    for (let s = 0; s < batch.numSeqs; s++) {
      const { begin, end, firstToken } = rangeOf(batch, s);
      this.#firstOfIds[s] = numIds;
      if (begin === end) continue;
      const first = groupOf(begin);
      const last = groupOf(end - 1);
      this.#firstIndex[s] = first;
      // The first one is kept if it was there before: its tokens may be taken back.
      const isFirstKept = begin % KV_GROUP_TOKENS > 0;
      this.#giveUp(batch.sequenceSlots[s]!, isFirstKept ? first : last, last);
      for (let group = first; group <= last; group++) {
        const isKept = group === last || (group === first && isFirstKept);
        const id = isKept
          ? this.#keep(batch.sequenceSlots[s]!, group, end)
          : this.#numOwn + numStepGroups++;
        this.#ids[numIds++] = id;
        if ((group + 1) * KV_GROUP_TOKENS > end) continue;
        const at = 2 * this.numSeals++;
        this.seals[at] = id;
        this.seals[at + 1] = batch.blockTables[s * batch.maxBlocksPerSeq + group]!;
      }
      for (let position = begin; position < end; position++) {
        this.openSlots[firstToken + position - begin] =
          this.idOf(s, position) * KV_GROUP_TOKENS + (position % KV_GROUP_TOKENS);
      }
    }
  }

  /** The group of a position that sequence s of the step computes. */
  idOf(s: number, position: number): number {
    return this.#ids[this.#firstOfIds[s]! + groupOf(position) - this.#firstIndex[s]!]!;
  }

  #check(batch: StepBatch): void {
    this.#isNamed.fill(0);
    for (let s = 0; s < batch.numSeqs; s++) {
      const slot = batch.sequenceSlots[s]!;
      if (this.#isNamed[slot] === 1) {
        throw new StepError(`sequenceSlots[${s}] is ${slot}, which another sequence has`);
      }
      this.#isNamed[slot] = 1;
      const { begin, end } = rangeOf(batch, s);
      if (begin === end || begin % KV_GROUP_TOKENS === 0) continue;
      const kept = this.#keptAt(slot, groupOf(begin));
      if (kept === null || this.#end[kept]! < begin) {
        throw new StepError(
          `sequence ${s} goes on at position ${begin}, and slot ${slot} does not keep what is before it in its group of ${KV_GROUP_TOKENS}`,
        );
      }
    }
  }

  /** Where among what slots keep a group stands. */
  #keptAt(slot: number, group: number): number | null {
    for (let i = 0; i < KEPT_PER_SEQUENCE; i++) {
      const at = KEPT_PER_SEQUENCE * slot + i;
      if (this.#index[at] === group) return at;
    }
    return null;
  }

  /** Frees what a slot keeps besides two groups. */
  #giveUp(slot: number, one: number, other: number): void {
    for (let i = 0; i < KEPT_PER_SEQUENCE; i++) {
      const at = KEPT_PER_SEQUENCE * slot + i;
      const index = this.#index[at]!;
      if (index < 0 || index === one || index === other) continue;
      this.#free[this.#numFree++] = this.#id[at]!;
      this.#index[at] = -1;
    }
  }

  /** The place of a group that a slot keeps from now on, computed up to position `end`. */
  #keep(slot: number, group: number, end: number): number {
    let at = this.#keptAt(slot, group);
    if (at === null) {
      at = this.#keptAt(slot, -1)!;
      this.#index[at] = group;
      this.#id[at] = this.#free[--this.#numFree]!;
    }
    this.#end[at] = end;
    return this.#id[at]!;
  }
}

/** Positions [begin, end) that sequence s computes, and its first token in the step. */
function rangeOf({ queryStarts, contextLens }: StepBatch, s: number) {
  const firstToken = queryStarts[s]!;
  const end = contextLens[s]!;
  return { begin: end - (queryStarts[s + 1]! - firstToken), end, firstToken };
}

function groupOf(position: number): number {
  return Math.floor(position / KV_GROUP_TOKENS);
}
