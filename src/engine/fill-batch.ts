/**
 * Writes a scheduled step into the runner's batch arrays, in place. Knows the batch layout; decides nothing.
 */

import { InternalError } from '../platform/errors.ts';
import type { StepBatch } from '../targets/model-runner.ts';
import { isGreedy } from './sampler.ts';
import type { SamplingParams } from './sampling-params.ts';
import type { SchedulerOutput } from './scheduler.ts';
import type { Sequence } from './sequence.ts';

/** Whether the step computes all that the sequence has, so that its next token can be drawn. `numNewTokens` counts no drafts. */
export function catchesUp(sequence: Sequence, numNewTokens: number): boolean {
  return sequence.numComputedTokens + numNewTokens === sequence.numTokens;
}

/** Where the runner is to sum weights: at the temperature of the draw, unless log-probabilities are wanted, which are those at 1. */
function statsInverseTemperature(params: SamplingParams): number {
  return isGreedy(params) || params.logprobs !== null ? 1 : 1 / params.temperature;
}

/**
 * Fills `batch` with the step, in the order of the sequences. A sequence that catches up has one row of logits for its last token, and one for
 * each drafted token after that; behind all of these come the rows of hidden states that sequences gather.
 */
export function fillBatch(batch: StepBatch, output: SchedulerOutput, blockSize: number): void {
  const { tokenIds, positions, slotMapping, queryStarts, contextLens, blockTables } = batch;
  let token = 0;
  let row = 0;
  let hasPoolers = false;
  queryStarts[0] = 0;
  for (let s = 0; s < output.numSequences; s++) {
    const sequence = output.sequences[s]!;
    const numNewTokens = output.numNewTokens[s]!;
    const { ids } = sequence.tokens;
    const { ids: blockIds, numBlocks } = sequence.blockTable;
    const numDrafts = output.numDrafts[s]!;
    const start = sequence.numComputedTokens;
    const settledEnd = start + numNewTokens;
    const end = settledEnd + numDrafts;
    const numNeeded = Math.ceil(end / blockSize);
    if (numNeeded > numBlocks || numNeeded > batch.maxBlocksPerSeq) {
      throw new InternalError(
        `${end} tokens need ${numNeeded} KV blocks of ${blockSize}: the sequence holds ${numBlocks}, the batch takes ${batch.maxBlocksPerSeq}`,
      );
    }
    for (let position = start; position < end; position++) {
      tokenIds[token] =
        position < settledEnd ? ids[position]! : sequence.drafts![position - settledEnd]!;
      positions[token] = position;
      slotMapping[token] =
        blockIds[Math.floor(position / blockSize)]! * blockSize + (position % blockSize);
      token++;
    }
    const tableRow = s * batch.maxBlocksPerSeq;
    for (let index = 0; index < numNeeded; index++)
      blockTables[tableRow + index] = blockIds[index]!;
    contextLens[s] = end;
    batch.sequenceSlots[s] = sequence.slot;
    queryStarts[s + 1] = token;
    if (sequence.pooler !== null) hasPoolers = true;
    if (sequence.pooler !== null || !catchesUp(sequence, numNewTokens)) continue;
    const inverseTemperature = statsInverseTemperature(sequence.params);
    for (let index = token - 1 - numDrafts; index < token; index++) {
      batch.logitRows[row] = index;
      batch.inverseTemperatures[row++] = inverseTemperature;
    }
  }
  batch.numTokens = token;
  batch.numSeqs = output.numSequences;
  batch.numLogitRows = row;
  batch.numHiddenRows = hasPoolers ? fillHiddenRows(batch, output) : 0;
}

/** Rows of hidden states that the step gives of a sequence, those of its last tokens. */
export function numHiddenRows(sequence: Sequence, numNewTokens: number): number {
  return sequence.pooler?.numRows(numNewTokens, catchesUp(sequence, numNewTokens)) ?? 0;
}

function fillHiddenRows(batch: StepBatch, output: SchedulerOutput): number {
  const first = batch.numLogitRows;
  let row = first;
  for (let s = 0; s < output.numSequences; s++) {
    const end = batch.queryStarts[s + 1]!;
    const count = numHiddenRows(output.sequences[s]!, output.numNewTokens[s]!);
    for (let index = end - count; index < end; index++) batch.logitRows[row++] = index;
  }
  return row - first;
}
