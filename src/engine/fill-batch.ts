/**
 * Writes a scheduled step into the runner's batch arrays, in place. Knows the batch layout; decides nothing.
 */

import { InternalError } from '../platform/errors.ts';
import type { StepBatch } from '../targets/model-runner.ts';
import type { SchedulerOutput } from './scheduler.ts';
import type { Sequence } from './sequence.ts';

/** Whether the step computes all that the sequence has, so that its next token can be drawn. */
export function catchesUp(sequence: Sequence, numNewTokens: number): boolean {
  return sequence.numComputedTokens + numNewTokens === sequence.numTokens;
}

/** Fills `batch` with the step: one row of logits for each sequence that catches up, in the order of the sequences. */
export function fillBatch(batch: StepBatch, output: SchedulerOutput, blockSize: number): void {
  const { tokenIds, positions, slotMapping, queryStarts, contextLens, blockTables } = batch;
  let token = 0;
  let row = 0;
  queryStarts[0] = 0;
  for (let s = 0; s < output.numSequences; s++) {
    const sequence = output.sequences[s]!;
    const numNewTokens = output.numNewTokens[s]!;
    const { ids } = sequence.tokens;
    const { ids: blockIds, numBlocks } = sequence.blockTable;
    const start = sequence.numComputedTokens;
    const end = start + numNewTokens;
    const numNeeded = Math.ceil(end / blockSize);
    if (numNeeded > numBlocks || numNeeded > batch.maxBlocksPerSeq) {
      throw new InternalError(
        `${end} tokens need ${numNeeded} KV blocks of ${blockSize}: the sequence holds ${numBlocks}, the batch takes ${batch.maxBlocksPerSeq}`,
      );
    }
    for (let position = start; position < end; position++) {
      tokenIds[token] = ids[position]!;
      positions[token] = position;
      slotMapping[token] =
        blockIds[Math.floor(position / blockSize)]! * blockSize + (position % blockSize);
      token++;
    }
    const tableRow = s * batch.maxBlocksPerSeq;
    for (let index = 0; index < numNeeded; index++)
      blockTables[tableRow + index] = blockIds[index]!;
    contextLens[s] = end;
    queryStarts[s + 1] = token;
    if (catchesUp(sequence, numNewTokens)) batch.logitRows[row++] = token - 1;
  }
  batch.numTokens = token;
  batch.numSeqs = output.numSequences;
  batch.numLogitRows = row;
}
