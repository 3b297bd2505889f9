/**
 * The engine without a clock or a loop of its own: takes requests, does one step when told to, and leaves events. Knows nothing of promises,
 * threads or processes; `StepLoop` drives it.
 *
 * A step has two halves, because not every target is finished when `submit` returns: `begin` schedules and submits, `finish` takes the logits.
 * Between them requests may come and go; what is in the step keeps its blocks until `finish`.
 */

import { type GrammarPool, NO_DRAFTS } from '../grammar/grammar-pool.ts';
import type { GrammarSpec } from '../grammar/grammar-spec.ts';
import { HastenError, InternalError } from '../platform/errors.ts';
import type { ModelRunner, StepTicket } from '../targets/model-runner.ts';
import { BlockManager } from './block-manager.ts';
import type { DraftSource, Speculation } from './draft-source.ts';
import type { EngineStats } from './engine-stats.ts';
import { EngineSetupError, RequestError } from './errors.ts';
import type { EngineEvent, FinishEvent, FinishReason } from './events.ts';
import { catchesUp, fillBatch, numHiddenRows } from './fill-batch.ts';
import { KvDiskTier } from './kv-disk-tier.ts';
import { KvStore } from './kv-store.ts';
import { logprobOf, topLogprobs } from './logprobs.ts';
import { ModelDraftSource } from './model-drafts.ts';
import { NgramDraftSource } from './ngram-drafts.ts';
import {
  DEFAULT_PREFILL_PACER_OPTIONS,
  PrefillPacer,
  type PrefillPacerOptions,
} from './prefill-pacer.ts';
import { type PrefixCacheScope, PrefixKeeper, type PrefixText } from './prefix-keeper.ts';
import { DEFAULT_PRIORITY_OPTIONS, type PriorityOptions } from './priority.ts';
import { RandomStream, randomUnit } from './random.ts';
import { type PreparedRequest, prepareRequest } from './request.ts';
import { isGreedy, Sampler } from './sampler.ts';
import { Scheduler, type SchedulerOutput } from './scheduler.ts';
import { type DecoderSource, Sequence } from './sequence.ts';
import { SlicedLogits } from './sliced-logits.ts';
import { Speculator } from './speculator.ts';
import { type WarmUpTimes, warmUpRunner } from './warm-up.ts';

export interface OffloadOptions {
  readonly memoryBytes: number;
  /** What goes beyond that. */
  readonly disk?: { readonly folder: string; readonly maxBytes: number };
}

export interface EngineCoreOptions {
  /** Made and disposed of by the caller. */
  readonly runner: ModelRunner;
  readonly tokenizer: DecoderSource;
  /** All ids that end an output: of config, generation_config and file together. */
  readonly eosTokenIds: Iterable<number>;
  /** Whether equal prefixes share blocks. Default true. */
  readonly hasPrefixCache?: boolean;
  /** Who shares cached prefixes: `all` (default), or each `tenant` for itself. */
  readonly prefixCacheScope?: PrefixCacheScope | undefined;
  /** Where cached prefixes go that the pool has no room for. Default: nowhere. */
  readonly offload?: OffloadOptions | undefined;
  /** Names model, weights and KV format; sessions are saved and restored between engines of one fingerprint only. Without it they cannot be. */
  readonly kvFingerprint?: (() => string) | undefined;
  readonly pacing?: Partial<PrefillPacerOptions>;
  readonly priorities?: Partial<PriorityOptions>;
  /** Where drafted tokens come from: `ngram` (default) finds them in the request's own tokens, `off` is none. */
  readonly speculation?: Speculation | undefined;
  /** Of a smaller model with the same vocabulary, for nobody else: drafts come from it then, unless speculation is `off`. */
  readonly draftRunner?: ModelRunner | null;
  /** Most tokens of one draft; how many of them are worth it is found out. */
  readonly maxDraftTokens?: number | undefined;
  /** Made and disposed of by the caller. Without it requests with a grammar are refused. */
  readonly grammars?: GrammarPool | undefined;
  /** Milliseconds from any origin; for tests. */
  readonly now?: () => number;
}

