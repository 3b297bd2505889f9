/**
 * The reference target as a `ModelRunner`: obviously correct and dependent on nothing but JavaScript. It is what other targets are compared with,
 * and what runs where there is no other.
 */
import type { Graph } from '../../graph/ir.ts';
import { hasOpenGroups, type KvType } from '../../kernels/kv-layout.ts';
import type { ModelRunner, RunnerLimits, StepBatch, StepTicket } from '../model-runner.ts';
import {
  checkedRow,
  checkKvBlock,
  createStepBatch,
  StepError,
  validateStepBatch,
} from '../step-batch.ts';
import { GraphInterpreter } from './graph-interpreter.ts';
import type { F32Rows } from './value-rows.ts';
import { type WeightReader, WeightValues } from './weight-values.ts';

/** Logits in a slice of `sliceMax` and `sliceExpSum`. */
const SLICE_SIZE = 256;

export interface ReferenceRunnerOptions {
  /** At any stage of lowering; q8 linears run with integer dots. */
  readonly graph: Graph;
  /** Read while the runner is made, not after. */
  readonly weights: WeightReader | WeightValues;
  /** `vocabSize` and `hiddenSize` are taken from the graph. */
  readonly limits: Omit<RunnerLimits, 'vocabSize' | 'hiddenSize'>;
  /** Of the KV cache; default f32. */
  readonly kvType?: KvType;
}

const DONE: StepTicket = { isDone: true, wait: async () => {} };

export class ReferenceRunner implements ModelRunner {
  readonly limits: RunnerLimits;
  readonly batch: StepBatch;
  readonly sliceSize = SLICE_SIZE;
  readonly #interpreter: GraphInterpreter;
  /** Views by row, made once. */
  readonly #logits: readonly Float32Array[];
  readonly #hidden: readonly Float32Array[];
  readonly #sliceMax: readonly Float32Array[];
  readonly #sliceExpSum: readonly Float32Array[];

  constructor({ graph, weights, limits, kvType = 'f32' }: ReferenceRunnerOptions) {
    const vocabSize = graph.output.shape[1] as number;
    const head = graph.nodes.find((node) => node.op === 'firstRows');
    const hiddenSize = head?.shape[1] as number;
    this.limits = { ...limits, vocabSize, hiddenSize, hasOpenBlocks: hasOpenGroups(kvType) };
    this.batch = createStepBatch(this.limits);
    const values = weights instanceof WeightValues ? weights : new WeightValues(weights);
    this.#interpreter = new GraphInterpreter(graph, values, this.limits, kvType);
    const rows = Array.from({ length: limits.maxLogitRows }, (_, row) => row);
    const numSlices = Math.ceil(vocabSize / SLICE_SIZE);
    this.#logits = rowViews(this.#interpreter.output, limits.maxLogitRows);
    this.#hidden = rowViews(this.#interpreter.hidden, limits.maxTokens);
    this.#sliceMax = rows.map(() => new Float32Array(numSlices));
    this.#sliceExpSum = rows.map(() => new Float32Array(numSlices));
  }

  submit(): StepTicket {
    validateStepBatch(this.batch, this.limits);
    this.#interpreter.run(this.batch);
    for (let row = 0; row < this.batch.numLogitRows; row++) {
      const inverseTemperature = this.batch.inverseTemperatures[row]!;
      const into = { max: this.#sliceMax[row]!, expSum: this.#sliceExpSum[row]! };
      summarizeSlices(this.#logits[row]!, inverseTemperature, into);
    }
    return DONE;
  }

  logits(row: number): Float32Array {
    return this.#logits[checkedRow(this.batch, row, false)]!;
  }

  hidden(row: number): Float32Array {
    return this.#hidden[checkedRow(this.batch, row, true)]!;
  }

  sliceMax(row: number): Float32Array {
    return this.#sliceMax[checkedRow(this.batch, row, false)]!;
  }

  sliceExpSum(row: number): Float32Array {
    return this.#sliceExpSum[checkedRow(this.batch, row, false)]!;
  }

  copyBlocks(pairs: Int32Array, numPairs: number): void {
    for (let pair = 0; pair < numPairs; pair++) {
      const from = pairs[2 * pair]!;
      const to = pairs[2 * pair + 1]!;
      for (const block of [from, to]) {
        if (!(block >= 0 && block < this.limits.numBlocks)) {
          throw new StepError(
            `copyBlocks: block ${block}; expected 0 to ${this.limits.numBlocks - 1}`,
          );
        }
      }
      this.#interpreter.kvCache.copyBlock(from, to);
    }
  }

  get kvBlockBytes(): number {
    return this.#interpreter.kvCache.blockBytes;
  }

  readBlock(blockId: number, into: Uint8Array): void {
    checkKvBlock(blockId, into, this);
    this.#interpreter.kvCache.readBlock(blockId, into);
  }

  writeBlock(blockId: number, from: Uint8Array): void {
    checkKvBlock(blockId, from, this);
    this.#interpreter.kvCache.writeBlock(blockId, from);
  }

  /** Nothing but memory is held. */
  [Symbol.dispose](): void {}
}

function rowViews({ data, offset, stride, width }: F32Rows, numRows: number): Float32Array[] {
  return Array.from({ length: numRows }, (_, row) => {
    const start = offset + row * stride;
    return data.subarray(start, start + width);
  });
}

/**
 * @param logits f32 [vocabSize]
 * @param max    f32 [ceil(vocabSize / SLICE_SIZE)], the largest logit of each slice
 * @param expSum the same, sum of exp(logit - that largest)
 */
function summarizeSlices(
  logits: Float32Array,
  inverseTemperature: number,
  { max, expSum }: { max: Float32Array; expSum: Float32Array },
): void {
  for (let slice = 0; slice < max.length; slice++) {
    const start = slice * SLICE_SIZE;
    const end = Math.min(start + SLICE_SIZE, logits.length);
    let largest = -Infinity;
    for (let i = start; i < end; i++) if (logits[i]! > largest) largest = logits[i]!;
    let sum = 0;
    for (let i = start; i < end; i++) {
      sum += Math.exp((logits[i]! - largest) * inverseTemperature);
    }
    max[slice] = largest;
    expSum[slice] = sum;
  }
}
