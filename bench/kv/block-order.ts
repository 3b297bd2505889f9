/**
 * What block tables cost: a decode step of several sequences whose blocks lie in a row each, as memory reserved per sequence would, and of the same sequences
 * with their blocks scattered over the pool. Same kernels, same contexts.
 */
import type { ModelRunner } from '../../src/targets/model-runner.ts';
import { median } from '../lib/statistics.ts';

/** Ids of the blocks of every sequence, from the first block on. */
type BlockTables = readonly (readonly number[])[];

export interface BlockOrderTimes {
  readonly contiguousMs: number;
  readonly pagedMs: number;
}

/**
 * @param contexts tokens of each sequence
 * @param rounds timed steps of each kind, taken in turn
 */
export function timeBlockOrders(
  runner: ModelRunner,
  contexts: readonly number[],
  rounds: number,
): BlockOrderTimes {
  const { blockSize, numBlocks } = runner.limits;
  const counts = contexts.map((tokens) => Math.ceil((tokens + 1) / blockSize));
  const total = counts.reduce((a, b) => a + b, 0);
  if (2 * total > numBlocks) throw new Error(`${2 * total} blocks are needed, ${numBlocks} there`);
  const inRow = take(
    counts,
    Array.from({ length: total }, (_, i) => i),
  );
  const scattered = take(counts, shuffled(total, total));
  for (const tables of [inRow, scattered]) prefill(runner, tables, contexts);
  const times: Record<'inRow' | 'scattered', number[]> = { inRow: [], scattered: [] };
  for (let round = -3; round < rounds; round++) {
    const inTurn = [
      ['inRow', inRow],
      ['scattered', scattered],
    ] as const;
    for (const [name, tables] of round % 2 === 0 ? inTurn : inTurn.toReversed()) {
      const ms = decodeStep(runner, tables, contexts);
      if (round >= 0) times[name].push(ms);
    }
  }
  return { contiguousMs: median(times.inRow), pagedMs: median(times.scattered) };
}

function take(counts: readonly number[], ids: readonly number[]): BlockTables {
  let at = 0;
  return counts.map((count) => {
    at += count;
    return ids.slice(at - count, at);
  });
}

/** `count` ids from `first` on, in an order without neighbours. */
function shuffled(first: number, count: number): number[] {
  const ids = Array.from({ length: count }, (_, i) => first + i);
  let state = 12_345;
  for (let i = count - 1; i > 0; i--) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    const j = state % (i + 1);
    [ids[i], ids[j]] = [ids[j]!, ids[i]!];
  }
  return ids;
}

function addSequence(
  runner: ModelRunner,
  s: number,
  table: readonly number[],
  from: number,
  to: number,
): void {
  const { batch, limits } = runner;
  if (s === 0) batch.numTokens = 0;
  batch.queryStarts[s] = batch.numTokens;
  for (let position = from; position < to; position++) {
    const at = batch.numTokens++;
    batch.tokenIds[at] = (position * 7919 + 11 * s) % Math.min(40_000, limits.vocabSize);
    batch.positions[at] = position;
    const block = table[Math.floor(position / limits.blockSize)]!;
    batch.slotMapping[at] = block * limits.blockSize + (position % limits.blockSize);
  }
  batch.queryStarts[s + 1] = batch.numTokens;
  batch.contextLens[s] = to;
  batch.sequenceSlots[s] = s;
  batch.blockTables.set(table, s * batch.maxBlocksPerSeq);
  batch.numSeqs = s + 1;
  batch.numLogitRows = 0;
}

function prefill(runner: ModelRunner, tables: BlockTables, contexts: readonly number[]): void {
  const { maxTokens } = runner.limits;
  contexts.forEach((tokens, s) => {
    for (let from = 0; from < tokens; from += maxTokens) {
      addSequence(runner, 0, tables[s]!, from, Math.min(tokens, from + maxTokens));
      runner.submit();
    }
  });
}

/** The token behind each context; it may be computed again and again. */
function decodeStep(runner: ModelRunner, tables: BlockTables, contexts: readonly number[]): number {
  contexts.forEach((tokens, s) => {
    addSequence(runner, s, tables[s]!, tokens, tokens + 1);
  });
  const { batch } = runner;
  batch.numLogitRows = batch.numTokens;
  for (let row = 0; row < batch.numTokens; row++) batch.logitRows[row] = row;
  const startMs = performance.now();
  runner.submit();
  return performance.now() - startMs;
}
