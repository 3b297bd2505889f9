/**
 * What a smaller model loses: likelihood of a text and divergence from a reference model, answers to questions. Two runners walk through the
 * same windows in step, so that no logits need to be kept.
 */
import { setImmediate } from 'node:timers/promises';
import { type QualityResult, QualityTally, ReferenceRow } from '../compress/divergence.ts';
import type { ModelConfig } from '../models/model-config.ts';
import { HastenError } from '../platform/errors.ts';
import { createRunner } from '../runtime/create-runner.ts';
import type { KvCacheType, Precision, TargetName } from '../runtime/runner-options.ts';
import type { ModelRunner } from '../targets/model-runner.ts';
import type { Tokenizer } from '../tokenizer/contract.ts';
import type { WeightSource } from '../weights/contract.ts';
import type { EvaluationTask } from './evaluation-task.ts';
import { planCacheFolder } from './plan-cache-folder.ts';
import {
  choiceIds,
  flippedShare,
  type ItemScore,
  scoreItems,
  summarizeTask,
  type TaskScore,
} from './score-task.ts';
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
  /** Where the model has a BOS: before the text, and then in the place of each window's first token; else one before each window's text. */
  readonly replacesFirst: boolean;
}

/**
 * `disjoint-N`: windows of N that do not overlap, all tokens from the second on are scored (transformers' usual way with stride = N).
 * `strided-N-S`: windows of N every S tokens, the last S are scored. `llama.cpp-N`: disjoint windows of N, the tokens behind the
 * middle one are scored, as llama-perplexity does (a window of 512: 255 of them).
 *
 * @throws {EvaluationError} if it is none of these
 */
export function parseProtocol(name: string): ScoringProtocol {
  const match = /^(disjoint|strided|llama\.cpp)-(\d+)(?:-(\d+))?$/.exec(name);
  const window = Number(match?.[2]);
  const stride = match?.[1] === 'strided' ? Number(match[3]) : window;
  const least = match?.[1] === 'llama.cpp' ? 3 : 2;
  const isSound = window >= least && stride >= 1 && stride <= window;
  if (match === null || !isSound || (match[1] !== 'strided' && match[3] !== undefined)) {
    throw new EvaluationError(
      `protocol "${name}": expected disjoint-N, strided-N-S (S up to N) or llama.cpp-N, such as disjoint-512`,
    );
  }
  const replacesFirst = match[1] === 'llama.cpp';
  const unscored = replacesFirst ? Math.floor(window / 2) + 1 : Math.max(1, window - stride);
  return { name, window, stride, unscored, replacesFirst };
}

export interface ScoringWindow {
  readonly tokenIds: readonly number[];
  /** First token of the window that is scored, at least 1. */
  readonly firstScored: number;
}

