/**
 * A model runner for tests: its logits are a hash of all tokens of the context, read back through the block table from a KV cache of its own.
 * A wrong block, slot, position or copy changes the text, or is caught at once by the checks.
 */

import type {
  ModelRunner,
  RunnerLimits,
  StepBatch,
  StepTicket,
} from '../../targets/model-runner.ts';
import { createStepBatch } from '../../targets/step-batch.ts';
import { sliceStats } from './slice-stats.ts';

export interface MockRunnerOptions {
  readonly limits?: Partial<RunnerLimits>;
  readonly sliceSize?: number;
  /** Logits lie between minus and plus this. */
  readonly spread?: number;
  /** Steps finish only when `wait` is called, as on a GPU. */
  readonly isAsync?: boolean;
  /** Called with the number of each step, from 0, before it runs; may throw to make it fail. */
  readonly onStep?: (step: number, batch: StepBatch) => void;
  /** Changes a row before its statistics are taken. */
  readonly editLogits?: (logits: Float32Array, context: readonly number[]) => void;
}

const DEFAULT_LIMITS: RunnerLimits = {
  maxTokens: 32,
  maxSeqs: 8,
  maxLogitRows: 8,
  maxModelLen: 256,
  blockSize: 4,
  numBlocks: 128,
  vocabSize: 40,
  hiddenSize: 8,
};

export class MockRunner implements ModelRunner {
  readonly limits: RunnerLimits;
  readonly batch: StepBatch;
  readonly sliceSize: number;
  numSteps = 0;
  numCopiedBlocks = 0;
  numReadBlocks = 0;
  numWrittenBlocks = 0;
  /** Sequences in the largest step so far. */
  maxSeqsSeen = 0;
  /** Token id and position of each slot; -1 where nothing was written. */
  readonly #kvTokens: Int32Array;
  readonly #kvPositions: Int32Array;
  readonly #options: MockRunnerOptions;
  #rows: Float32Array[] = [];
  #stats: ReturnType<typeof sliceStats>[] = [];

  constructor(options: MockRunnerOptions = {}) {
    this.#options = options;
    this.limits = { ...DEFAULT_LIMITS, ...options.limits };
    this.sliceSize = options.sliceSize ?? 16;
    const { blockSize, numBlocks } = this.limits;
    this.batch = createStepBatch(this.limits);
    this.#kvTokens = new Int32Array(numBlocks * blockSize).fill(-1);
    this.#kvPositions = new Int32Array(numBlocks * blockSize).fill(-1);
  }

  submit(): StepTicket {
    const step = this.numSteps++;
    this.#options.onStep?.(step, this.batch);
    if (this.#options.isAsync !== true) {
      this.#run();
      return { isDone: true, wait: () => Promise.resolve() };
    }
    const ticket = {
      isDone: false,
      wait: async () => {
        await new Promise((resolve) => setImmediate(resolve));
        this.#run();
        ticket.isDone = true;
      },
    };
    return ticket;
  }

  logits(row: number): Float32Array {
    return this.#rows[row]!;
  }

  /** Numbers that the row's logits stand for. */
  hidden(row: number): Float32Array {
    return this.#rows[row]!.subarray(0, this.limits.hiddenSize);
  }

  sliceMax(row: number): Float32Array {
    return this.#stats[row]!.sliceMax;
  }

  sliceExpSum(row: number): Float32Array {
    return this.#stats[row]!.sliceExpSum;
  }

  copyBlocks(pairs: Int32Array, numPairs: number): void {
    const { blockSize } = this.limits;
    this.numCopiedBlocks += numPairs;
    for (let p = 0; p < numPairs; p++) {
      const [from, to] = [pairs[2 * p]! * blockSize, pairs[2 * p + 1]! * blockSize];
      this.#kvTokens.copyWithin(to, from, from + blockSize);
      this.#kvPositions.copyWithin(to, from, from + blockSize);
    }
  }

  /** Token ids, then positions. */
  get kvBlockBytes(): number {
    return 8 * this.limits.blockSize;
  }

