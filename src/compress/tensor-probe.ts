/**
 * What a change of one tensor does to a model's predictions: runs the text once as it is, then again with one tensor in other values, from the layer that the
 * tensor is in, and gives the KL divergence. In f32. The text's windows are the sequences of one step.
 */
import { emitKernels } from '../compiler/emit.ts';
import type { Plan } from '../compiler/plan.ts';
import type { ModelConfig } from '../models/model-config.ts';
import { allocate, type NativeRegion } from '../platform/native-memory.ts';
import { planRunner } from '../runtime/compile-model.ts';
import { resolveTarget } from '../runtime/create-runner.ts';
import { NativeRunner } from '../runtime/native-runner.ts';
import { packWeights } from '../runtime/packed-weights.ts';
import { machineOf } from '../targets/x64/isa.ts';
import { logSumExp } from './divergence.ts';
import { CompressError } from './errors.ts';
import type { F32Weights } from './f32-weights.ts';

/** Of the model's predictions that are kept; the positions that are looked at are chosen by it. */
const MAX_REFERENCE_BYTES = 256 << 20;

export interface ProbeOptions {
  readonly weights: F32Weights;
  readonly config: ModelConfig;
  readonly windows: readonly (readonly number[])[];
  readonly threads: number | 'auto';
}

export class TensorProbe implements Disposable {
  readonly #weights: F32Weights;
  readonly #plan: Plan;
  readonly #runner: NativeRunner;
  readonly #image: NativeRegion;
  /** Weights of the plan by the tensors they are made of. */
  readonly #weightsOf = new Map<string, number[]>();
  /** First command that reads each tensor. */
  readonly #firstUse = new Map<string, number>();
  readonly #numRows: number;
  /** Probabilities of the model as it is, f32 [rows, vocabSize]: kept so, each comparison needs one exponential per logit and not two. */
  readonly #probabilities: Float32Array;
  /** Of each row, the sum of its probabilities (1 but for rounding) and of p * log p. */
  readonly #sums: Float64Array;
  readonly #selfTerms: Float64Array;
  /** What is alive before `#position`. */
  #snapshot = new Map<number, Float32Array>();
  #position = 0;

  /** @throws {CompressError} where no native code can run */
  constructor({ weights, config, windows, threads }: ProbeOptions) {
    const target = resolveTarget('auto');
    if (target.kind !== 'x64') {
      throw new CompressError(
        `a search needs native code, which cannot run here: ${target.reason}`,
      );
    }
    this.#weights = weights;
    const numTokens = windows.reduce((sum, ids) => sum + ids.length, 0);
    const { vocabSize } = config;
    this.#numRows = Math.min(numTokens, Math.floor(MAX_REFERENCE_BYTES / (4 * vocabSize)));
    const { plan, numBlocks } = planRunner(
      {
        ...{ source: weights, config, target: 'auto', precision: 'f32', threads },
        ...{ maxModelLen: numTokens, maxTokensPerStep: numTokens, maxSeqs: windows.length },
        ...{ maxLogitRows: this.#numRows, planCacheFolder: null },
        kvCacheMemoryBytes:
          8 *
          (numTokens + 64 * (windows.length + 1)) *
          ((config.headDim + 16) * config.numKvHeads * config.numLayers),
      },
      target.isa,
    );
    this.#plan = plan;
    this.#image = allocate(plan.weightBytes);
    const kernels = emitKernels(plan, machineOf(target.isa));
    this.#runner = new NativeRunner({
      ...{ plan, kernels, numBlocks },
      image: { address: this.#image.address, [Symbol.dispose]: () => this.#image.free() },
    });
    for (const [index, weight] of plan.weights.entries()) {
      for (const { tensor } of weight.ref.parts) {
        this.#weightsOf.set(tensor, [...(this.#weightsOf.get(tensor) ?? []), index]);
      }
      this.#load(index);
    }
    this.#findFirstUses();
    this.#fillBatch(windows);
    this.#runner.submit();
    this.#probabilities = new Float32Array(this.#numRows * vocabSize);
    this.#sums = new Float64Array(this.#numRows);
    this.#selfTerms = new Float64Array(this.#numRows);
    for (let r = 0; r < this.#numRows; r++) {
      const logits = this.#runner.logits(r);
      const norm = logSumExp(logits);
      const row = this.#probabilities.subarray(r * vocabSize, (r + 1) * vocabSize);
      for (let i = 0; i < vocabSize; i++) {
        row[i] = Math.exp(logits[i]! - norm);
        this.#sums[r]! += row[i]!;
      }
      this.#selfTerms[r] = this.#expectedLogProbability(r, logits, norm);
    }
  }

