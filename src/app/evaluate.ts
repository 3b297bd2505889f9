/**
 * What a smaller model costs and gains: likelihood of a text and divergence from a reference model, size, speed, memory. Two runners walk through the
 * same windows in step, so that no logits need to be kept.
 */
import { setImmediate } from 'node:timers/promises';
import { type QualityResult, QualityTally, ReferenceRow } from '../compress/divergence.ts';
import type { ModelConfig } from '../models/model-config.ts';
import { HastenError } from '../platform/errors.ts';
import { createRunner } from '../runtime/create-runner.ts';
import type { KvCacheType, Precision, TargetName } from '../runtime/runner-options.ts';
import type { ModelRunner } from '../targets/model-runner.ts';
import { DTYPES } from '../tensor/dtype.ts';
import type { WeightSource } from '../weights/contract.ts';
import { runBenchmark } from './benchmark.ts';
import { planCacheFolder } from './plan-cache-folder.ts';
import { scoringRows } from './scoring.ts';
import { SequenceDriver } from './sequence-driver.ts';

/** The two models cannot be compared, or the text is too short. */
export class EvaluationError extends HastenError {
  constructor(message: string) {
    super('evaluation', message);
  }
}

/** Which tokens of a text are scored, and what stands before them. */
export interface ScoringProtocol {
  readonly name: string;
  /** Tokens of a window, BOS included where the model has one. */
  readonly window: number;
  /** Tokens from one window to the next. */
  readonly stride: number;
  /** Tokens of a window, from its beginning, that are context only. */
  readonly unscored: number;
}

/**
 * `disjoint-N`: windows of N that do not overlap, all tokens from the second on are scored (transformers' usual way with stride = N).
 * `strided-N-S`: windows of N every S tokens, the last S are scored. `llama.cpp-N`: disjoint windows of N, the second half is scored.
 *
 * @throws {EvaluationError} if it is none of these
 */
export function parseProtocol(name: string): ScoringProtocol {
  const match = /^(disjoint|strided|llama\.cpp)-(\d+)(?:-(\d+))?$/.exec(name);
  const window = Number(match?.[2]);
  const stride = match?.[1] === 'strided' ? Number(match[3]) : window;
  const isSound = window >= 2 && stride >= 1 && stride <= window;
  if (match === null || !isSound || (match[1] !== 'strided' && match[3] !== undefined)) {
    throw new EvaluationError(
      `protocol "${name}": expected disjoint-N, strided-N-S (S up to N) or llama.cpp-N, such as disjoint-512`,
    );
  }
  const unscored = match[1] === 'llama.cpp' ? Math.floor(window / 2) : Math.max(1, window - stride);
  return { name, window, stride, unscored };
}

export interface ScoringWindow {
  readonly tokenIds: readonly number[];
  /** First token of the window that is scored, at least 1. */
  readonly firstScored: number;
}

/** @param bos put before each window; null where the model has none @throws {EvaluationError} if the text is shorter than a window */
export function cutWindows(
  tokenIds: readonly number[],
  { window, stride, unscored, name }: ScoringProtocol,
  bos: number | null,
): ScoringWindow[] {
  const head = bos === null ? [] : [bos];
  const size = window - head.length;
  const windows: ScoringWindow[] = [];
  for (let start = 0; start + size <= tokenIds.length; start += stride === window ? size : stride) {
    windows.push({
      tokenIds: [...head, ...tokenIds.slice(start, start + size)],
      // The first window has no one before it to score its beginning.
      firstScored: start === 0 && stride < window ? 1 : unscored,
    });
  }
  if (windows.length === 0) {
    throw new EvaluationError(
      `the text has ${tokenIds.length} tokens, less than one window of ${name}; give a longer text or a protocol with smaller windows`,
    );
  }
  return windows;
}

/** A model to run: its description's numbers and tensors. */
export interface ModelToRun {
  readonly config: ModelConfig;
  readonly weights: WeightSource;
}

export interface EvaluateOptions {
  readonly target: TargetName;
  readonly threads: number | 'auto';
  /** Of the model; the reference always runs in f32. */
  readonly precision: Precision;
  /** Of the model; the reference keeps f32. Default auto. */
  readonly kvCacheType?: KvCacheType;
  readonly signal?: AbortSignal;
  onProgress?(done: number, total: number): void;
}

export interface Quality extends QualityResult {
  readonly perplexity: number;
}

export interface QualityComparison {
  readonly reference: Quality;
  readonly model: Quality;
}

/**
 * @param reference null to score the model alone
 * @throws {EvaluationError} if vocabularies differ
 */