export class EngineCore implements Disposable {
  readonly #runner: ModelRunner;
  readonly #tokenizer: DecoderSource;
  readonly #eosTokenIds: ReadonlySet<number>;
  readonly #now: () => number;
  readonly #blocks: BlockManager;
  readonly #store: KvStore | null;
  /** Pins, and saves and restores sessions: pinned texts are computed by steps that the caller takes, as for `submit`. */
  readonly prefixes: PrefixKeeper;
  readonly #pacer: PrefillPacer;
  readonly #speculator: Speculator | null;
  readonly #scheduler: Scheduler;
  readonly #row: SlicedLogits;
  readonly #sampler: Sampler;
  readonly #sequences = new Map<string, Sequence>();
  readonly #grammars: GrammarPool | null;
  /** Those of them that the scheduler gets when their grammar is compiled, and their prefix read from disk. */
  readonly #opening = new Set<Sequence>();
  #onWork: () => void = () => {};
  #events: EngineEvent[] = [];
  /** The step between `begin` and `finish`. */
  #inFlight: SchedulerOutput | null = null;
  #stepStartMs = 0;
  /** When it was handed to the runner: after scheduling, which drafts. */
  #submittedMs = 0;

  readonly #totals = {
    numSteps: 0,
    numPromptTokens: 0,
    numCachedTokens: 0,
    numOutputTokens: 0,
    numPreemptions: 0,
    numFinished: { stop: 0, length: 0, abort: 0, error: 0 } as Record<FinishReason, number>,
  };
  #lastStep = { numTokens: 0, numSequences: 0, stepMs: 0 };

  constructor(options: EngineCoreOptions) {
    const { limits, sliceSize } = options.runner;
    this.#runner = options.runner;
    this.#tokenizer = options.tokenizer;
    this.#eosTokenIds = new Set(options.eosTokenIds);
    this.#now = options.now ?? (() => performance.now());
    this.#store = options.offload === undefined ? null : storeOf(options.runner, options.offload);
    this.#blocks = new BlockManager({
      numBlocks: limits.numBlocks,
      blockSize: limits.blockSize,
      hasPrefixCache: options.hasPrefixCache ?? true,
      store: this.#store,
    });
    this.#pacer = new PrefillPacer({ ...DEFAULT_PREFILL_PACER_OPTIONS, ...options.pacing });
    this.#grammars = options.grammars ?? null;
    this.#speculator =
      options.speculation === 'off'
        ? null
        : new Speculator(this.#draftSource(options), limits.maxLogitRows, {
            maxDraftTokens: options.maxDraftTokens,
            check: (sequence) => this.#checkDrafts(sequence),
          });
    this.#scheduler = new Scheduler({
      limits,
      blocks: this.#blocks,
      pacer: this.#pacer,
      speculator: this.#speculator,
      priorities: { ...DEFAULT_PRIORITY_OPTIONS, ...options.priorities },
    });
    this.prefixes = new PrefixKeeper({
      runner: options.runner,
      blocks: this.#blocks,
      scope: options.prefixCacheScope ?? 'all',
      fingerprint: options.kvFingerprint ?? null,
      numReserved: () => this.#scheduler.numRunning,
      compute: (text) => this.#compute(text),
    });
    this.#row = new SlicedLogits(limits.vocabSize, sliceSize);
    this.#sampler = new Sampler(this.#row);
  }

  #draftSource({ draftRunner, runner }: EngineCoreOptions): DraftSource {
    if (!draftRunner) return new NgramDraftSource();
    return new ModelDraftSource(draftRunner, runner.limits.vocabSize, this.#now);
  }

  /** Requests that have not had their finish event. */
  get numUnfinished(): number {
    return this.#sequences.size;
  }

  /** Whether `begin` would find something to do. */
  get hasWork(): boolean {
    return this.#sequences.size > this.#opening.size;
  }

  /**
   * Queues a request.
   *
   * @throws {RequestError | RequestTooLongError} if it is wrong, can never fit, or its id is in use; it gets no event then
   */
  submit(request: PreparedRequest): void {
    this.#add(prepareRequest(request, this.#runner.limits), null);
  }

  #add(prepared: PreparedRequest, listener: ((event: EngineEvent) => void) | null): void {
    if (prepared.grammar !== null) this.#requireGrammars();
    if (this.#sequences.has(prepared.requestId)) {
      throw new RequestError('requestId', `requestId: "${prepared.requestId}" is already in use`);
    }
    const root = this.prefixes.rootOf(prepared);
    const sequence = new Sequence(prepared, this.#tokenizer, this.#now(), root);
    sequence.listener = listener;
    this.#sequences.set(sequence.requestId, sequence);
    const maxTokens = Math.min(sequence.numTokens, sequence.maxCachedTokens);
    const reading = this.#blocks.readAhead(sequence.tokens, maxTokens, root);
    if (prepared.grammar === null && reading === null) this.#scheduler.add(sequence);
    else void this.#open(sequence, prepared.grammar, reading);
  }

  /** @param listener called when work or events have come without a call from outside */
  onWork(listener: () => void): void {
    this.#onWork = listener;
  }

  /**
   * Compiles a grammar, so that requests find it compiled.
   *
   * @throws {GrammarError} if it is not sound, or takes too long
   * @throws {RequestError} if the model's tokens have no text
   */
  async compile(grammar: GrammarSpec): Promise<void> {
    const grammars = this.#requireGrammars();
    grammars.close(await grammars.open(grammar));
  }

  /** Gives the scheduler a sequence when all that it waits for is there. */
  async #open(
    sequence: Sequence,
    grammar: GrammarSpec | null,
    reading: Promise<void> | null,
  ): Promise<void> {
    this.#opening.add(sequence);
    try {
      if (grammar !== null) await this.#openGrammar(sequence, grammar);
      await reading;
      if (!sequence.isFinished) this.#scheduler.add(sequence);
    } catch (error) {
      if (!sequence.isFinished) this.#fail(sequence, error);
    }
    this.#opening.delete(sequence);
    this.#onWork();
  }

  async #openGrammar(sequence: Sequence, grammar: GrammarSpec): Promise<void> {
    const grammars = this.#requireGrammars();
    const session = await grammars.open(grammar);
    if (sequence.isFinished) grammars.close(session);
    else sequence.grammar = session;
  }

  #requireGrammars(): GrammarPool {
    if (this.#grammars !== null) return this.#grammars;
    throw new RequestError('grammar', 'grammar: the tokens of this model have no text');
  }

  /**
   * Ends a request with reason `abort`; its blocks are free before the next step.
   *
   * @returns false if there is no such unfinished request
   */
  abort(requestId: string): boolean {
    const sequence = this.#sequences.get(requestId);
    if (sequence === undefined) return false;
    if (this.#isInFlight(sequence)) sequence.isAborted = true;
    else this.#finishSequence(sequence, 'abort');
    return true;
  }

  abortAll(): void {
    for (const requestId of [...this.#sequences.keys()]) this.abort(requestId);
  }

  /**
   * Schedules the next step and hands it to the runner.
   *
   * @returns what to wait for before `finish`; `null` if there is nothing to do, or if it failed (the requests concerned have their events)
   */
  begin(): StepTicket | null {
    if (this.#inFlight !== null) throw new InternalError('a step is already under way');
    if (!this.hasWork) return null;
    this.#stepStartMs = this.#now();
    let output: SchedulerOutput;
    try {
      output = this.#scheduler.schedule(this.#stepStartMs);
      if (output.numSequences === 0) {
        if (this.prefixes.isHolding) return null;
        throw new InternalError(`${this.#sequences.size} requests are open, but no step was found`);
      }
    } catch (error) {
      for (const sequence of [...this.#sequences.values()]) this.#fail(sequence, error);
      return null;
    }
    this.#totals.numPreemptions += output.numPreempted;
    for (let s = 0; s < output.numSequences; s++) {
      output.sequences[s]!.firstScheduledMs ??= this.#stepStartMs;
    }
    this.#inFlight = output;
    try {
      if (output.numCopies > 0) this.#runner.copyBlocks(output.copies, output.numCopies);
      fillBatch(this.#runner.batch, output, this.#blocks.blockSize);
      this.#askForMasks(output);
      this.#submittedMs = this.#now();
      return this.#runner.submit();
    } catch (error) {
      this.failStep(error);
      return null;
    }
  }

  /** Ends the requests of the step under way: it cannot be finished. */
  failStep(error: unknown): void {
    const output = this.#takeInFlight();
    this.#grammars?.wait();
    for (let s = 0; s < output.numSequences; s++) this.#fail(output.sequences[s]!, error);
  }

  /** Takes the results of the step: its ticket must be done. */
  finish(): void {
    const output = this.#takeInFlight();
    this.#grammars?.wait();
    const nowMs = this.#now();
    const stepMs = nowMs - this.#stepStartMs;
    const computeMs = nowMs - this.#submittedMs;
    const numStreamRows = output.numStreams + output.numDraftTokens;
    const numPromptTokens = output.numTokens - numStreamRows;
    this.#pacer.observe(numStreamRows, numPromptTokens, computeMs);
    this.#totals.numSteps++;
    this.#totals.numPromptTokens += numPromptTokens;
    this.#lastStep = { numTokens: output.numTokens, numSequences: output.numSequences, stepMs };

    let row = 0;
    let hiddenRow = this.#runner.batch.numLogitRows;
    let numAccepted = 0;
    for (let s = 0; s < output.numSequences; s++) {
      const sequence = output.sequences[s]!;
      const numNewTokens = output.numNewTokens[s]!;
      const numDrafts = output.numDrafts[s]!;
      const isCaughtUp = catchesUp(sequence, numNewTokens);
      const firstRow = row;
      const isPooled = sequence.pooler !== null;
      if (isCaughtUp && !isPooled) row += 1 + numDrafts;
      const firstHidden = hiddenRow;
      if (isPooled) hiddenRow += numHiddenRows(sequence, numNewTokens);
      sequence.numComputedTokens += numNewTokens;
      if (sequence.isAborted) {
        this.#finishSequence(sequence, 'abort');
        continue;
      }
      this.#blocks.seal(sequence.blockTable, sequence.tokens, sequence.numComputedTokens);
      if (isPooled) this.#takeHidden(sequence, firstHidden, hiddenRow - firstHidden, nowMs);
      if (!isCaughtUp || isPooled) continue;
      try {
        numAccepted += this.#takeTokens(sequence, firstRow, numDrafts, nowMs);
      } catch (error) {
        this.#fail(sequence, error);
      }
    }
    if (numPromptTokens === 0) {
      const { numStreams, numDraftTokens } = output;
      this.#speculator?.observeStep(numStreams, numDraftTokens, numAccepted, computeMs);
    }
  }

  /** Hands over the events since the last call, in order. */
  takeEvents(): EngineEvent[] {
    const events = this.#events;
    if (events.length > 0) this.#events = [];
    return events;
  }

  stats(): EngineStats {
    const { numSteps, numPromptTokens, numCachedTokens, numOutputTokens, numPreemptions } =
      this.#totals;
    return {
      numRunning: this.#scheduler.numRunning,
      numWaiting: this.#scheduler.numWaiting,
      numBlocks: this.#blocks.numBlocks,
      numFreeBlocks: this.#blocks.numFreeBlocks,
      numUnusedSlots: this.#scheduler.numUnusedSlots,
      numSealedBlocks: this.#blocks.numSealedBlocks,
      numSteps,
      numPromptTokens,
      numCachedTokens,
      numOutputTokens,
      numPreemptions,
      numFinished: { ...this.#totals.numFinished },
      numPinnedBlocks: this.#blocks.numPinnedBlocks,
      offload: this.#store?.stats ?? null,
      lastStep: { ...this.#lastStep },
      speculation: this.#speculator?.stats ?? null,
    };
  }

  /** Takes in the hidden states of a sequence's last `numRows` computed tokens, and ends it if they were the last. */
  #takeHidden(sequence: Sequence, firstRow: number, numRows: number, nowMs: number): void {
    const { pooler, numComputedTokens } = sequence;
    for (let i = 0; i < numRows; i++) {
      pooler!.add(numComputedTokens - numRows + i, this.#runner.hidden(firstRow + i));
    }
    if (numComputedTokens < sequence.numTokens) return;
    sequence.firstTokenMs ??= nowMs;
    this.#finishSequence(sequence, 'stop');
  }

  /** Runs a text through the model for the sake of its keys and values. */
  async #compute({ tokenIds, tenant = '', cacheSalt = '' }: PrefixText): Promise<void> {
    const samplingParams = { temperature: 0, maxTokens: 1, ignoreEos: true };
    const request = { promptTokenIds: tokenIds, samplingParams, tenant, cacheSalt };
    const finished = Promise.withResolvers<FinishEvent>();
    this.#add(prepareRequest(request, this.#runner.limits), (event) => {
      if (event.type === 'finish') finished.resolve(event);
    });
    const { reason, error } = await finished.promise;
    if (reason !== 'length') {
      throw new RequestError('tokenIds', error?.message ?? `computing the text ended: ${reason}`);
    }
  }

  /**
   * Runs steps of the sizes that requests will make, so that none of these is the first. Learns what steps take. Comes before any request.
   *
   * @param budgetMs time that it may take, about
   * @throws {InternalError} if requests are open
   */
  async warmUp(budgetMs: number): Promise<WarmUpTimes> {
    if (this.hasWork) throw new InternalError('warming up comes before work');
    const times = await warmUpRunner(this.#runner, this.#blocks, budgetMs, this.#now);
    for (const { count, ms } of times.rows) {
      this.#speculator?.observeCost(count, ms);
      this.#pacer.observe(count, 0, ms);
    }
    for (const { count, ms } of times.prompts) this.#pacer.observe(0, count, ms);
    return times;
  }

  /** Lets go of the memory beyond the pool. The runner is the caller's. */
  [Symbol.dispose](): void {
    this.#store?.[Symbol.dispose]();
  }

  /**
   * Draws the tokens of a sequence from its rows of the step: the row of each drafted token counts only if that token is the one drawn before it.
   * The draw is the one that would be made without drafts, random number and penalties included, so a drafted token is accepted with the
   * probability that the model gives it, any other has the rest (rejection sampling: Leviathan et al. 2023, arXiv:2211.17192, for a draft
   * that is certain), and the text does not depend on drafts at all.
   *
   * @returns how many drafted tokens were accepted
   */
  #takeTokens(sequence: Sequence, firstRow: number, numDrafts: number, nowMs: number): number {
    let numAccepted = 0;
    for (;;) {
      const tokenId = this.#takeToken(sequence, firstRow + numAccepted, nowMs);
      const isAccepted = numAccepted < numDrafts && tokenId === sequence.drafts![numAccepted];
      if (isAccepted) numAccepted++;
      if (sequence.isFinished || !isAccepted) break;
      // The step has computed this token, too.
      sequence.numComputedTokens++;
      this.#blocks.seal(sequence.blockTable, sequence.tokens, sequence.numComputedTokens);
    }
    if (numDrafts > 0) {
      this.#speculator?.observeDraft(numDrafts, numAccepted);
      if (!sequence.isFinished) this.#blocks.trim(sequence.blockTable, sequence.numTokens);
    }
    return numAccepted;
  }

  /** Draws the next token of a sequence from row `rowIndex` of the step and acts on it. Returns the token; `null` if none may come. */
  #takeToken(sequence: Sequence, rowIndex: number, nowMs: number): number | null {
    const { params, grammar } = sequence;
    const row = this.#row;
    row.load(
      this.#runner.logits(rowIndex),
      this.#runner.sliceMax(rowIndex),
      this.#runner.sliceExpSum(rowIndex),
      this.#runner.batch.inverseTemperatures[rowIndex],
    );
    const top =
      params.logprobs !== null && params.logprobs > 0 ? topLogprobs(row, params.logprobs) : null;
    if (grammar !== null && !row.mask(this.#grammars!.mask(grammar, rowIndex), isGreedy(params))) {
      row.restore();
      this.#finishSequence(sequence, 'stop');
      return null;
    }
    sequence.penalties?.apply(row);
    const unit = randomUnit(params.seed, sequence.numOutputTokens, RandomStream.sample);
    const tokenId = this.#sampler.draw(params, unit);
    row.restore();

    // Under a grammar it comes only where the text may end, and nothing may come after it.
    if ((!params.ignoreEos || grammar !== null) && this.#eosTokenIds.has(tokenId)) {
      this.#finishSequence(sequence, 'stop');
      return tokenId;
    }
    if (params.stopTokenIds.includes(tokenId)) {
      this.#finishSequence(sequence, 'stop', tokenId);
      return tokenId;
    }
    const { text, stop } = sequence.appendOutput(tokenId);
    sequence.firstTokenMs ??= nowMs;
    sequence.lastTokenMs = nowMs;
    this.#totals.numOutputTokens++;
    this.#emit(sequence, {
      type: 'token',
      requestId: sequence.requestId,
      tokenId,
      text,
      ...(params.logprobs !== null && { logprob: logprobOf(row, tokenId) }),
      ...(top !== null && { topLogprobs: top }),
    });
    if (stop !== null) this.#finishSequence(sequence, 'stop', stop);
    else if (sequence.numOutputTokens >= params.maxTokens) this.#finishSequence(sequence, 'length');
    return tokenId;
  }

  #fail(sequence: Sequence, error: unknown): void {
    const code = error instanceof HastenError ? error.code : 'internal';
    const message = error instanceof Error ? error.message : String(error);
    this.#finishSequence(sequence, 'error', null, { code, message });
  }

  #finishSequence(
    sequence: Sequence,
    reason: FinishReason,
    stopReason: string | number | null = null,
    error?: FinishEvent['error'],
  ): void {
    if (sequence.isFinished) throw new InternalError(`"${sequence.requestId}" finished twice`);
    sequence.isFinished = true;
    this.#opening.delete(sequence);
    if (sequence.grammar !== null) this.#grammars?.close(sequence.grammar);
    this.#scheduler.remove(sequence);
    this.#sequences.delete(sequence.requestId);
    this.#totals.numFinished[reason]++;
    this.#totals.numCachedTokens += sequence.numCachedTokens ?? 0;
    const { arrivalMs, firstScheduledMs, firstTokenMs, lastTokenMs } = sequence;
    const between = (from: number | null, to: number | null): number | null =>
      from === null || to === null ? null : to - from;
    this.#emit(sequence, {
      type: 'finish',
      requestId: sequence.requestId,
      reason,
      stopReason,
      text: typeof stopReason === 'string' ? '' : sequence.endText(),
      usage: {
        promptTokens: sequence.numPromptTokens,
        completionTokens: sequence.numOutputTokens,
        cachedTokens: sequence.numCachedTokens ?? 0,
      },
      timings: {
        queueMs: between(arrivalMs, firstScheduledMs),
        promptMs: between(firstScheduledMs, firstTokenMs),
        ttftMs: between(arrivalMs, firstTokenMs),
        outputMs: between(firstTokenMs, lastTokenMs),
        totalMs: this.#now() - arrivalMs,
      },
      ...(error !== undefined && { error }),
      ...(reason === 'stop' && sequence.pooler && { embedding: sequence.pooler.result() }),
    });
  }

  #emit(sequence: Sequence, event: EngineEvent): void {
    if (sequence.listener === null) this.#events.push(event);
    else sequence.listener(event);
  }

  /** Lets the grammars find out, while the step runs, which tokens may come at each of its rows. */
  #askForMasks(output: SchedulerOutput): void {
    const grammars = this.#grammars;
    if (grammars === null) return;
    let row = 0;
    for (let s = 0; s < output.numSequences; s++) {
      const sequence = output.sequences[s]!;
      if (!catchesUp(sequence, output.numNewTokens[s]!)) continue;
      const { grammar, outputIds } = sequence;
      if (grammar !== null) {
        const drafts = draftsOf(sequence, output.numDrafts[s]!);
        grammars.ask({ session: grammar, output: outputIds, drafts, row });
      }
      row += 1 + output.numDrafts[s]!;
    }
    grammars.send();
  }

  #checkDrafts(sequence: Sequence): number {
    const { grammar, outputIds, numDrafts } = sequence;
    if (grammar === null || this.#grammars === null) return numDrafts;
    return this.#grammars.check(grammar, outputIds, draftsOf(sequence, numDrafts));
  }

  #isInFlight(sequence: Sequence): boolean {
    const output = this.#inFlight;
    if (output === null) return false;
    const index = output.sequences.indexOf(sequence);
    return index >= 0 && index < output.numSequences;
  }

  #takeInFlight(): SchedulerOutput {
    const output = this.#inFlight;
    if (output === null) throw new InternalError('no step is under way');
    this.#inFlight = null;
    return output;
  }
}

/** @throws {EngineSetupError} if a tier is too small for a block, or there is no place for its file */
function storeOf(runner: ModelRunner, { memoryBytes, disk }: OffloadOptions): KvStore {
  const { kvBlockBytes } = runner;
  if (memoryBytes > 0 && memoryBytes < kvBlockBytes) {
    throw new EngineSetupError(
      `KV offload: ${memoryBytes} bytes of memory do not hold one KV block of ${kvBlockBytes} bytes`,
    );
  }
  const tier =
    disk === undefined ? null : new KvDiskTier({ ...disk, blockBytes: runner.kvBlockBytes });
  return new KvStore(runner, memoryBytes, tier);
}

function draftsOf({ drafts }: Sequence, numDrafts: number): Int32Array {
  return drafts === null || numDrafts === 0 ? NO_DRAFTS : drafts.subarray(0, numDrafts);
}
