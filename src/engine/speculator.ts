/**
 * Decides how many drafted tokens a step checks beside its streams: as many as make the time per token of output least, by what steps were measured
 * to take and how far drafts went before. So drafting begins where it pays, its length follows what is accepted, and it stops by itself.
 *
 * Knows streams, drafts and times; not blocks, not sampling. A balance of time gained and lost backs up the estimates: it is fed by a small share
 * of the time of all steps, and where it is spent nothing is drafted.
 */

import { type DraftSource, MAX_DRAFT_TOKENS } from './draft-source.ts';
import type { Sequence } from './sequence.ts';
import { StepCost } from './step-cost.ts';

/** Time per token must fall below this share of the plain time. */
const WORTHWHILE = 0.97;
/** Share of the time of steps that may be lost on drafts in the long run, and most steps' worth that may be saved up for it. */
const LOSS_SHARE = 0.01;
const MAX_BALANCE_STEPS = 4;
const FIRST_BALANCE_STEPS = 2;

/** Sums since the engine started. */
export interface SpeculationStats {
  /** Drafts checked, and tokens in them. */
  readonly numDrafts: number;
  readonly numDraftTokens: number;
  readonly numAcceptedTokens: number;
  /** Drafts whose token at this place (from 0) was accepted. */
  readonly numAcceptedTokensPerPos: readonly number[];
}

export class Speculator {
  readonly #source: DraftSource;
  readonly #cost: StepCost;
  readonly #totals = { numDrafts: 0, numDraftTokens: 0, numAcceptedTokens: 0 };
  readonly #acceptedPerPos = new Int32Array(MAX_DRAFT_TOKENS);
  /** `null` before the first step. */
  #balanceMs: number | null = null;
  /** Streams with a guess: the sequence, its class, and how many tokens of it are taken so far. */
  readonly #candidates: Sequence[] = [];
  readonly #classes: number[] = [];
  readonly #taken: number[] = [];
  readonly #limits: number[] = [];

  /** @param maxRows most rows of logits that a step can have */
  constructor(source: DraftSource, maxRows: number) {
    this.#source = source;
    this.#cost = new StepCost(maxRows);
  }

  /**
   * Drafts for the streams of a step: sets `numDrafts` and `drafts` of each.
   *
   * @param streams       the first `numStreams` are meant; each computes one token so far
   * @param maxTokens     most drafted tokens that the step takes
   * @param promptTokenMs where prompt tokens will be in the step, too: what a token more costs then; else `null`
   */
  plan(
    streams: readonly Sequence[],
    numStreams: number,
    maxTokens: number,
    promptTokenMs: number | null,
  ): void {
    const numCandidates = this.#look(streams, numStreams);
    const most = Math.min(maxTokens, this.#cost.maxRows - numStreams);
    if (numCandidates === 0 || most < 1) return;
    if (this.#balanceMs === null || this.#balanceMs < 0) return;
    const plainMs = this.#cost.ms(numStreams);

    let expected = 0;
    let best = (WORTHWHILE * plainMs) / numStreams;
    let bestCount = 0;
    for (let count = 1; count <= most; count++) {
      const c = this.#takeLikeliest(numCandidates);
      if (c === null) break;
      expected += c;
      const ms =
        promptTokenMs === null
          ? this.#cost.ms(numStreams + count)
          : plainMs + promptTokenMs * count;
      const perToken = (ms + this.#source.draftTokenMs * count) / (numStreams + expected);
      if (perToken < best) {
        best = perToken;
        bestCount = count;
      }
    }
    if (bestCount > 0) this.#draft(numCandidates, bestCount);
  }

  /** Finds the streams with a guess. Every stream looks, so that each guess is followed up. */
  #look(streams: readonly Sequence[], numStreams: number): number {
    let numCandidates = 0;
    for (let s = 0; s < numStreams; s++) {
      const sequence = streams[s]!;
      if (!sequence.isSpeculative) continue;
      sequence.drafter ??= this.#source.open();
      const c = sequence.drafter.look(sequence.tokens);
      // The draw after the last draft gives a token, too.
      const room = sequence.params.maxTokens - sequence.numOutputTokens - 1;
      if (c === null || room < 1) continue;
      this.#candidates[numCandidates] = sequence;
      this.#classes[numCandidates] = c;
      this.#taken[numCandidates] = 0;
      this.#limits[numCandidates] = Math.min(room, MAX_DRAFT_TOKENS);
      numCandidates++;
    }
    return numCandidates;
  }

  /** Adds the token that is likeliest to be accepted to its draft. Returns how likely; `null` if all drafts are at their limit. */
  #takeLikeliest(numCandidates: number): number | null {
    let likeliest = -1;
    let share = 0;
    for (let i = 0; i < numCandidates; i++) {
      if (this.#taken[i]! >= this.#limits[i]!) continue;
      const drafter = this.#candidates[i]!.drafter!;
      const own = drafter.survival(this.#classes[i]!, this.#taken[i]! + 1);
      if (own > share) {
        share = own;
        likeliest = i;
      }
    }
    if (likeliest < 0) return null;
    this.#taken[likeliest]!++;
    return share;
  }

  #draft(numCandidates: number, count: number): void {
    this.#taken.fill(0);
    for (let i = 0; i < count; i++) this.#takeLikeliest(numCandidates);
    for (let i = 0; i < numCandidates; i++) {
      const numTokens = this.#taken[i]!;
      if (numTokens === 0) continue;
      const sequence = this.#candidates[i]!;
      sequence.drafts ??= new Int32Array(MAX_DRAFT_TOKENS);
      sequence.numDrafts = sequence.drafter!.draft(sequence.tokens, numTokens, sequence.drafts);
    }
  }

  /** Takes in what became of one draft. */
  observeDraft(numTokens: number, numAccepted: number): void {
    this.#totals.numDrafts++;
    this.#totals.numDraftTokens += numTokens;
    this.#totals.numAcceptedTokens += numAccepted;
    for (let i = 0; i < numAccepted; i++) this.#acceptedPerPos[i]!++;
  }

  /** Takes in what a step of so many rows takes. */
  observeCost(numRows: number, stepMs: number): void {
    this.#cost.observe(numRows, stepMs);
    this.#balanceMs ??= FIRST_BALANCE_STEPS * this.#cost.ms(1);
  }

  /** Takes in a step of streams and drafts without prompt tokens. */
  observeStep(
    numStreams: number,
    numDraftTokens: number,
    numAccepted: number,
    stepMs: number,
  ): void {
    this.#cost.observe(numStreams + numDraftTokens, stepMs);
    const plainMs = this.#cost.ms(numStreams);
    const most = MAX_BALANCE_STEPS * plainMs;
    let change = LOSS_SHARE * plainMs;
    if (numDraftTokens > 0) {
      // Expected times rather than measured ones: a step held up by other work is no loss of drafting.
      change += (numAccepted * plainMs) / numStreams + plainMs;
      change -= this.#cost.ms(numStreams + numDraftTokens);
    }
    this.#balanceMs = Math.min((this.#balanceMs ?? FIRST_BALANCE_STEPS * plainMs) + change, most);
  }

  get stats(): SpeculationStats {
    return { ...this.#totals, numAcceptedTokensPerPos: Array.from(this.#acceptedPerPos) };
  }
}