/** @param bos that windows begin with; null where the model has none @throws {EvaluationError} if the text is shorter than a window */
export function cutWindows(
  tokenIds: readonly number[],
  { window, stride, unscored, replacesFirst, name }: ScoringProtocol,
  bos: number | null,
): ScoringWindow[] {
  const head = bos === null ? [] : [bos];
  const replaced = replacesFirst ? head.length : 0;
  const text = replacesFirst ? [...head, ...tokenIds] : tokenIds;
  const size = window - head.length + replaced;
  const windows: ScoringWindow[] = [];
  for (let start = 0; start + size <= text.length; start += stride === window ? size : stride) {
    windows.push({
      tokenIds: [...head, ...text.slice(start + replaced, start + size)],
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

/** What one window says. */
export interface WindowFigures {
  readonly perplexity: number;
  readonly referencePerplexity?: number;
  readonly meanKld?: number;
}

export interface ModelQuality {
  readonly model: Quality;
  /** In the text's order. */
  readonly windows: readonly WindowFigures[];
}

export interface QualityComparison extends ModelQuality {
  readonly reference: Quality;
  /** KL divergence of the tokens at `KLD_SHARES` of them, ascending. */
  readonly kldQuantiles: readonly number[];
}

/** Where the curve of divergences is taken: each percent, and the tail more closely. */
export const KLD_SHARES: readonly number[] = [
  ...Array.from({ length: 100 }, (_, percent) => percent / 100),
  ...[0.995, 0.999, 1],
];

/**
 * @param reference null to score the model alone
 * @throws {EvaluationError} if vocabularies differ
 */
export async function compareQuality(
  model: ModelToRun,
  reference: ModelToRun | null,
  windows: readonly ScoringWindow[],
  options: EvaluateOptions,
): Promise<QualityComparison | ModelQuality> {
  const { vocabSize } = model.config;
  if (reference !== null && reference.config.vocabSize !== vocabSize) {
    throw new EvaluationError(
      `the model knows ${vocabSize} tokens, the reference ${reference.config.vocabSize}: they cannot be compared`,
    );
  }
  const longest = windows.reduce((most, { tokenIds }) => Math.max(most, tokenIds.length), 0);
  using runner = await modelRunner(model, longest, options);
  using referenceRunner =
    reference === null ? null : await modelRunner(reference, longest, exactly(options));
  const driver = new SequenceDriver(runner);
  const referenceDriver = referenceRunner === null ? null : new SequenceDriver(referenceRunner);
  const row = new ReferenceRow(vocabSize);
  const tally = new QualityTally();
  const referenceTally = new QualityTally();
  const chunk = Math.min(runner.limits.maxTokens, runner.limits.maxLogitRows);
  let numTokens = 0;
  const figures: WindowFigures[] = [];
  const sums = (): Sums => ({ ...tally.sums, numTokens, referenceNll: referenceTally.sums.nll });
  for (const [index, { tokenIds, firstScored }] of windows.entries()) {
    driver.reset();
    referenceDriver?.reset();
    const before = sums();
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
    figures.push(windowFigures(before, sums(), reference !== null));
    options.onProgress?.(index + 1, windows.length);
  }
  const scored = { model: withPerplexity(tally.result(numTokens)), windows: figures };
  if (reference === null) return scored;
  return {
    ...{ ...scored, reference: withPerplexity(referenceTally.result(numTokens)) },
    kldQuantiles: tally.quantiles(KLD_SHARES),
  };
}

interface Sums {
  readonly numTokens: number;
  readonly nll: number;
  readonly kld: number;
  readonly referenceNll: number;
}

/** What was added from one time to the other. */
function windowFigures(before: Sums, now: Sums, hasReference: boolean): WindowFigures {
  const mean = (key: 'nll' | 'kld' | 'referenceNll'): number =>
    (now[key] - before[key]) / (now.numTokens - before.numTokens);
  const perplexity = Math.exp(mean('nll'));
  if (!hasReference) return { perplexity };
  return { perplexity, referencePerplexity: Math.exp(mean('referenceNll')), meanKld: mean('kld') };
}

/** The reference has no roundings but its own weights'. */
function exactly(options: EvaluateOptions): EvaluateOptions {
  return { ...options, precision: 'f32', kvCacheType: 'auto' };
}

function modelRunner(
  { weights, config }: ModelToRun,
  maxModelLen: number,
  { target, threads, precision, kvCacheType = 'auto' }: EvaluateOptions,
): Promise<ModelRunner> {
  return createRunner({
    ...{ source: weights, config, target, threads, precision, kvCacheType, maxModelLen },
    ...{ maxSeqs: 1, maxLogitRows: scoringRows(config.vocabSize) },
    planCacheFolder: weights.files.length === 0 ? null : planCacheFolder(),
  });
}

function withPerplexity(result: QualityResult): Quality {
  return { ...result, perplexity: Math.exp(result.nll) };
}

export interface TaskComparison {
  readonly model: TaskScore;
  readonly reference?: TaskScore;
  /** Share of the answers in which the two differ. */
  readonly flips?: number;
}

/**
 * How model and reference (null: the model alone) answer questions, one model after the other.
 *
 * @param tokenizer of both
 * @throws {EvaluationError} if a question does not fit into the model's context
 */
export async function compareOnTasks(
  model: ModelToRun,
  reference: ModelToRun | null,
  tasks: readonly EvaluationTask[],
  tokenizer: Tokenizer,
  options: EvaluateOptions,
): Promise<TaskComparison[]> {
  const numItems = tasks.reduce((sum, { items }) => sum + items.length, 0);
  const total = reference === null ? numItems : 2 * numItems;
  let done = 0;
  const scoresOf = async (of: ModelToRun, how: EvaluateOptions): Promise<ItemScore[][]> => {
    using runner = await modelRunner(of, longestChoice(tasks, tokenizer, of.config), how);
    const scores: ItemScore[][] = [];
    for (const { items } of tasks) {
      scores.push(
        await scoreItems(runner, items, tokenizer, () => {
          options.signal?.throwIfAborted();
          options.onProgress?.(++done, total);
        }),
      );
    }
    return scores;
  };
  const referenceScores = reference && (await scoresOf(reference, exactly(options)));
  const scores = await scoresOf(model, options);
  return tasks.map((task, i) => {
    const own = { model: summarizeTask(task, scores[i]!) };
    if (referenceScores === null) return own;
    return {
      ...{ ...own, reference: summarizeTask(task, referenceScores[i]!) },
      flips: flippedShare(scores[i]!, referenceScores[i]!),
    };
  });
}

function longestChoice(
  tasks: readonly EvaluationTask[],
  tokenizer: Tokenizer,
  { maxPositionEmbeddings }: ModelConfig,
): number {
  let longest = 0;
  for (const { name, items } of tasks) {
    for (const [index, item] of items.entries()) {
      for (const { tokenIds, firstScored } of choiceIds(item, tokenizer, maxPositionEmbeddings)) {
        longest = Math.max(longest, tokenIds.length);
        if (firstScored > 0 && tokenIds.length <= maxPositionEmbeddings) continue;
        throw new EvaluationError(
          `task ${name}: question ${index + 1} has a choice of ${tokenIds.length - firstScored} tokens, the model takes ${maxPositionEmbeddings}`,
        );
      }
    }
  }
  return longest;
}
