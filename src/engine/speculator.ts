/**
 * Decides how many drafted tokens a step checks beside its streams: as many as make the time per token of output least, by what steps were measured
 * to take and how far drafts went before. So drafting begins where it pays, its length follows what is accepted, and it stops by itself.
 *
 * Knows streams, drafts and times; not blocks, not sampling. A balance of time gained and lost backs up the estimates: it is fed by a small share
 * of the time of all steps, and where it is spent nothing is drafted.
 */

import { type DraftOrder, type DraftSource, MAX_DRAFT_TOKENS } from './draft-source.ts';
import type { Sequence } from './sequence.ts';
import { StepCost } from './step-cost.ts';

/** Time per token must fall below this share of the plain time. */
const WORTHWHILE = 0.97;
/** Share of the time of steps that may be lost on drafts in the long run, and most steps' worth that may be saved up for it. */
const LOSS_SHARE = 0.01;
const MAX_BALANCE_STEPS = 4;
const FIRST_BALANCE_STEPS = 2;
/** Drafts may take this many times as long as a draft of one token, whatever the balance is, so long as there is one. */
const LEAST_SPAN = 1.6;
/**
 * The same for work that must be done before anything can be drafted, such as a draft model's reading of a prompt; what drafts have gained may
 * be spent on it, too. In one step it takes no longer than a share of the step.
 */
const READING_SHARE = 0.02;
const MAX_READING_STEPS = 1000;
const FIRST_READING_STEPS = 16;
const READING_STEP_SHARE = 0.5;

/** How many of a sequence's drafts its grammar lets come. */
export type DraftCheck = (sequence: Sequence) => number;

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
  readonly #check: DraftCheck | null;
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
  readonly #orders: DraftOrder[] = [];
  readonly #maxDraftTokens: number;
  /** Expected time of the drafts of the step under way. */
  #draftMs = 0;
  #readingMs: number | null = null;

  /**
   * @param maxRows        most rows of logits that a step can have
   * @param maxDraftTokens most tokens of one draft
   * @param check          cuts the drafts of sequences that have a grammar
   */
  constructor(
    source: DraftSource,
    maxRows: number,
    options: { readonly maxDraftTokens?: number | undefined; readonly check?: DraftCheck } = {},
  ) {
    const { maxDraftTokens = MAX_DRAFT_TOKENS, check = null } = options;
    this.#source = source;
    this.#check = check;
    this.#cost = new StepCost(maxRows);
    this.#maxDraftTokens = Math.min(maxDraftTokens, MAX_DRAFT_TOKENS);
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
    this.#draftMs = 0;
    const numCandidates = this.#look(streams, numStreams);
    this.#read(numStreams);
    const most = Math.min(maxTokens, this.#cost.maxRows - numStreams);
    if (numCandidates === 0 || most < 1) return;
    if (this.#balanceMs === null || this.#balanceMs < 0) return;
    const plainMs = this.#cost.ms(numStreams);
    // Were all of it wrong, the balance would bear it; what costs little more than one drafted token is tried in any case.
    const mostMs = Math.max(plainMs + this.#balanceMs, LEAST_SPAN * this.#cost.ms(numStreams + 1));

    let expected = 0;
    let best = (WORTHWHILE * plainMs) / numStreams;
    let bestCount = 0;
    let depth = 0;
    for (let count = 1; count <= most; count++) {
      const c = this.#takeLikeliest(numCandidates);
      if (c === null) break;
      expected += c;
      depth = Math.max(depth, this.#lastTaken);
      const draftMs = this.#source.draftMs(depth, count);
      const ms =
        promptTokenMs === null
          ? this.#cost.ms(numStreams + count)
          : plainMs + promptTokenMs * count;
      const perToken = (ms + draftMs) / (numStreams + expected);
      if (perToken < best && ms + draftMs <= mostMs) {
        best = perToken;
        bestCount = count;
      }
    }
    if (bestCount > 0) this.#draft(numCandidates, bestCount);
  }

  /** Lets the source do what it must before it can draft, where that may pay. */
  #read(numStreams: number): void {
    if (this.#readingMs === null || this.#readingMs < 0) return;
    this.#readingMs -= this.#source.catchUp(READING_STEP_SHARE * this.#cost.ms(numStreams));
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
      this.#limits[numCandidates] = Math.min(room, this.#maxDraftTokens);
      numCandidates++;
    }
    return numCandidates;
  }

  /** Tokens of the draft that `takeLikeliest` last added to. */
  #lastTaken = 0;

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
    this.#lastTaken = ++this.#taken[likeliest]!;
    return share;
  }

  #draft(numCandidates: number, count: number): void {
    this.#taken.fill(0);
    for (let i = 0; i < count; i++) this.#takeLikeliest(numCandidates);
    let numOrders = 0;
    for (let i = 0; i < numCandidates; i++) {
      const maxTokens = this.#taken[i]!;
      if (maxTokens === 0) continue;
      const sequence = this.#candidates[i]!;
      sequence.drafts ??= new Int32Array(MAX_DRAFT_TOKENS);
      const { drafter, drafts: into } = sequence;
      this.#orders[numOrders] = { drafter: drafter!, maxTokens, into, numTokens: 0 };
      this.#candidates[numOrders++] = sequence;
    }
    this.#source.draft(this.#orders, numOrders);
    let longest = 0;
    let numTried = 0;
    for (let i = 0; i < numOrders; i++) {
      const { numTokens, maxTokens } = this.#orders[i]!;
      const sequence = this.#candidates[i]!;
      sequence.numDrafts = numTokens;
      if (sequence.grammar !== null) sequence.numDrafts = this.#check?.(sequence) ?? 0;
      // One that ended early has tried a token in vain.
      const tried = Math.min(numTokens + 1, maxTokens);
      longest = Math.max(longest, tried);
      numTried += tried;
    }
    this.#draftMs = this.#source.draftMs(longest, numTried);
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
    if (numDraftTokens > 0 || this.#draftMs > 0) {
      // Expected times rather than measured ones: a step held up by other work is no loss of drafting.
      change += (numAccepted * plainMs) / numStreams + plainMs;
      change -= this.#cost.ms(numStreams + numDraftTokens) + this.#draftMs;
    }
    const before = this.#readingMs ?? FIRST_READING_STEPS * plainMs;
    const earned = READING_SHARE * plainMs + Math.max(0, change - LOSS_SHARE * plainMs);
    this.#readingMs = Math.min(before + earned, MAX_READING_STEPS * plainMs);
    this.#balanceMs = Math.min((this.#balanceMs ?? FIRST_BALANCE_STEPS * plainMs) + change, most);
  }

  get stats(): SpeculationStats {
    return { ...this.#totals, numAcceptedTokensPerPos: Array.from(this.#acceptedPerPos) };
  }
}
