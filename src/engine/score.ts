/**
 * Logits of a given text at its own positions: what perplexity and comparisons with other engines need. Runs one sequence on the bare runner,
 * in chunks, without scheduler or sampling; nothing else may use the runner meanwhile.
 */

import type { ModelRunner } from '../targets/model-runner.ts';
import { RequestError, RequestTooLongError } from './errors.ts';
import { SlicedLogits } from './sliced-logits.ts';

export interface ScoreOptions {
  /** Which positions' logits are wanted. Default `all`. */
  readonly positions?: 'all' | 'last';
}

/**
 * @param tokenIds taken exactly, nothing is added
 * @param onLogits called once per wanted position, in rising order: the position from 0, its logits (f32 [vocabSize], valid during the call, or
 *                 until the promise it returns settles), and the same row with its statistics, for log-probabilities and top lists
 * @throws {RequestError | RequestTooLongError} if the ids are none, not of the vocabulary, or too many
 */
export async function scoreTokens(
  runner: ModelRunner,
  tokenIds: ArrayLike<number>,
  onLogits: (position: number, logits: Float32Array, row: SlicedLogits) => void | Promise<void>,
  options: ScoreOptions = {},
): Promise<void> {
  const { limits, batch } = runner;
  checkTokens(runner, tokenIds);
  const isAll = (options.positions ?? 'all') === 'all';
  const chunkSize = isAll ? Math.min(limits.maxTokens, limits.maxLogitRows) : limits.maxTokens;
  const row = new SlicedLogits(limits.vocabSize, runner.sliceSize);
  for (let start = 0; start < tokenIds.length; start += chunkSize) {
    const end = Math.min(start + chunkSize, tokenIds.length);
    for (let position = start; position < end; position++) {
      const index = position - start;
      batch.tokenIds[index] = tokenIds[position]!;
      batch.positions[index] = position;
      batch.slotMapping[index] = position; // block b of the sequence is block b of the pool
      if (isAll) batch.logitRows[index] = index;
    }
    for (let block = 0; block * limits.blockSize < end; block++) batch.blockTables[block] = block;
    batch.numTokens = end - start;
    batch.numSeqs = 1;
    batch.queryStarts[0] = 0;
    batch.queryStarts[1] = end - start;
    batch.contextLens[0] = end;
    batch.numLogitRows = isAll ? end - start : 0;
    if (!isAll && end === tokenIds.length) {
      batch.numLogitRows = 1;
      batch.logitRows[0] = end - start - 1;
    }
    const { numLogitRows } = batch;
    const ticket = runner.submit();
    if (!ticket.isDone) await ticket.wait();
    for (let r = 0; r < numLogitRows; r++) {
      const logits = runner.logits(r);
      row.load(logits, runner.sliceMax(r), runner.sliceExpSum(r));
      const pending = onLogits(isAll ? start + r : end - 1, logits, row);
      if (pending !== undefined) await pending;
    }
  }
}

/**
 * Negative log-likelihood of each token given those before it, natural logarithm.
 *
 * @returns f64 [tokenIds.length]; the first token, which nothing comes before, has 0
 */
export async function tokenLosses(
  runner: ModelRunner,
  tokenIds: ArrayLike<number>,
): Promise<Float64Array> {
  const losses = new Float64Array(tokenIds.length);
  await scoreTokens(runner, tokenIds, (position, logits, row) => {
    const next = position + 1;
    if (next < tokenIds.length) losses[next] = row.logNormaliser() - logits[tokenIds[next]!]!;
  });
  return losses;
}

function checkTokens({ limits }: ModelRunner, tokenIds: ArrayLike<number>): void {
  const numPromptTokens = tokenIds.length;
  if (numPromptTokens === 0) {
    throw new RequestError('tokenIds', 'no token ids to score: at least one is needed');
  }
  const maxSequenceTokens = Math.min(limits.maxModelLen, limits.numBlocks * limits.blockSize);
  if (numPromptTokens > maxSequenceTokens) {
    throw new RequestTooLongError(
      `${numPromptTokens} tokens to score, but the context length of ${limits.maxModelLen} and the KV cache of ${limits.numBlocks} blocks x ${limits.blockSize} tokens hold ${maxSequenceTokens}; use a shorter text or raise the smaller of the two`,
      { numPromptTokens, maxTokens: 0, maxSequenceTokens },
    );
  }
  for (let i = 0; i < numPromptTokens; i++) {
    const id = tokenIds[i]!;
    if (!Number.isInteger(id) || id < 0 || id >= limits.vocabSize) {
      throw new RequestError(
        'tokenIds',
        `tokenIds[${i}]: expected an id from 0 to ${limits.vocabSize - 1}, got ${String(id)}`,
      );
    }
  }
}
