/**
 * The inputs of a linear for one window of tokens as factors of products: weighed, so that no token decides alone, and packed; and how far they are from those of the
 * exact model. Knows nothing of what is summed up over windows.
 */
import { packTokensKernel, tokenEnergiesKernel } from '../kernels/pack-tokens.ts';
import { ROW_GROUP } from '../kernels/packed-format.ts';
import type { KernelTeam } from './kernel-team.ts';
import type { Matrix, MatrixMath, PackedMatrix } from './matrix-math.ts';

/**
 * A token counts as at most so many median tokens of its window, by |x|². Where attention parks itself (the first token of a text, mostly) inputs of o_proj and
 * down_proj are a thousand times larger than elsewhere; alone they would decide how everything is rounded, although a norm behind makes little of them.
 */
const MOST_MEDIANS = 4;

/** What a linear's inputs are in the model before compression. */
export interface ExactInputs {
  /** f32 [numTokens, stride] */
  readonly inputs: Float32Array;
  /** What the inputs have been divided by since, f32 [width]; null for nothing. */
  readonly scales: Float32Array | null;
}

/** Memory for windows of one length, used again for each. */
export class PackedTokens implements Disposable {
  readonly numTokens: number;
  /** Weighed, (width, numTokens). */
  readonly inputs: PackedMatrix;
  readonly #math: MatrixMath;
  readonly #width: number;
  /** As they come, f32 [numTokens, width]. */
  readonly #rows: Matrix;
  /** What each token counts for. */
  readonly #weights: Matrix;
  /** Sums of |x| of the weighed inputs. */
  readonly #magnitudes: Matrix;
  #changes: PackedMatrix | null = null;

  constructor(math: MatrixMath, width: number, numTokens: number) {
    this.numTokens = numTokens;
    this.inputs = math.packed(width, numTokens);
    this.#math = math;
    this.#width = width;
    this.#rows = math.matrix(numTokens, width);
    this.#weights = math.matrix(1, numTokens);
    this.#magnitudes = math.matrix(1, width);
  }

  /** Of the window taken last, f32 [width]. */
  get magnitudes(): Float32Array {
    return this.#magnitudes.values.subarray(0, this.#width);
  }

  /** @param inputs f32 [numTokens, stride]; the first columns count */
  take(inputs: Float32Array, stride: number): void {
    const { kernels } = this.#math;
    this.#copy(inputs, stride);
    this.#weigh();
    if (kernels === null) this.#packPlainly();
    else this.#packOn(kernels);
  }

  /**
   * How far the inputs are from the exact ones, weighed likewise, (width, numTokens); valid until it is asked for again.
   *
   * @param stride of the exact inputs
   */
  changesTo({ inputs, scales }: ExactInputs, stride: number): PackedMatrix {
    this.#copy(inputs, stride);
    this.#changes ??= this.#math.packed(this.#width, this.numTokens);
    using factors = this.#math.matrix(1, this.#width);
    for (let j = 0; j < this.#width; j++) factors.values[j] = 1 / (scales?.[j] ?? 1);
    const { kernels } = this.#math;
    if (kernels === null) this.#packChangesPlainly(factors.values, this.#changes);
    else {
      const params = {
        ...this.#packParams(this.#changes),
        ...{ factors: factors.address, other: this.inputs.address },
      };
      kernels.run(
        'packTokens change',
        (machine) => packTokensKernel(machine, { isChange: true }),
        Math.ceil(this.#width / ROW_GROUP),
        params,
      );
    }
    return this.#changes;
  }

  #copy(inputs: Float32Array, stride: number): void {
    const { values, stride: into } = this.#rows;
    for (let t = 0; t < this.numTokens; t++) {
      values.set(inputs.subarray(t * stride, t * stride + this.#width), t * into);
    }
  }

  #weigh(): void {
    const weights = this.#weights.values;
    const energies = this.#energies();
    const most = MOST_MEDIANS * energies.toSorted()[this.numTokens >> 1]!;
    for (const [t, energy] of energies.entries()) {
      weights[t] = energy > most ? Math.sqrt(most / energy) : 1;
    }
  }

  /** |x|² of each token. */
  #energies(): Float32Array {
    const { values, stride, address } = this.#rows;
    const { kernels } = this.#math;
    if (kernels === null) {
      return Float32Array.from({ length: this.numTokens }, (_, t) =>
        values.subarray(t * stride, t * stride + this.#width).reduce((sum, x) => sum + x * x, 0),
      );
    }
    using energies = this.#math.matrix(1, this.numTokens);
    kernels.run('tokenEnergies', tokenEnergiesKernel, this.numTokens, {
      ...{ rows: address, stride: BigInt(4 * stride), out: energies.address },
      numVectors: BigInt(stride / kernels.machine.lanes),
    });
    return energies.values.slice(0, this.numTokens);
  }

  #packOn(kernels: KernelTeam): void {
    kernels.run(
      'packTokens',
      (machine) => packTokensKernel(machine, { isChange: false }),
      Math.ceil(this.#width / ROW_GROUP),
      { ...this.#packParams(this.inputs), magnitudes: this.#magnitudes.address },
    );
  }

  #packParams(into: PackedMatrix): Record<string, bigint> {
    return {
      rows: this.#rows.address,
      stride: BigInt(4 * this.#rows.stride),
      weights: this.#weights.address,
      packed: into.address,
      groupStride: BigInt(4 * ROW_GROUP * into.capacity),
      numTokens: BigInt(this.numTokens),
    };
  }

  #packPlainly(): void {
    const { magnitudes } = this;
    magnitudes.fill(0);
    this.#forEach((j, t, at) => {
      const value = this.#weights.values[t]! * this.#rows.values[t * this.#rows.stride + j]!;
      this.inputs.values[at] = value;
      magnitudes[j]! += Math.abs(value);
    });
  }

  #packChangesPlainly(factors: Float32Array, into: PackedMatrix): void {
    this.#forEach((j, t, at) => {
      const exact = this.#weights.values[t]! * this.#rows.values[t * this.#rows.stride + j]!;
      into.values[at] = factors[j]! * exact - this.inputs.values[at]!;
    });
  }

  #forEach(visit: (column: number, token: number, at: number) => void): void {
    for (let j = 0; j < this.#width; j++) {
      const first = (j - (j % ROW_GROUP)) * this.numTokens + (j % ROW_GROUP);
      for (let t = 0; t < this.numTokens; t++) visit(j, t, first + t * ROW_GROUP);
    }
  }

  [Symbol.dispose](): void {
    for (const each of [this.inputs, this.#rows, this.#weights, this.#magnitudes]) {
      each[Symbol.dispose]();
    }
    this.#changes?.[Symbol.dispose]();
  }
}
