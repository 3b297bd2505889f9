/**
 * A model on its way through a calibration run, and what every method does to a linear: run up to it, gather its inputs, align it to the exact model, round it,
 * go on with what was made of it. Knows nothing of how weights are rounded, nor of layers that are kept.
 */
import { rowsOf } from '../tensor/quantized-matrix.ts';
import { alignToExact } from './align-to-exact.ts';
import type { SiteState } from './compression-state.ts';
import type { F32Weights } from './f32-weights.ts';
import type { QuantizedMatrix } from './group-quantizer.ts';
import { InputStatistics } from './input-statistics.ts';
import type { LayerWalker, LinearSite } from './layer-walker.ts';
import type { Matrix, MatrixMath } from './matrix-math.ts';

/** Codes of a linear's weights, f32 [rows, columns]; may overwrite them. */
export type SiteRounder = (
  weights: Matrix,
  statistics: InputStatistics,
) => Omit<SiteState, 'label'>;

/** A linear whose inputs have been divided. */
export interface ScaledSite {
  /** Of the linear as it was read, f32 [rows, columns]; changed in place. */
  readonly weights: Matrix;
  /** What its inputs have been divided by, f32 [columns]; null for nothing. */
  readonly scales: Float32Array | null;
}

export interface CalibrationRunOptions {
  readonly weights: F32Weights;
  readonly math: MatrixMath;
  readonly walker: LayerWalker;
  /** The model before compression on the first windows of the same text, at the same command; null where nothing is aligned to it. */
  readonly exact: LayerWalker | null;
  /** 0 to 1. */
  readonly alignment: number;
}

export class CalibrationRun {
  readonly weights: F32Weights;
  readonly math: MatrixMath;
  readonly walker: LayerWalker;
  readonly matrices = new Map<string, QuantizedMatrix>();
  /** Other tensors that changed, by name. */
  readonly vectors = new Map<string, Float32Array>();
  readonly #exact: LayerWalker | null;
  readonly #alignment: number;

  constructor({ weights, math, walker, exact, alignment }: CalibrationRunOptions) {
    this.weights = weights;
    this.math = math;
    this.walker = walker;
    this.#exact = exact;
    this.#alignment = alignment;
  }

  /** The weights of a linear as they are now. */
  read(site: LinearSite): Matrix {
    const weights = this.math.matrix(site.rows, site.columns);
    this.walker.readWeight(site, weights.values, weights.stride);
    return weights;
  }

  /** Runs up to a linear and rounds it; from here on the model has the result. */
  round(site: LinearSite, rounder: SiteRounder, scaled: ScaledSite | null = null): SiteState {
    const scales = scaled?.scales ?? null;
    using statistics = this.#moveTo(site, scales);
    const weights = scaled?.weights ?? this.read(site);
    if (scales !== null) scaleInputs(weights, scales);
    const drift = statistics.drift();
    if (drift !== null) {
      alignToExact(this.math, weights, drift, { strength: this.#alignment });
    }
    const rounded = rounder(weights, statistics);
    if (scaled === null) weights[Symbol.dispose]();
    this.put(site, rounded.matrix);
    return { label: site.label, ...rounded };
  }

  /**
   * Runs up to a linear.
   *
   * @param scales what its inputs have been divided by
   * @returns statistics of its inputs, beside the exact ones from the second linear of the model on
   */
  #moveTo({ command, columns }: LinearSite, scales: Float32Array | null): InputStatistics {
    const statistics = new InputStatistics(this.math, columns);
    const isFirst = command === this.walker.layers[0]!.sites[0]!.command;
    const exact = this.#exact?.walkTo(command, [command]);
    for (const { inputs, stride, numTokens } of this.walker.walkTo(command, [command])) {
      // The exact model has the first windows only.
      const other = exact?.next().value;
      const known = other === undefined || isFirst ? null : { inputs: other.inputs, scales };
      statistics.add(inputs, stride, numTokens, known);
    }
    exact?.next();
    return statistics;
  }

  /** Runs on to a command, past linears that are done. */
  moveTo(command: number): void {
    this.walker.moveTo(command);
    this.#exact?.moveTo(command);
  }

  put(site: LinearSite, matrix: QuantizedMatrix): void {
    this.walker.writeWeight(site, matrix);
    let row = 0;
    for (const { tensor, rowStart, rowEnd } of site.parts) {
      const end = row + rowEnd - rowStart;
      const part = rowsOf(matrix, row, end);
      const before = this.matrices.get(tensor);
      this.matrices.set(tensor, before === undefined ? part : stacked(before, part));
      row = end;
    }
  }

  replaceVector(name: string, values: Float32Array): void {
    this.weights.replace(name, values);
    this.vectors.set(name, values);
    for (const [index, weight] of this.walker.plan.weights.entries()) {
      if (weight.ref.parts.some(({ tensor }) => tensor === name)) this.walker.reload(index);
    }
  }
}

/** Weights times the scales that their inputs are divided by. */
function scaleInputs(weights: Matrix, scales: Float32Array): void {
  for (let row = 0; row < weights.rows; row++) {
    for (let j = 0; j < scales.length; j++) weights.values[row * weights.stride + j]! *= scales[j]!;
  }
}

/** Two parts of one tensor, one below the other. */
function stacked(a: QuantizedMatrix, b: QuantizedMatrix): QuantizedMatrix {
  const join = <T extends Uint8Array | Float32Array>(x: T, y: T): T => {
    const whole = new (x.constructor as new (length: number) => T)(x.length + y.length);
    whole.set(x);
    whole.set(y, x.length);
    return whole;
  };
  return {
    ...a,
    rows: a.rows + b.rows,
    codes: join(a.codes, b.codes),
    scales: join(a.scales, b.scales),
    zeros: join(a.zeros, b.zeros),
  };
}