export async function compareQuality(
  model: ModelToRun,
  reference: ModelToRun | null,
  windows: readonly ScoringWindow[],
  options: EvaluateOptions,
): Promise<QualityComparison | { readonly model: Quality }> {
  const { vocabSize } = model.config;
  if (reference !== null && reference.config.vocabSize !== vocabSize) {
    throw new EvaluationError(
      `the model knows ${vocabSize} tokens, the reference ${reference.config.vocabSize}: they cannot be compared`,
    );
  }
  const longest = windows.reduce((most, { tokenIds }) => Math.max(most, tokenIds.length), 0);
  const runnerOf = (
    of: ModelToRun,
    precision: Precision,
    kvCacheType: KvCacheType = 'auto',
  ): Promise<ModelRunner> =>
    createRunner({
      kvCacheType,
      source: of.weights,
      config: of.config,
      target: options.target,
      precision,
      threads: options.threads,
      maxSeqs: 1,
      maxModelLen: longest,
      maxLogitRows: scoringRows(vocabSize),
      planCacheFolder: of.weights.files.length === 0 ? null : planCacheFolder(),
    });
  using runner = await runnerOf(model, options.precision, options.kvCacheType);
  using referenceRunner = reference === null ? null : await runnerOf(reference, 'f32');
  const driver = new SequenceDriver(runner);
  const referenceDriver = referenceRunner === null ? null : new SequenceDriver(referenceRunner);
  const row = new ReferenceRow(vocabSize);
  const tally = new QualityTally();
  const referenceTally = new QualityTally();
  const chunk = Math.min(runner.limits.maxTokens, runner.limits.maxLogitRows);
  let numTokens = 0;
  for (const [index, { tokenIds, firstScored }] of windows.entries()) {
    driver.reset();
    referenceDriver?.reset();
    for (let start = 0; start < tokenIds.length - 1; start += chunk) {
      options.signal?.throwIfAborted();
      const ids = tokenIds.slice(start, Math.min(start + chunk, tokenIds.length - 1));
      await referenceDriver?.feed(ids, 'all');
      await driver.feed(ids, 'all', (position, r) => {
        if (position + 1 < firstScored) return;
        const next = tokenIds[position + 1]!;
        numTokens++;
        if (referenceRunner === null) {
          tally.add(runner.logits(r), next, null);
          return;
        }
        const exact = referenceRunner.logits(r);
        row.set(exact);
        referenceTally.add(exact, next, null);
        tally.add(runner.logits(r), next, row);
      });
      await setImmediate(); // Lets Ctrl-C and the bar through.
    }
    options.onProgress?.(index + 1, windows.length);
  }
  const scored = withPerplexity(tally.result(numTokens));
  if (reference === null) return { model: scored };
  return { reference: withPerplexity(referenceTally.result(numTokens)), model: scored };
}

function withPerplexity(result: QualityResult): Quality {
  return { ...result, perplexity: Math.exp(result.nll) };
}

export interface ModelCost {
  readonly sizeBytes: number;
  /** Bits of all tensors, per element. */
  readonly bitsPerWeight: number;
  /** t/s, a prompt of 512 tokens (or the model's length) and 64 tokens one by one. */
  readonly prefillTokensPerSecond: number;
  readonly decodeTokensPerSecond: number;
  /** What the process grew by while the model was loaded and ran. */
  readonly residentBytes: number;
}

export async function measureCost(
  { config, weights }: ModelToRun,
  options: EvaluateOptions,
): Promise<ModelCost> {
  const before = process.memoryUsage.rss();
  const prompt = Math.min(512, config.maxPositionEmbeddings - 1);
  using runner = await createRunner({
    source: weights,
    config,
    target: options.target,
    precision: 'fast',
    kvCacheType: options.kvCacheType ?? 'auto',
    threads: options.threads,
    maxSeqs: 1,
    maxModelLen: prompt + 1,
    planCacheFolder: null,
  });
  const prefill = await runBenchmark(runner, { kind: 'pp', numTokens: prompt }, 3);
  const decode = await runBenchmark(runner, { kind: 'tg', numTokens: Math.min(64, prompt) }, 3);
  let elements = 0;
  let bytes = 0;
  for (const { shape, dtype, sizeBytes } of weights.tensors.values()) {
    if (DTYPES[dtype].kind === 'integer') continue;
    elements += shape.reduce((product, dim) => product * dim, 1);
    bytes += sizeBytes;
  }
  return {
    sizeBytes: weights.sizeBytes,
    bitsPerWeight: (8 * bytes) / elements,
    prefillTokensPerSecond: prefill.tokensPerSecond,
    decodeTokensPerSecond: decode.tokensPerSecond,
    residentBytes: process.memoryUsage.rss() - before,
  };
}
