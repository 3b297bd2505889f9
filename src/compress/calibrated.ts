/**
 * Compresses the linears of a model with the help of a calibration text, layer by layer: what a layer sees is what the compressed layers before it make.
 *
 *     gptq       each linear of a layer in turn: run up to it, gather its inputs, round it, go on with the rounded weights
 *     awq        gather the inputs of all linears of a layer and find their scales; then each in turn as with gptq, but clip it and round to nearest
 *     autoround  as gptq, but rounding is learned and then settled
 *     rtn        rounds to nearest, without running anything
 *
 * Beside the compressed model the exact one is walked through the same text: linears are aligned to what it gives (align-to-exact.ts).
 *
 * A layer that is done can be kept in a state folder; a later call with the same fingerprint goes on after it.
 */
import type { ModelConfig } from '../models/model-config.ts';
import { ALIGNED_TOKENS, ALIGNMENT } from './align-to-exact.ts';
import { AUTOROUND_DEFAULTS, type AutoroundOptions, autoround } from './autoround.ts';
import { awqLayer } from './awq-layer.ts';
import { CalibrationRun } from './calibration-run.ts';
import type { CompressionState, LayerState, SiteState } from './compression-state.ts';
import { CompressError } from './errors.ts';
import type { F32Weights } from './f32-weights.ts';
import { GPTQ_DEFAULTS, type GptqOptions, gptq } from './gptq.ts';
import { type GroupScheme, type QuantizedMatrix, resolveGroupSize } from './group-quantizer.ts';
import { LayerWalker, type LinearSite, type WalkedLayer } from './layer-walker.ts';
import { MatrixMath } from './matrix-math.ts';
import { matrixRows, matrixShape } from './matrix-rows.ts';
import { quantizeToNearest } from './nearest-rounder.ts';

export const METHODS = ['rtn', 'gptq', 'awq', 'autoround'] as const;
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
  readonly autoround?: Partial<Pick<AutoroundOptions, 'iterations'>>;
  /** 0 to 1: how much of what earlier layers' errors did to a linear's outputs is made good; 0 saves the walk of the exact model. */
  readonly alignment?: number;
  readonly threads: number | 'auto';
  readonly state?: CompressionState;
  onLayer?(report: LayerReport): void;
  /** Linears. */
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
  const run = new CalibrationRun({ weights: options.weights, math, walker, exact, alignment });
  return await new LayerCompressor(options, run).all();
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
  readonly #run: CalibrationRun;

  constructor(options: CalibratedOptions, run: CalibrationRun) {
    this.#options = options;
    this.#run = run;
  }

  async all(): Promise<CompressedModel> {
    const { layers } = this.#run.walker;
    const { method, state, onLayer, onStep, signal } = this.#options;
    const reports: LayerReport[] = [];
    const numLinears = layers.reduce((sum, { sites }) => sum + sites.length, 0);
    let numDone = 0;
    const step = async (done: number): Promise<void> => {
      numDone += done;
      onStep?.(numDone, numLinears);
      // Lets Ctrl-C and the bar through.
      await new Promise((resolve) => setImmediate(resolve));
      signal?.throwIfAborted();
    };
    await step(0);
    for (const layer of layers) {
      const startMs = performance.now();
      const kept = await state?.load(layer.index);
      const done = kept ?? (await this.#layer(layer, () => step(1)));
      if (kept === undefined) await state?.save(layer.index, done);
      else {
        this.#takeKept(layer, kept);
        await step(layer.sites.length);
      }
      const sites = done.sites.map(
        ({ label, relativeError, note }): SiteReport => ({ label, relativeError, note }),
      );
      if (method !== 'rtn') this.#run.moveTo(layer.end);
      this.#dropValues(layer);
      const seconds = (performance.now() - startMs) / 1000;
      const report = {
        ...{ layer: layer.index, numLayers: layers.length, seconds },
        ...{ wasKept: kept !== undefined, sites },
      };
      reports.push(report);
      onLayer?.(report);
    }
    const { matrices, vectors } = this.#run;
    return { matrices, vectors, layers: reports };
  }

  /** @param onSite is waited for after each linear */
  async #layer(layer: WalkedLayer, onSite: () => Promise<void>): Promise<LayerState> {
    const { method } = this.#options;
    if (method === 'awq') return await awqLayer(this.#run, layer, { ...this.#options, onSite });
    const sites: SiteState[] = [];
    for (const site of layer.sites) {
      sites.push(this.#site(site, method));
      await onSite();
    }
    return { sites, vectors: new Map() };
  }

  #site(site: LinearSite, method: Exclude<Method, 'awq'>): SiteState {
    switch (method) {
      case 'rtn':
        return this.#roundToNearest(site);
      case 'gptq':
        return this.#gptq(site);
      case 'autoround':
        return this.#autoround(site);
      default:
        return method satisfies never;
    }
  }

  /** A layer that has been passed needs its codes only. */
  #dropValues(layer: WalkedLayer): void {
    const { weights } = this.#options;
    for (const { tensor } of layer.sites.flatMap(({ parts }) => parts)) {
      const matrix = this.#run.matrices.get(tensor);
      if (matrix?.rows === matrixShape(weights, tensor).rows)
        weights.replaceByCodes(tensor, matrix);
    }
  }

  #takeKept(layer: WalkedLayer, { sites, vectors }: LayerState): void {
    for (const [name, values] of vectors) this.#run.replaceVector(name, values);
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
      this.#run.put(site, kept.matrix);
    }
  }

  #roundToNearest(site: LinearSite): SiteState {
    using weights = this.#run.read(site);
    const { label } = site;
    const scheme = this.#options.schemeOf(label);
    const matrix = quantizeToNearest(this.#run.math, weights, scheme, label);
    this.#run.put(site, matrix);
    return { label, matrix, relativeError: null, note: null };
  }

  #gptq(site: LinearSite): SiteState {
    const { order, damping } = { ...GPTQ_DEFAULTS, ...this.#options.gptq };
    const { label } = site;
    const scheme = this.#options.schemeOf(label);
    return this.#run.round(site, (weights, statistics) => {
      const options = { scheme, order, damping };
      const result = gptq(this.#run.math, weights, statistics, label, options);
      const note =
        result.damping === null
          ? 'rounded to nearest: the moments of its inputs could not be factored'
          : result.damping > damping
            ? `damping ${result.damping.toFixed(2)}`
            : null;
      return { matrix: result.matrix, relativeError: result.relativeError, note };
    });
  }

  #autoround(site: LinearSite): SiteState {
    const { iterations } = { ...AUTOROUND_DEFAULTS, ...this.#options.autoround };
    const scheme = this.#options.schemeOf(site.label);
    return this.#run.round(site, (weights, statistics) => {
      const options = { scheme, iterations };
      const rounded = autoround(this.#run.math, weights, statistics, site.label, options);
      return { ...rounded, note: null };
    });
  }
}