  /** Positions whose predictions are compared. */
  get numRows(): number {
    return this.#numRows;
  }

  /** First command that reads the tensor: probes go fastest in this order. Null for a tensor that the model does not use. */
  firstUse(tensor: string): number | null {
    return this.#firstUse.get(tensor) ?? null;
  }

  /**
   * Mean KL divergence of the predictions with `values` in the place of the tensor.
   *
   * @param values f32 [rows, columns]
   */
  divergence(tensor: string, values: Float32Array): number {
    const start = this.#firstUse.get(tensor) ?? 0;
    if (start < this.#position) this.#position = 0;
    this.#moveTo(start);
    this.#weights.replace(tensor, values);
    const affected = this.#weightsOf.get(tensor) ?? [];
    try {
      for (const index of affected) this.#load(index);
      this.#restore();
      this.#runner.runCommands(start, this.#plan.commands.length);
      return this.#compare();
    } finally {
      this.#weights.restore(tensor);
      for (const index of affected) this.#load(index);
    }
  }

  #compare(): number {
    let sum = 0;
    for (let r = 0; r < this.#numRows; r++) {
      const logits = this.#runner.logits(r);
      sum += this.#selfTerms[r]! - this.#expectedLogProbability(r, logits, logSumExp(logits));
    }
    return Math.max(0, sum / this.#numRows);
  }

  /** Sum of p * log softmax(logits), p of row r of the model as it is. */
  #expectedLogProbability(r: number, logits: Float32Array, norm: number): number {
    const { vocabSize } = this.#plan;
    const at = r * vocabSize;
    let sum = 0;
    for (let i = 0; i < vocabSize; i++) sum += this.#probabilities[at + i]! * logits[i]!;
    return sum - this.#sums[r]! * norm;
  }

  #load(index: number): void {
    const bytes = this.#image.bytes();
    packWeights([this.#plan.weights[index]!], this.#weights, (offset, piece) =>
      bytes.set(piece, offset),
    );
  }

  #findFirstUses(): void {
    const { commands, weights } = this.#plan;
    for (const [c, { variants }] of commands.entries()) {
      for (const param of variants.flatMap(({ params }) => Object.values(params))) {
        if (param.kind !== 'weight') continue;
        for (const { tensor } of weights[param.weight]!.ref.parts) {
          if (!this.#firstUse.has(tensor)) this.#firstUse.set(tensor, c);
        }
      }
    }
  }

  #moveTo(command: number): void {
    if (command === this.#position) return;
    if (this.#position > 0) this.#restore();
    this.#runner.runCommands(this.#position, command);
    this.#snapshot = new Map();
    const { numTokens, numLogitRows } = this.#runner.batch;
    for (const [index, buffer] of this.#plan.buffers.entries()) {
      if (!(buffer.firstCommand < command && buffer.lastCommand >= command)) continue;
      const { rows } = buffer;
      const count = typeof rows === 'number' ? rows : rows === 'T' ? numTokens : numLogitRows;
      const memory = this.#runner.buffer(index);
      this.#snapshot.set(index, memory.slice(0, (count * buffer.strideBytes) / 4));
    }
    this.#position = command;
  }

  #restore(): void {
    if (this.#position === 0) return;
    for (const [index, values] of this.#snapshot) this.#runner.buffer(index).set(values);
  }

  #fillBatch(windows: readonly (readonly number[])[]): void {
    const { batch, limits } = this.#runner;
    const { blockSize } = limits;
    let token = 0;
    let block = 0;
    for (const [s, tokenIds] of windows.entries()) {
      batch.queryStarts[s] = token;
      batch.contextLens[s] = tokenIds.length;
      const first = block;
      for (; (block - first) * blockSize < tokenIds.length; block++) {
        batch.blockTables[s * batch.maxBlocksPerSeq + block - first] = block;
      }
      for (const [i, id] of tokenIds.entries()) {
        batch.tokenIds[token] = id;
        batch.positions[token] = i;
        batch.slotMapping[token] = first * blockSize + i;
        token++;
      }
    }
    batch.queryStarts[windows.length] = token;
    batch.numTokens = token;
    batch.numSeqs = windows.length;
    batch.numLogitRows = this.#numRows;
    // Spread over the text.
    for (let r = 0; r < this.#numRows; r++) {
      batch.logitRows[r] = Math.floor(((r + 0.5) * token) / this.#numRows);
    }
  }

  [Symbol.dispose](): void {
    this.#snapshot.clear();
    this.#runner[Symbol.dispose]();
  }
}
