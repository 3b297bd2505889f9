/**
 * Compresses the linears of a model with the help of a calibration text, layer by layer: what a layer sees is what the compressed layers before it make.
 *
 *     gptq   each linear of a layer in turn: run up to it, gather its inputs, round it, go on with the rounded weights
 *     awq    gather the inputs of all linears of a layer and find their scales; then each in turn as with gptq, but clip it and round to nearest
 *     rtn    rounds to nearest, without running anything
 *
 * Beside the compressed model the exact one is walked through the same text: linears are aligned to what it gives (align-to-exact.ts).
 *
 * A layer that is done can be kept in a state folder; a later call with the same fingerprint goes on after it.
 */
import type { ModelConfig } from '../models/model-config.ts';
import { rowsOf } from '../tensor/quantized-matrix.ts';
import { ALIGNED_TOKENS, ALIGNMENT, alignToExact } from './align-to-exact.ts';
import { searchScales } from './awq.ts';
import type { CompressionState, LayerState } from './compression-state.ts';
import { CompressError } from './errors.ts';
import type { F32Weights } from './f32-weights.ts';
import { GPTQ_DEFAULTS, type GptqOptions, gptq } from './gptq.ts';
import {
  dequantize,
  type GroupScheme,
  type QuantizedMatrix,
  quantizeToNearest,
  resolveGroupSize,
} from './group-quantizer.ts';
import { InputStatistics } from './input-statistics.ts';
import {
  type InputVisitor,
  LayerWalker,
  type LinearSite,
  type WalkedLayer,
} from './layer-walker.ts';
import { type Matrix, MatrixMath } from './matrix-math.ts';
import { matrixRows, matrixShape } from './matrix-rows.ts';
import { NearestRounder } from './nearest-rounder.ts';
import { normBefore } from './norm-before.ts';
import { RowSample } from './output-error.ts';
import { searchRanges } from './range-search.ts';

export const METHODS = ['rtn', 'gptq', 'awq'] as const;
export type Method = (typeof METHODS)[number];

export interface CalibratedOptions {
  readonly weights: F32Weights;
  readonly config: ModelConfig;
  readonly windows: readonly (readonly number[])[];
  readonly method: Method;
  /** Of each linear. */
  schemeOf(label: string): GroupScheme;
  /** Throws for a matrix that the result has no place for; asked before anything is computed. */
  checkMatrix?(tensor: string, shape: Pick<QuantizedMatrix, 'rows' | 'columns' | 'bits'>): void;
  readonly gptq?: Partial<Pick<GptqOptions, 'order' | 'damping'>>;
  /** 0 to 1: how much of what earlier layers' errors did to a linear's outputs is made good; 0 saves the walk of the exact model. */
  readonly alignment?: number;
  readonly threads: number | 'auto';
  readonly state?: CompressionState;
  onLayer?(report: LayerReport): void;
  onStep?(done: number, total: number): void;
  readonly signal?: AbortSignal;
}

/** What became of one linear. */
export interface SiteReport {
  readonly label: string;
  /** mean |(W - Q) x|² / mean |W x|² over the calibration text; null for methods that do not run it. */
  readonly relativeError: number | null;
  readonly note: string | null;
}

export interface LayerReport {
  readonly layer: number;
  readonly numLayers: number;
  readonly seconds: number;
  readonly wasKept: boolean;
  readonly sites: readonly SiteReport[];
}

/** Matrices by tensor name, and other tensors that changed (norms that AWQ scaled), by name. */
export interface CompressedModel {
  readonly matrices: ReadonlyMap<string, QuantizedMatrix>;
  readonly vectors: ReadonlyMap<string, Float32Array>;
  readonly layers: readonly LayerReport[];
}

/**
 * `weights` afterwards gives the compressed values.
 *
 * @throws {CompressError} if there is no native code to calibrate with
 * @throws {GroupSizeError | NonFiniteWeightError}
 */
export async function compressLinears(options: CalibratedOptions): Promise<CompressedModel> {
  using math = new MatrixMath(options.threads === 'auto' ? null : options.threads);
  using walker = LayerWalker.create(options);
  checkLinears(options, walker);
  const alignment = options.alignment ?? ALIGNMENT;
  using exact = options.method === 'rtn' || alignment === 0 ? null : exactWalker(options);
  const run = new LayerCompressor(options, math, { walker, exact, alignment });
  return await run.all();
}

