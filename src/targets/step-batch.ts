/** The batch of a step: its buffers, and the checks that let ops trust every index in it. Knows nothing of graphs. */
import { HastenError } from '../platform/errors.ts';
import type { ModelRunner, RunnerLimits, StepBatch } from './model-runner.ts';

/** A batch that breaks a limit of its runner. */
export class StepError extends HastenError {
  constructor(message: string) {
    super('invalid_step', message);
  }
}

/** Buffers for the largest batch that `limits` allows. */
export function createStepBatch(limits: RunnerLimits): StepBatch {
  const { maxTokens, maxSeqs, maxModelLen, blockSize } = limits;
  const maxBlocksPerSeq = Math.ceil(maxModelLen / blockSize);
  return {
    numTokens: 0,
    numSeqs: 0,
    numLogitRows: 0,
    numHiddenRows: 0,
    tokenIds: new Int32Array(maxTokens),
    positions: new Int32Array(maxTokens),
    slotMapping: new Int32Array(maxTokens),
    queryStarts: new Int32Array(maxSeqs + 1),
    contextLens: new Int32Array(maxSeqs),
    blockTables: new Int32Array(maxSeqs * maxBlocksPerSeq),
    maxBlocksPerSeq,
    sequenceSlots: new Int32Array(maxSeqs),
    logitRows: new Int32Array(maxTokens),
    inverseTemperatures: new Float32Array(limits.maxLogitRows).fill(1),
  };
}

/** @throws {StepError} naming the field, the value seen and the limit */
export function validateStepBatch(batch: StepBatch, limits: RunnerLimits): void {
  const { numTokens, numSeqs, numLogitRows, numHiddenRows } = batch;
  expectCount('numTokens', numTokens, limits.maxTokens);
  expectCount('numSeqs', numSeqs, limits.maxSeqs);
  expectCount('numLogitRows', numLogitRows, limits.maxLogitRows);
  expectCount('numHiddenRows', numHiddenRows, limits.maxTokens - numLogitRows);
  const numSlots = limits.numBlocks * limits.blockSize;
  for (let t = 0; t < numTokens; t++) {
    expectIndex('tokenIds', t, batch.tokenIds[t]!, limits.vocabSize);
    expectIndex('positions', t, batch.positions[t]!, limits.maxModelLen);
    expectIndex('slotMapping', t, batch.slotMapping[t]!, numSlots);
  }
  if (batch.queryStarts[0] !== 0 || batch.queryStarts[numSeqs] !== numTokens) {
    throw new StepError(
      `queryStarts go from ${batch.queryStarts[0]} to ${batch.queryStarts[numSeqs]}; expected 0 to numTokens, ${numTokens}`,
    );
  }
  for (let s = 0; s < numSeqs; s++) validateSequence(batch, s, limits);
  for (let r = 0; r < numLogitRows + numHiddenRows; r++) {
    expectIndex('logitRows', r, batch.logitRows[r]!, numTokens);
    if (r > 0 && r !== numLogitRows && batch.logitRows[r]! <= batch.logitRows[r - 1]!) {
      throw new StepError(
        `logitRows[${r}] is ${batch.logitRows[r]} after ${batch.logitRows[r - 1]}; expected ascending rows`,
      );
    }
  }
}

/** @throws {StepError} if the last step gave no logits (or, with `isHidden`, no hidden state) for this row */
export function checkedRow(batch: StepBatch, row: number, isHidden: boolean): number {
  const numRows = batch.numLogitRows + (isHidden ? batch.numHiddenRows : 0);
  if (row >= 0 && row < numRows) return row;
  const what = isHidden ? 'hidden states' : 'logits';
  throw new StepError(`row ${row} of ${what}; the last step gave ${numRows}`);
}

/** @throws {StepError} if a block cannot be read into or written from these bytes */
export function checkKvBlock(
  blockId: number,
  bytes: Uint8Array,
  { limits, kvBlockBytes }: Pick<ModelRunner, 'limits' | 'kvBlockBytes'>,
): void {
  expectIndex('KV block', blockId, blockId, limits.numBlocks);
  if (bytes.length !== kvBlockBytes) {
    throw new StepError(`a KV block has ${kvBlockBytes} bytes; got ${bytes.length}`);
  }
}

function validateSequence(batch: StepBatch, s: number, limits: RunnerLimits): void {
  const start = batch.queryStarts[s]!;
  const end = batch.queryStarts[s + 1]!;
  if (end < start)
    throw new StepError(`queryStarts[${s + 1}] is ${end}, less than ${start} before it`);
  const contextLen = batch.contextLens[s]!;
  if (contextLen < 1 || contextLen > limits.maxModelLen) {
    throw new StepError(`contextLens[${s}] is ${contextLen}; expected 1 to ${limits.maxModelLen}`);
  }
  for (let t = start; t < end; t++) {
    const expected = contextLen - (end - t);
    if (batch.positions[t] !== expected) {
      throw new StepError(
        `positions[${t}] is ${batch.positions[t]}; expected ${expected}, as contextLens[${s}] is ${contextLen}`,
      );
    }
  }
  expectIndex('sequenceSlots', s, batch.sequenceSlots[s]!, limits.maxSeqs);
  const numBlocks = Math.ceil(contextLen / limits.blockSize);
  for (let b = 0; b < numBlocks; b++) {
    const at = s * batch.maxBlocksPerSeq + b;
    expectIndex('blockTables', at, batch.blockTables[at]!, limits.numBlocks);
  }
}

function expectCount(name: string, value: number, max: number): void {
  if (!Number.isInteger(value) || value < 0 || value > max) {
    throw new StepError(`${name} is ${value}; expected a whole number up to ${max}`);
  }
}

function expectIndex(name: string, at: number, value: number, end: number): void {
  if (value < 0 || value >= end) {
    throw new StepError(`${name}[${at}] is ${value}; expected 0 to ${end - 1}`);
  }
}
