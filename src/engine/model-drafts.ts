/**
 * Drafts by a second, smaller model over the same tokens: it says how the text goes on, one token after the other, and the first model checks them
 * all in one step (Leviathan et al. 2023, arXiv:2211.17192). Its likeliest token is what is drafted, so a draft is a function of the text, and the
 * text does not depend on it.
 *
 * The draft model has KV blocks of its own for each sequence. They are given back with those of the sequence; what can be found by content is found
 * again. Knows tokens and its own runner; not the steps of the first model, and not what drafting is worth.
 */

import { InternalError } from '../platform/errors.ts';
import type { ModelRunner } from '../targets/model-runner.ts';
import { BlockManager, BlockTable, PrefixMatch } from './block-manager.ts';
import {
  type Drafter,
  type DraftOrder,
  type DraftSource,
  MAX_DRAFT_TOKENS,
} from './draft-source.ts';
import { DraftSurvival } from './draft-survival.ts';
import { DraftModelError } from './errors.ts';
import { SlicedLogits } from './sliced-logits.ts';
import { StepCost } from './step-cost.ts';
import type { TokenSpan } from './token-list.ts';

/** Share of right tokens believed at first. */
const FIRST_RATES = [0.7];
const SHARED_RATE = 0.05;
const OWN_RATE = 0.15;
/** Where nothing was drafted for so many steps, what was learned is forgotten: the text may have become easier. */
const FORGET_AFTER = 96;
/** A draft ends before a token of which the draft model itself is less sure than this. */
const MIN_CONFIDENCE = 0.4;
/** Tokens that it may lack of a text and still draft at once. */
const MAX_LAG = 8;
/** Tokens of a first chunk, before it is known what one takes. */
const FIRST_CHUNK = 32;
const CHUNK_RATE = 0.2;

export class ModelDraftSource implements DraftSource {
  readonly name = 'model';
  readonly numClasses = FIRST_RATES.length;
  readonly #runner: ModelRunner;
  readonly #now: () => number;
  readonly #blocks: BlockManager;
  readonly #match = new PrefixMatch();
  readonly #row: SlicedLogits;
  readonly #cost: StepCost;
  /** Learned over all sequences: what a new one starts from. */
  readonly #survival = DraftSurvival.of(FIRST_RATES, SHARED_RATE);
  /** Drafters that lack too much of their text, since the last `catchUp`. */
  readonly #laggards = new Set<ModelDrafter>();
  /** What a token of a chunk takes; `null`: not known yet. */
  #chunkTokenMs: number | null = null;
  /** Orders that the next step goes on with. */
  readonly #active: DraftOrder[] = [];

  /**
   * @param runner    of the draft model, for nobody else; made and disposed of by the caller
   * @param vocabSize of the first model
   * @throws {DraftModelError} if the vocabularies differ in size
   */
  constructor(runner: ModelRunner, vocabSize: number, now: () => number) {
    const { limits } = runner;
    if (limits.vocabSize !== vocabSize) {
      throw new DraftModelError(
        `the draft model has a vocabulary of ${limits.vocabSize} tokens, the model one of ${vocabSize}: both must have the same; choose a draft model of the same family`,
      );
    }
    this.#runner = runner;
    this.#now = now;
    const { numBlocks, blockSize } = limits;
    this.#blocks = new BlockManager({ numBlocks, blockSize, hasPrefixCache: true });
    this.#row = new SlicedLogits(vocabSize, runner.sliceSize);
    this.#cost = new StepCost(this.#maxRows);
  }

