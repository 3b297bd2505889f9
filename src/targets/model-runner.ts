/**
 * What the engine sees of a compiled model: a step takes a ragged batch and gives logits, and hidden states.
 *
 * The batch is plain typed arrays, so that it can be copied to another process or rank as it is. A runner knows nothing of sequences beyond
 * their block tables: which request a row belongs to, sampling and scheduling are the engine's.
 */

/**
 * One step: `numTokens` tokens of `numSeqs` sequences. Sequence s owns the tokens [queryStarts[s], queryStarts[s + 1]).
 * Arrays may be longer than what is in use.
 */
export interface StepBatch {
  numTokens: number;
  numSeqs: number;
  numLogitRows: number;
  /** Tokens beside those whose final hidden state is wanted and not their logits: `numLogitRows + numHiddenRows` is up to `maxTokens`. */
  numHiddenRows: number;
  /** i32 [numTokens] */
  readonly tokenIds: Int32Array;
  /** Position of each token in its sequence, i32 [numTokens]; consecutive inside a sequence. */
  readonly positions: Int32Array;
  /** Where each token's k and v go: block id * blockSize + offset in the block, i32 [numTokens]. */
  readonly slotMapping: Int32Array;
  /** i32 [numSeqs + 1] */
  readonly queryStarts: Int32Array;
  /** Tokens of each sequence including this step's, i32 [numSeqs]. */
  readonly contextLens: Int32Array;
  /** KV block ids, i32 [numSeqs, maxBlocksPerSeq]; row s holds ceil(contextLens[s] / blockSize) of them. */
  readonly blockTables: Int32Array;
  readonly maxBlocksPerSeq: number;
  /**
   * By which the runner knows each sequence from step to step, 0 to maxSeqs - 1, i32 [numSeqs]. Runners that keep something of sequences beside the
   * blocks want them to differ; a sequence has its slot until it is recomputed.
   */
  readonly sequenceSlots: Int32Array;
  /**
   * Indices into the step's tokens: those whose logits are wanted, ascending, then those whose hidden state only is wanted, ascending,
   * i32 [numLogitRows + numHiddenRows]. May be none.
   */
  readonly logitRows: Int32Array;
  /** 1 / temperature at which `sliceExpSum` sums each row of logits, f32 [numLogitRows]; all 1 until someone writes another. */
  readonly inverseTemperatures: Float32Array;
}

export interface RunnerLimits {
  /** Tokens in one step. */
  readonly maxTokens: number;
  /** Sequences in one step. */
  readonly maxSeqs: number;
  /** Rows of logits in one step. */
  readonly maxLogitRows: number;
  readonly maxModelLen: number;
  /** Tokens per KV block. */
  readonly blockSize: number;
  /** KV blocks in the pool. */
  readonly numBlocks: number;
  /**
   * Whether a block is written when it is full, and until then its tokens are the runner's, by sequence slot. Then a sequence can begin behind full blocks
   * of others only, and go back by less than a block and no further than the first token of its last step.
   */
  readonly hasOpenBlocks?: boolean;
  readonly vocabSize: number;
  /** Width of the final hidden state. */
  readonly hiddenSize: number;
}

/**
 * A step that was handed over. CPU targets have finished when `submit` returns; `wait` is there for those that have not (WebGPU, remote ranks).
 * The logits stay valid until the next `submit`.
 */
export interface StepTicket {
  readonly isDone: boolean;
  wait(): Promise<void>;
}

export interface ModelRunner extends Disposable {
  readonly limits: RunnerLimits;
  /** Buffers for the next step, owned by the runner and filled in place by the engine: nothing is allocated per step. */
  readonly batch: StepBatch;
  /** Runs `batch`. Throws `StepError` if the batch breaks a limit. */
  submit(): StepTicket;
  /** Logits of row r of the last step, f32 [vocabSize]: a view, overwritten by the next step; callers may change it in place before sampling. */
  logits(row: number): Float32Array;
  /**
   * Final hidden state (after the last norm, before the head) of row r of the last step, logit rows included, f32 [hiddenSize]: a view,
   * overwritten by the next step.
   */
  hidden(row: number): Float32Array;
  /**
   * Over slices of `sliceSize` logits of row r (the last may be shorter): the largest value of each, f32 [ceil(vocabSize / sliceSize)],
   * and the sum of exp((logit - that largest value) * inverseTemperature). What top-k, argmax and the softmax normaliser need without
   * reading the whole vocabulary.
   * Computed with the step; not updated when the caller changes logits.
   */
  sliceMax(row: number): Float32Array;
  sliceExpSum(row: number): Float32Array;
  readonly sliceSize: number;
  /** Copies KV blocks, `pairs` = from, to, from, to, ...; for copy on write. */
  copyBlocks(pairs: Int32Array, numPairs: number): void;
  /** Bytes of one KV block over all layers, as the next two take them. */
  readonly kvBlockBytes: number;
  /** Copies the keys and values of a block out. The bytes mean something to a runner of the same plan only. Throws `StepError` if there is no such block. */
  readBlock(blockId: number, into: Uint8Array): void;
  /** Puts back what `readBlock` gave. The values must be finite, as a runner's are: see kv-layout.ts. */
  writeBlock(blockId: number, from: Uint8Array): void;
}