  readBlock(blockId: number, into: Uint8Array): void {
    check(blockId >= 0 && blockId < this.limits.numBlocks, 'readBlock');
    this.numReadBlocks++;
    const { blockSize } = this.limits;
    const words = new Int32Array(2 * blockSize);
    const [start, end] = [blockId * blockSize, (blockId + 1) * blockSize];
    words.set(this.#kvTokens.subarray(start, end));
    words.set(this.#kvPositions.subarray(start, end), blockSize);
    into.set(new Uint8Array(words.buffer));
  }

  writeBlock(blockId: number, from: Uint8Array): void {
    check(blockId >= 0 && blockId < this.limits.numBlocks, 'writeBlock');
    check(from.length === this.kvBlockBytes, 'bytes of a block');
    this.numWrittenBlocks++;
    const { blockSize } = this.limits;
    const words = new Int32Array(from.slice().buffer);
    this.#kvTokens.set(words.subarray(0, blockSize), blockId * blockSize);
    this.#kvPositions.set(words.subarray(blockSize), blockId * blockSize);
  }

  [Symbol.dispose](): void {
    this.#rows = [];
  }

  #run(): void {
    const { batch, limits } = this;
    check(batch.numTokens > 0 && batch.numTokens <= limits.maxTokens, 'numTokens');
    check(batch.numSeqs > 0 && batch.numSeqs <= limits.maxSeqs, 'numSeqs');
    check(batch.numLogitRows <= limits.maxLogitRows, 'numLogitRows');
    check(batch.queryStarts[batch.numSeqs] === batch.numTokens, 'queryStarts');
    this.maxSeqsSeen = Math.max(this.maxSeqsSeen, batch.numSeqs);
    const written = new Set<number>();
    for (let s = 0; s < batch.numSeqs; s++) this.#store(s, written);
    this.#rows = [];
    for (let r = 0; r < batch.numLogitRows + batch.numHiddenRows; r++) {
      const isFirst = r === 0 || r === batch.numLogitRows;
      check(isFirst || batch.logitRows[r]! > batch.logitRows[r - 1]!, 'logitRows');
      this.#rows.push(this.#logitsOf(batch.logitRows[r]!));
    }
    this.#stats = this.#rows.map((row, r) =>
      sliceStats(row, this.sliceSize, this.batch.inverseTemperatures[r]),
    );
  }

  /** Writes the step's tokens of sequence s into the cache. */
  #store(s: number, written: Set<number>): void {
    const { batch, limits } = this;
    const end = batch.queryStarts[s + 1]!;
    check(end > batch.queryStarts[s]!, 'an empty sequence');
    check(batch.contextLens[s] === batch.positions[end - 1]! + 1, 'contextLens');
    check(batch.contextLens[s]! <= limits.maxModelLen, 'maxModelLen');
    for (let t = batch.queryStarts[s]!; t < end; t++) {
      const position = batch.positions[t]!;
      const slot = batch.slotMapping[t]!;
      check(batch.tokenIds[t]! >= 0 && batch.tokenIds[t]! < limits.vocabSize, 'tokenIds');
      check(slot === this.#slot(s, position), `slot ${slot} of position ${position}`);
      check(!written.has(slot), `slot ${slot} is written twice in one step`);
      written.add(slot);
      this.#kvTokens[slot] = batch.tokenIds[t]!;
      this.#kvPositions[slot] = position;
    }
  }

  #slot(s: number, position: number): number {
    const { blockSize, numBlocks } = this.limits;
    const { blockTables, maxBlocksPerSeq } = this.batch;
    const block = blockTables[s * maxBlocksPerSeq + Math.floor(position / blockSize)]!;
    check(block >= 0 && block < numBlocks, `block ${block}`);
    return block * blockSize + (position % blockSize);
  }

  #logitsOf(token: number): Float32Array {
    const { batch, limits } = this;
    let s = 0;
    while (batch.queryStarts[s + 1]! <= token) s++;
    const context: number[] = [];
    let hash = 0x12345678;
    for (let position = 0; position <= batch.positions[token]!; position++) {
      const slot = this.#slot(s, position);
      check(
        this.#kvPositions[slot] === position,
        `slot ${slot} does not hold position ${position}`,
      );
      const id = this.#kvTokens[slot]!;
      context.push(id);
      hash = mix(hash ^ Math.imul(id + 1, 0x9e3779b1));
    }
    const spread = this.#options.spread ?? 4;
    const logits = Float32Array.from(
      { length: limits.vocabSize },
      (_, id) => (mix(hash + Math.imul(id + 1, 0x85ebca77)) / 0x80000000) * spread,
    );
    this.#options.editLogits?.(logits, context);
    return logits;
  }
}

function mix(x: number): number {
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  return x ^ (x >>> 16);
}

function check(isFine: boolean, what: string): void {
  if (!isFine) throw new Error(`mock runner: wrong batch: ${what}`);
}