  open(): Drafter {
    return new ModelDrafter(this, this.#survival);
  }

  draftMs(depth: number, count: number): number {
    return depth === 0 ? 0 : depth * this.#cost.ms(Math.ceil(count / depth));
  }

  /** KV blocks that nobody holds; for tests. */
  get numFreeBlocks(): number {
    return this.#blocks.numFreeBlocks;
  }

  /** Computes what drafters lack of their texts, all but the last token. */
  catchUp(budgetMs: number): number {
    const laggards = [...this.#laggards];
    this.#laggards.clear();
    if (laggards.length === 0) return 0;
    const { maxTokens } = this.#runner.limits;
    const tokenMs = this.#chunkTokenMs;
    let room = Math.min(
      maxTokens,
      tokenMs === null ? FIRST_CHUNK : Math.max(1, Math.floor(budgetMs / tokenMs)),
    );
    const startMs = this.#now();
    let numTokens = 0;
    const step = new StepFiller(this.#runner);
    for (const drafter of laggards) {
      if (room === 0 || step.isFull) break;
      const count = Math.min(room, drafter.numMissing - 1);
      if (!this.#takeRoom(drafter, drafter.numComputed + count)) continue;
      step.add(drafter, count, false);
      room -= count;
      numTokens += count;
    }
    if (numTokens === 0) return 0;
    step.run();
    for (const drafter of laggards)
      this.#blocks.seal(drafter.blockTable, drafter.tokens, drafter.numComputed);
    const tookMs = this.#now() - startMs;
    const perToken = tookMs / numTokens;
    this.#chunkTokenMs = tokenMs === null ? perToken : tokenMs + CHUNK_RATE * (perToken - tokenMs);
    return tookMs;
  }

  draft(orders: readonly DraftOrder[], numOrders: number): void {
    const active = this.#active;
    active.length = 0;
    for (let i = 0; i < numOrders; i++) {
      const order = orders[i]!;
      const drafter = order.drafter as ModelDrafter;
      order.numTokens = 0;
      if (active.length === this.#maxRows) continue;
      if (!this.#takeRoom(drafter, drafter.tokens.length + order.maxTokens)) continue;
      drafter.expect(order.into);
      active.push(order);
    }
    for (let depth = 0; active.length > 0; depth++) {
      const startMs = this.#now();
      const step = new StepFiller(this.#runner);
      for (const { drafter, into } of active) {
        const own = drafter as ModelDrafter;
        if (depth === 0) step.add(own, own.numMissing, true);
        else step.addDrafted(own, into[depth - 1]!, own.tokens.length + depth - 1);
      }
      step.run();
      if (depth > 0) this.#cost.observe(active.length, this.#now() - startMs);
      let kept = 0;
      for (let r = 0; r < active.length; r++) {
        const order = active[r]!;
        if (!this.#takeLikeliest(r, order)) continue;
        if (order.numTokens < order.maxTokens) active[kept++] = order;
      }
      active.length = kept;
    }
    for (let i = 0; i < numOrders; i++) {
      const { drafter, numTokens, maxTokens } = orders[i]!;
      (drafter as ModelDrafter).expected(numTokens, numTokens < maxTokens);
    }
  }

  /** Adds the likeliest token of a row to the draft. Returns false if the draft ends before it. */
  #takeLikeliest(row: number, order: DraftOrder): boolean {
    const runner = this.#runner;
    const logits = this.#row;
    logits.load(runner.logits(row), runner.sliceMax(row), runner.sliceExpSum(row));
    const best = logits.argmax();
    const confidence = Math.exp(runner.logits(row)[best]! - logits.logNormaliser());
    if (confidence < MIN_CONFIDENCE) return false;
    order.into[order.numTokens++] = best;
    return true;
  }

  get #maxRows(): number {
    const { maxSeqs, maxLogitRows, maxTokens } = this.#runner.limits;
    return Math.min(maxSeqs, maxLogitRows, Math.floor(maxTokens / MAX_LAG));
  }

  // For drafters

  get maxTokens(): number {
    return this.#runner.limits.maxModelLen;
  }

  lacks(drafter: ModelDrafter): void {
    this.#laggards.add(drafter);
  }

  /** Finds the start of a text among what was computed before. Returns for how many tokens. */
  find(tokens: TokenSpan, table: BlockTable): number {
    this.#blocks.findPrefix(tokens, tokens.length - 1, this.#match);
    this.#blocks.adopt(table, this.#match);
    return this.#match.numBlocks * this.#blocks.blockSize;
  }

  settle(drafter: ModelDrafter): void {
    this.#blocks.seal(drafter.blockTable, drafter.tokens, drafter.numComputed);
  }

  release(drafter: ModelDrafter): void {
    this.#laggards.delete(drafter);
    this.#blocks.releaseAll(drafter.blockTable);
  }

  #takeRoom(drafter: ModelDrafter, numTokens: number): boolean {
    return this.#blocks.grow(drafter.blockTable, numTokens);
  }
}

const NO_TOKENS: TokenSpan = { ids: new Int32Array(0), length: 0 };

class ModelDrafter implements Drafter {
  readonly blockTable = new BlockTable();
  /** As `look` last saw them. */
  tokens = NO_TOKENS;
  /** Leading tokens of the text whose keys and values are there. */
  numComputed = 0;
  readonly #source: ModelDraftSource;
  readonly #shared: DraftSurvival;
  #own: DraftSurvival;
  /** The draft under observation: it began at token `#draftStart`. */
  #draft: Int32Array | null = null;
  #draftStart = 0;
  #draftLength = 0;
  /** Whether it is shorter than what was asked for: as if the next token had been wrong. */
  #isCut = false;
  #numIdle = 0;

  constructor(source: ModelDraftSource, shared: DraftSurvival) {
    this.#source = source;
    this.#shared = shared;
    this.#own = shared.copy(OWN_RATE);
  }

  get numMissing(): number {
    return this.tokens.length - this.numComputed;
  }

  look(tokens: TokenSpan): number | null {
    this.tokens = tokens;
    this.#compare();
    if (tokens.length + MAX_DRAFT_TOKENS > this.#source.maxTokens) {
      this.drop();
      return null;
    }
    if (this.blockTable.numBlocks === 0) {
      this.numComputed = this.#source.find(tokens, this.blockTable);
    } else {
      this.#source.settle(this);
    }
    if (++this.#numIdle > FORGET_AFTER) {
      this.#numIdle = 0;
      this.#own = DraftSurvival.of(FIRST_RATES, OWN_RATE);
    }
    // Where nothing came since: the last token again, for its logits.
    this.numComputed = Math.min(this.numComputed, tokens.length - 1);
    if (this.numMissing <= MAX_LAG) return 0;
    this.#source.lacks(this);
    return null;
  }

  survival(c: number, numTokens: number): number {
    return this.#own.share(c, numTokens);
  }

  drop(): void {
    this.#source.release(this);
    this.numComputed = 0;
    this.#draft = null;
  }

  /** A draft from the end of the text on will be written there. */
  expect(into: Int32Array): void {
    this.#draft = into;
    this.#draftStart = this.tokens.length;
    this.#draftLength = 0;
  }

  /** Its length, when it is done. */
  expected(numTokens: number, isCut: boolean): void {
    this.#isCut = isCut;
    this.#draftLength = numTokens;
    this.#numIdle = 0;
  }

  /** How far the text went on as drafted: so far the keys and values of the draft are those of the text. */
  #compare(): void {
    if (this.#draft === null) return;
    const { ids, length } = this.tokens;
    const end = Math.min(this.#draftLength, length - this.#draftStart);
    let numRight = 0;
    while (numRight < end && ids[this.#draftStart + numRight] === this.#draft[numRight]) numRight++;
    const isOver = numRight < end || (this.#isCut && numRight === this.#draftLength);
    this.#shared.observe(0, numRight, isOver);
    this.#own.observe(0, numRight, isOver);
    // The last token of a draft was never computed.
    this.numComputed = this.#draftStart + Math.max(0, Math.min(numRight, this.#draftLength - 1));
    this.#draft = null;
  }
}

/** Fills and runs a step of the draft model. */
class StepFiller {
  readonly #runner: ModelRunner;

  constructor(runner: ModelRunner) {
    this.#runner = runner;
    const { batch } = runner;
    batch.numTokens = 0;
    batch.numSeqs = 0;
    batch.numLogitRows = 0;
    batch.numHiddenRows = 0;
    batch.queryStarts[0] = 0;
  }

  get isFull(): boolean {
    const { batch, limits } = this.#runner;
    return batch.numSeqs >= limits.maxSeqs || batch.numTokens >= limits.maxTokens;
  }

  /** The next `count` tokens of a drafter's text. */
  add(drafter: ModelDrafter, count: number, wantsLogits: boolean): void {
    const { ids } = drafter.tokens;
    const start = drafter.numComputed;
    for (let i = 0; i < count; i++) this.#token(drafter, ids[start + i]!, start + i);
    drafter.numComputed += count;
    this.#endSequence(drafter, start + count, wantsLogits);
  }

  /** A token of its draft. */
  addDrafted(drafter: ModelDrafter, tokenId: number, position: number): void {
    this.#token(drafter, tokenId, position);
    this.#endSequence(drafter, position + 1, true);
  }

  run(): void {
    const ticket = this.#runner.submit();
    if (!ticket.isDone) {
      throw new InternalError('a draft model needs a target whose steps are done when submitted');
    }
  }

  #token({ blockTable }: ModelDrafter, tokenId: number, position: number): void {
    const { batch, limits } = this.#runner;
    const { blockSize } = limits;
    const at = batch.numTokens++;
    batch.tokenIds[at] = tokenId;
    batch.positions[at] = position;
    const block = blockTable.ids[Math.floor(position / blockSize)]!;
    batch.slotMapping[at] = block * blockSize + (position % blockSize);
  }

  #endSequence({ blockTable }: ModelDrafter, contextLen: number, wantsLogits: boolean): void {
    const { batch, limits } = this.#runner;
    const s = batch.numSeqs++;
    batch.queryStarts[s + 1] = batch.numTokens;
    batch.contextLens[s] = contextLen;
    const numBlocks = Math.ceil(contextLen / limits.blockSize);
    for (let i = 0; i < numBlocks; i++) {
      batch.blockTables[s * batch.maxBlocksPerSeq + i] = blockTable.ids[i]!;
    }
    if (wantsLogits) batch.logitRows[batch.numLogitRows++] = batch.numTokens - 1;
  }
}