/** Of the model before compression, on the first windows. */
function exactWalker(options: CalibratedOptions): LayerWalker {
  let numTokens = 0;
  const windows = options.windows.filter((ids) => {
    const isTaken = numTokens < ALIGNED_TOKENS;
    numTokens += ids.length;
    return isTaken;
  });
  return LayerWalker.create({ ...options, windows, weights: options.weights.original() });
}

/** Before anything is made or kept: a run that cannot end is refused in its first seconds. */
function checkLinears(options: CalibratedOptions, walker: LayerWalker): void {
  const { weights } = options;
  for (const { label, parts, columns } of walker.layers.flatMap((layer) => layer.sites)) {
    const scheme = options.schemeOf(label);
    for (const { tensor } of parts) {
      resolveGroupSize(scheme, columns, tensor);
      const { rows } = matrixShape(weights, tensor);
      options.checkMatrix?.(tensor, { rows, columns, bits: scheme.bits });
    }
  }
  for (const tensor of walker.tensors) for (const _ of matrixRows(weights, tensor));
}

class LayerCompressor {
  readonly #options: CalibratedOptions;
  readonly #math: MatrixMath;
  readonly #walker: LayerWalker;
  /** The model before compression on the same text, at the same command; null where nothing is aligned to it. */
  readonly #exact: LayerWalker | null;
  readonly #alignment: number;
  readonly #matrices = new Map<string, QuantizedMatrix>();
  readonly #vectors = new Map<string, Float32Array>();

  constructor(
    options: CalibratedOptions,
    math: MatrixMath,
    walks: { walker: LayerWalker; exact: LayerWalker | null; alignment: number },
  ) {
    this.#options = options;
    this.#math = math;
    this.#walker = walks.walker;
    this.#exact = walks.exact;
    this.#alignment = walks.alignment;
  }

  async all(): Promise<CompressedModel> {
    const { layers } = this.#walker;
    const { method, state, onLayer, onStep, signal } = this.#options;
    const reports: LayerReport[] = [];
    for (const layer of layers) {
      // Lets Ctrl-C and the bar through.
      await new Promise((resolve) => setImmediate(resolve));
      signal?.throwIfAborted();
      const startMs = performance.now();
      const kept = await state?.load(layer.index);
      let sites: SiteReport[];
      if (kept !== undefined) {
        this.#takeKept(layer, kept);
        sites = kept.sites.map(({ label, relativeError }) => ({
          label,
          relativeError,
          note: null,
        }));
      } else {
        const done = this.#layer(layer);
        sites = done.sites.map(({ label, relativeError, note }) => ({
          label,
          relativeError,
          note,
        }));
        await state?.save(layer.index, done);
      }
      if (method !== 'rtn') {
        this.#walker.moveTo(layer.end);
        this.#exact?.moveTo(layer.end);
      }
      this.#dropValues(layer);
      const seconds = (performance.now() - startMs) / 1000;
      const report = {
        ...{ layer: layer.index, numLayers: layers.length, seconds },
        ...{ wasKept: kept !== undefined, sites },
      };
      reports.push(report);
      onLayer?.(report);
      onStep?.(reports.length, layers.length);
    }
    return { matrices: this.#matrices, vectors: this.#vectors, layers: reports };
  }

  #layer(layer: WalkedLayer): LayerState {
    switch (this.#options.method) {
      case 'rtn':
        return { sites: layer.sites.map((site) => this.#roundToNearest(site)), vectors: new Map() };
      case 'gptq':
        return { sites: layer.sites.map((site) => this.#gptq(site)), vectors: new Map() };
      case 'awq':
        return this.#awq(layer);
      default:
        return this.#options.method satisfies never;
    }
  }

  /** A layer that has been passed needs its codes only. */
  #dropValues(layer: WalkedLayer): void {
    const { weights } = this.#options;
    for (const { tensor } of layer.sites.flatMap(({ parts }) => parts)) {
      const matrix = this.#matrices.get(tensor);
      if (matrix?.rows === matrixShape(weights, tensor).rows)
        weights.replaceByCodes(tensor, matrix);
    }
  }

  #takeKept(layer: WalkedLayer, { sites, vectors }: LayerState): void {
    for (const [name, values] of vectors) this.#replaceVector(name, values);
    for (const site of layer.sites) {
      const kept = sites.find(({ label }) => label === site.label);
      if (
        kept === undefined ||
        kept.matrix.rows !== site.rows ||
        kept.matrix.columns !== site.columns
      ) {
        throw new CompressError(
          `the kept state of layer ${layer.index} has no ${site.label} of this shape`,
        );
      }
      this.#put(site, kept.matrix);
    }
  }

  /** The weights of a linear as they are now. */
  #read(site: LinearSite): Matrix {
    const weights = this.#math.matrix(site.rows, site.columns);
    this.#walker.readWeight(site, weights.values, weights.stride);
    return weights;
  }

  #put(site: LinearSite, matrix: QuantizedMatrix): void {
    this.#walker.writeWeight(site, dequantize(matrix));
    let row = 0;
    for (const { tensor, rowStart, rowEnd } of site.parts) {
      const end = row + rowEnd - rowStart;
      const part = rowsOf(matrix, row, end);
      const before = this.#matrices.get(tensor);
      this.#matrices.set(tensor, before === undefined ? part : stacked(before, part));
      row = end;
    }
  }

