/**
 * Runs steps of the sizes that requests will make once before the first request does: code and weights are touched, and what steps take is known from
 * the start. Uses KV blocks that it gives back, on the bare runner; nothing else may use the runner meanwhile.
 */

import type { ModelRunner } from '../targets/model-runner.ts';
import { type BlockManager, BlockTable } from './block-manager.ts';

/** Rows of logits, as streams and drafts have them; then tokens of a prompt, with one row. */
const ROW_COUNTS = [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32, 48, 64];
const PROMPT_COUNTS = [32, 128, 512, 2048];
/** The first run of a size is slower than those after it: it is run so often, while there is time. */
const RUNS = 3;

/** What a step of so many rows or tokens took, the least of its runs. */
export interface StepTime {
  readonly count: number;
  readonly ms: number;
}

export interface WarmUpTimes {
  readonly rows: readonly StepTime[];
  readonly prompts: readonly StepTime[];
}

/**
 * Goes from small to large, and leaves out what would not be done in time by what the size before it took. The smallest is run in any case.
 *
 * @param budgetMs time for all steps together; each of the two kinds gets half
 * @param now      milliseconds from any origin
 */
export async function warmUpRunner(
  runner: ModelRunner,
  blocks: BlockManager,
  budgetMs: number,
  now: () => number,
): Promise<WarmUpTimes> {
  const { limits } = runner;
  const room = blocks.numFreeBlocks * limits.blockSize;
  const mostTokens = Math.min(limits.maxTokens, limits.maxModelLen, room);
  const table = new BlockTable();
  blocks.grow(table, mostTokens);

  const run = async (count: number, numRows: number): Promise<number> => {
    fill(runner, table.ids, count, numRows);
    const startMs = now();
    const ticket = runner.submit();
    if (!ticket.isDone) await ticket.wait();
    return now() - startMs;
  };
  const measure = async (
    counts: readonly number[],
    most: number,
    hasAllRows: boolean,
  ): Promise<StepTime[]> => {
    const endMs = now() + budgetMs / 2;
    const times: StepTime[] = [];
    for (const count of [...counts.filter((each) => each < most), most]) {
      const before = times.at(-1);
      let expectedMs = before === undefined ? 0 : (before.ms * count) / before.count;
      let ms = Number.POSITIVE_INFINITY;
      for (let i = 0; i < RUNS; i++) {
        if (now() + expectedMs > endMs && (i > 0 || before !== undefined)) break;
        ms = Math.min(ms, await run(count, hasAllRows ? count : 1));
        expectedMs = ms;
      }
      if (ms === Number.POSITIVE_INFINITY) break;
      times.push({ count, ms });
    }
    return times;
  };
  try {
    const mostRows = Math.min(mostTokens, limits.maxLogitRows, ROW_COUNTS.at(-1)!);
    const rows = await measure(ROW_COUNTS, mostRows, true);
    const prompts = await measure(
      PROMPT_COUNTS,
      Math.min(mostTokens, PROMPT_COUNTS.at(-1)!),
      false,
    );
    return { rows, prompts };
  } finally {
    blocks.releaseAll(table);
  }
}

/** One token through the model, its keys and values in block 0: weights are read once, and the step has run once. Before any request. */
export async function touch(runner: ModelRunner): Promise<void> {
  fill(runner, [0], 1, 1);
  const ticket = runner.submit();
  if (!ticket.isDone) await ticket.wait();
}

/** One sequence of `numTokens` tokens, logits of the last `numRows`. */
function fill(
  { batch, limits }: ModelRunner,
  blockIds: ArrayLike<number>,
  numTokens: number,
  numRows: number,
): void {
  const { blockSize, vocabSize } = limits;
  for (let i = 0; i < numTokens; i++) {
    batch.tokenIds[i] = (i * 7919) % vocabSize;
    batch.positions[i] = i;
    batch.slotMapping[i] = blockIds[Math.floor(i / blockSize)]! * blockSize + (i % blockSize);
  }
  for (let index = 0; index * blockSize < numTokens; index++)
    batch.blockTables[index] = blockIds[index]!;
  for (let r = 0; r < numRows; r++) batch.logitRows[r] = numTokens - numRows + r;
  batch.queryStarts[0] = 0;
  batch.queryStarts[1] = numTokens;
  batch.contextLens[0] = numTokens;
  batch.numTokens = numTokens;
  batch.numSeqs = 1;
  batch.numLogitRows = numRows;
  batch.numHiddenRows = 0;
}
