/**
 * How likely a model finds each choice of each question, and what follows from that, as lm-evaluation-harness works it out: `acc` takes the choice with the
 * highest log likelihood, `acc_norm` with the highest per character; a lone choice counts if the model would write it by itself.
 */
import { setImmediate } from 'node:timers/promises';
import type { ModelRunner } from '../targets/model-runner.ts';
import type { Tokenizer } from '../tokenizer/contract.ts';
import type { EvaluationTask, TaskItem } from './evaluation-task.ts';
import { logSumExp, topIds } from './scoring.ts';
import { SequenceDriver } from './sequence-driver.ts';

/** A choice after its context, as token ids. */
export interface ChoiceIds {
  readonly tokenIds: readonly number[];
  /** The first that belongs to the choice; at least 1. */
  readonly firstScored: number;
}

export interface ItemScore {
  /** Summed over the tokens of a choice, natural logarithm. */
  readonly logLikelihoods: readonly number[];
  /** The choice taken by sum, and by sum per character; -1 where a lone choice would not be written. */
  readonly chosen: number;
  readonly chosenNorm: number;
}

export interface TaskScore {
  readonly name: string;
  readonly numItems: number;
  /** Right answers, of 1. */
  readonly acc: number;
  readonly accStderr: number;
  /** null where choices are lone. */
  readonly accNorm: number | null;
  readonly accNormStderr: number | null;
  /** exp(-mean log likelihood of the right answer). */
  readonly perplexity: number;
}

/**
 * As the harness cuts them: the text is tokenized whole, so that a token may not reach over the border unseen; what the context alone has as tokens is context, and
 * loses its beginning where all of it is too long.
 *
 * @param maxLength of all tokens of a choice; fewer than the choice itself has are not enough
 */
export function choiceIds(
  { context, choices }: TaskItem,
  tokenizer: Tokenizer,
  maxLength: number,
): readonly ChoiceIds[] {
  const head = tokenizer.addsBos && tokenizer.bosTokenId !== null ? [tokenizer.bosTokenId] : [];
  const start = head.length > 0 ? head : [tokenizer.bosTokenId ?? tokenizer.eosTokenIds[0] ?? 0];
  // A space at the context's end belongs to what follows.
  const trimmed = context.trimEnd();
  const contextIds = tokenizer.encode(trimmed);
  return choices.map((choice) => {
    const whole = tokenizer.encode(trimmed + context.slice(trimmed.length) + choice);
    const numContext = Math.min(contextIds.length, whole.length - 1);
    const before = numContext === 0 ? start : head;
    const numCut = Math.max(0, Math.min(numContext, before.length + whole.length - maxLength));
    return {
      tokenIds: [...before, ...whole.slice(numCut)],
      firstScored: before.length + numContext - numCut,
    };
  });
}

/** Scores every item. @param onItem is called after each one */
export async function scoreItems(
  runner: ModelRunner,
  items: readonly TaskItem[],
  tokenizer: Tokenizer,
  onItem?: (done: number) => void,
): Promise<ItemScore[]> {
  const driver = new SequenceDriver(runner);
  const scores: ItemScore[] = [];
  for (const item of items) {
    const logLikelihoods: number[] = [];
    let isWritten = false;
    for (const choice of choiceIds(item, tokenizer, runner.limits.maxModelLen)) {
      const { logLikelihood, isGreedy } = await scoreChoice(runner, driver, choice);
      logLikelihoods.push(logLikelihood);
      isWritten = isGreedy;
    }
    const isLone = item.choices.length === 1;
    const perCharacter = logLikelihoods.map((sum, i) => sum / item.choices[i]!.trimStart().length);
    scores.push({
      logLikelihoods,
      chosen: isLone && !isWritten ? -1 : largest(logLikelihoods),
      chosenNorm: isLone && !isWritten ? -1 : largest(perCharacter),
    });
    onItem?.(scores.length);
    await setImmediate(); // Lets Ctrl-C and the bar through.
  }
  return scores;
}

/** @returns log likelihood of the tokens from `firstScored` on, and whether each was the likeliest */
async function scoreChoice(
  runner: ModelRunner,
  driver: SequenceDriver,
  { tokenIds, firstScored }: ChoiceIds,
): Promise<{ logLikelihood: number; isGreedy: boolean }> {
  driver.reset();
  await driver.feed(tokenIds.slice(0, firstScored - 1), 'none');
  let logLikelihood = 0;
  let isGreedy = true;
  await driver.feed(tokenIds.slice(firstScored - 1, -1), 'all', (position, row) => {
    const next = tokenIds[position + 1]!;
    const logits = runner.logits(row);
    logLikelihood += logits[next]! - logSumExp(runner, row);
    isGreedy &&= topIds(logits, 1)[0] === next;
  });
  return { logLikelihood, isGreedy };
}

function largest(values: readonly number[]): number {
  return values.reduce((best, value, i) => (value > values[best]! ? i : best), 0);
}

export function summarizeTask(
  { name, items }: EvaluationTask,
  scores: readonly ItemScore[],
): TaskScore {
  const numItems = items.length;
  const share = (isRight: (score: ItemScore, item: TaskItem) => boolean): number =>
    scores.filter((score, i) => isRight(score, items[i]!)).length / numItems;
  // Of a mean of zeros and ones, with the sample's variance.
  const stderr = (p: number): number =>
    numItems > 1 ? Math.sqrt((p * (1 - p)) / (numItems - 1)) : 0;
  const acc = share((score, item) => score.chosen === item.answer);
  const hasChoices = items.some(({ choices }) => choices.length > 1);
  const accNorm = hasChoices ? share((score, item) => score.chosenNorm === item.answer) : null;
  const sum = scores.reduce((all, { logLikelihoods }, i) => {
    return all + logLikelihoods[items[i]!.answer]!;
  }, 0);
  return {
    ...{ name, numItems, acc, accStderr: stderr(acc) },
    ...{ accNorm, accNormStderr: accNorm === null ? null : stderr(accNorm) },
    perplexity: Math.exp(-sum / numItems),
  };
}

/** Share of items that another model answers otherwise, right or wrong: compression moves more answers than the difference of two accuracies shows. */
export function flippedShare(a: readonly ItemScore[], b: readonly ItemScore[]): number {
  return a.filter(({ chosen }, i) => chosen !== b[i]!.chosen).length / a.length;
}