  #roundToNearest(site: LinearSite) {
    using weights = this.#read(site);
    const { rows, columns, label } = site;
    const dense = new Float32Array(rows * columns);
    for (let row = 0; row < rows; row++) {
      const at = row * weights.stride;
      dense.set(weights.values.subarray(at, at + columns), row * columns);
    }
    const scheme = this.#options.schemeOf(label);
    const matrix = quantizeToNearest(dense, rows, columns, scheme, { tensor: label });
    this.#put(site, matrix);
    return { label, matrix, relativeError: null, note: null };
  }

  #statistics(sites: readonly LinearSite[]): Map<LinearSite, InputStatistics> {
    return new Map(sites.map((site) => [site, new InputStatistics(this.#math, site.columns)]));
  }

  /**
   * Runs up to a linear.
   *
   * @param scales what its inputs have been divided by
   * @returns statistics of its inputs, beside the exact ones from the second linear of the model on
   */
  #moveTo({ command, columns }: LinearSite, scales: Float32Array | null): InputStatistics {
    const statistics = new InputStatistics(this.#math, columns);
    const isFirst = command === this.#walker.layers[0]!.sites[0]!.command;
    const exact = this.#exact?.walkTo(command, [command]);
    for (const { inputs, stride, numTokens } of this.#walker.walkTo(command, [command])) {
      // The exact model has the first windows only.
      const other = exact?.next().value;
      const known = other === undefined || isFirst ? null : { inputs: other.inputs, scales };
      statistics.add(inputs, stride, numTokens, known);
    }
    exact?.next();
    return statistics;
  }

  #gptq(site: LinearSite) {
    const { label } = site;
    using statistics = this.#moveTo(site, null);
    using weights = this.#read(site);
    const { order, damping } = { ...GPTQ_DEFAULTS, ...this.#options.gptq };
    const scheme = this.#options.schemeOf(label);
    this.#align(weights, statistics);
    const result = gptq(this.#math, weights, statistics, label, { scheme, order, damping });
    this.#put(site, result.matrix);
    const note =
      result.damping === null
        ? 'rounded to nearest: the moments of its inputs could not be factored'
        : result.damping > damping
          ? `damping ${result.damping.toFixed(2)}`
          : null;
    return { label, matrix: result.matrix, relativeError: result.relativeError, note };
  }

  #awq(layer: WalkedLayer): LayerState {
    const math = this.#math;
    const statistics = this.#statistics(layer.sites);
    const visits = new Map(
      layer.sites.map((site): [number, InputVisitor] => [
        site.command,
        (inputs, stride, numTokens) => statistics.get(site)!.add(inputs, stride, numTokens),
      ]),
    );
    this.#walker.moveTo(layer.sites.at(-1)!.command, visits, { keep: false });
    const weights = new Map(layer.sites.map((site) => [site, this.#read(site)]));
    const scalesOf = new Map<LinearSite, Float32Array>();
    const vectors = new Map<string, Float32Array>();
    for (const site of layer.sites) {
      const before = this.#beforeOf(layer, site);
      if (before === null) continue;
      const scheme = this.#options.schemeOf(site.label);
      const { scales } = searchScales(
        ...([
          math,
          weights.get(site)!,
          statistics.get(site)!,
          scheme,
          site.label,
          before.tie,
        ] as const),
      );
      scalesOf.set(site, scales);
      for (const [name, values] of before.fold(scales, weights)) vectors.set(name, values);
    }
    for (const [name, values] of vectors) this.#replaceVector(name, values);
    for (const each of statistics.values()) each[Symbol.dispose]();
    const sites = layer.sites.map((site) => {
      const w = weights.get(site)!;
      const scales = scalesOf.get(site) ?? null;
      using statistics = this.#moveTo(site, scales);
      if (scales !== null) scaleInputs(w, scales);
      this.#align(w, statistics);
      const moments = statistics.moments();
      const { columns, label } = site;
      const scheme = this.#options.schemeOf(label);
      const groupSize = scheme.groupSize === 'row' ? columns : scheme.groupSize;
      const rounder = new NearestRounder(scheme, groupSize);
      const grid = searchRanges(math, w, moments, rounder, scheme);
      const matrix = rounder.quantize(w, columns, grid);
      using sample = new RowSample(math, w);
      const relativeError = sample.relativeError(matrix, moments);
      this.#put(site, matrix);
      return { label, matrix, relativeError, note: null };
    });
    for (const each of weights.values()) each[Symbol.dispose]();
    return { sites, vectors };
  }

  #align(weights: Matrix, statistics: InputStatistics): void {
    const drift = statistics.drift();
    if (drift === null) return;
    alignToExact(this.#math, weights, drift, { strength: this.#alignment });
  }

  #replaceVector(name: string, values: Float32Array): void {
    this.#options.weights.replace(name, values);
    this.#vectors.set(name, values);
    for (const [index, weight] of this.#walker.plan.weights.entries()) {
      if (weight.ref.parts.some(({ tensor }) => tensor === name)) this.#walker.reload(index);
    }
  }

  /** What stands before a linear and can take up the inverse of its scales; null where nothing can. */
  #beforeOf(layer: WalkedLayer, site: LinearSite): Before | null {
    const { config } = this.#options;
    const norm = normBefore(this.#walker, this.#options.weights, site);
    if (norm !== null) {
      return { tie: null, fold: (scales) => new Map([[norm.tensor, norm.divided(scales)]]) };
    }
    const at = layer.sites.indexOf(site);
    const previous = layer.sites[at - 1];
    if (previous === undefined) return null;
    if (
      site.label.endsWith('down_proj') &&
      !config.biases.mlp &&
      previous.rows === 2 * site.columns
    ) {
      return rowsBefore(previous, site.columns, (i) => i, null);
    }
    const { numHeads, numKvHeads, headDim } = config;
    const valuesAt = (numHeads + numKvHeads) * headDim;
    const isAttention = site.label.endsWith('o_proj') && site.columns === numHeads * headDim;
    if (isAttention && !config.biases.qkv && previous.rows === valuesAt + numKvHeads * headDim) {
      // Query heads that share a KV head share its values, and so their scales.
      const shared = numHeads / numKvHeads;
      const valueRow = (i: number): number =>
        Math.floor(i / headDim / shared) * headDim + (i % headDim);
      const tie = Uint32Array.from({ length: site.columns }, (_, i) => valueRow(i));
      return rowsBefore(previous, valuesAt, valueRow, tie);
    }
    return null;
  }
}

interface Before {
  /** Inputs that must share a scale. */
  readonly tie: Uint32Array | null;
  /** Divides what stands before; gives the vectors that change. Matrices are changed in `weights`. */
  fold(
    scales: Float32Array,
    weights: ReadonlyMap<LinearSite, Matrix>,
  ): ReadonlyMap<string, Float32Array>;
}

/** Rows of the linear before, from `first`: input i of the linear comes from row `first + rowOf(i)`. */
function rowsBefore(
  previous: LinearSite,
  first: number,
  rowOf: (input: number) => number,
  tie: Uint32Array | null,
): Before {
  return {
    tie,
    fold(scales, weights) {
      const matrix = weights.get(previous)!;
      const done = new Set<number>();
      for (let i = 0; i < scales.length; i++) {
        const row = first + rowOf(i);
        if (done.has(row)) continue;
        done.add(row);
        const at = row * matrix.stride;
        for (let j = 0; j < previous.columns; j++) matrix.values[at + j]! /= scales[i]!;
      }
      return new Map();
    },
  };
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
