/** AWQ on a layer of a calibration run: which operation before a linear takes up the inverse of its scales, and in which order scales are folded and linears rounded. */
import type { ModelConfig } from '../models/model-config.ts';
import { searchScales } from './awq.ts';
import type { CalibrationRun } from './calibration-run.ts';
import type { LayerState, SiteState } from './compression-state.ts';
import { type GroupScheme, resolveGroupSize } from './group-quantizer.ts';
import { InputStatistics } from './input-statistics.ts';
import type { InputVisitor, LinearSite, WalkedLayer } from './layer-walker.ts';
import type { Matrix } from './matrix-math.ts';
import { NearestRounder } from './nearest-rounder.ts';
import { normBefore } from './norm-before.ts';
import { RowSample } from './output-error.ts';
import { searchRanges } from './range-search.ts';

export interface AwqLayerOptions {
  readonly config: ModelConfig;
  /** Of each linear. */
  schemeOf(label: string): GroupScheme;
  /** Waited for after each linear. */
  onSite(): Promise<void>;
}

/** Scales of all linears from one look at their inputs; then each in turn is clipped and rounded to nearest. */
export async function awqLayer(
  run: CalibrationRun,
  layer: WalkedLayer,
  { config, schemeOf, onSite }: AwqLayerOptions,
): Promise<LayerState> {
  const { math } = run;
  const statistics = inputsOf(run, layer);
  const weights = new Map(layer.sites.map((site) => [site, run.read(site)]));
  const scalesOf = new Map<LinearSite, Float32Array>();
  const vectors = new Map<string, Float32Array>();
  for (const site of layer.sites) {
    const before = beforeOf(run, config, layer, site);
    if (before === null) continue;
    const scheme = schemeOf(site.label);
    const w = weights.get(site)!;
    const { scales } = searchScales(math, w, statistics.get(site)!, scheme, site.label, before.tie);
    scalesOf.set(site, scales);
    for (const [name, values] of before.fold(scales, weights)) vectors.set(name, values);
  }
  for (const [name, values] of vectors) run.replaceVector(name, values);
  for (const each of statistics.values()) each[Symbol.dispose]();
  const sites: SiteState[] = [];
  for (const site of layer.sites) {
    const scaled = { weights: weights.get(site)!, scales: scalesOf.get(site) ?? null };
    const scheme = schemeOf(site.label);
    const groupSize = resolveGroupSize(scheme, site.columns, site.label);
    using rounder = new NearestRounder(math, scheme, groupSize);
    const rounded = run.round(
      site,
      (w, inputs) => {
        const moments = inputs.moments();
        const grid = searchRanges(math, w, moments, rounder, scheme);
        const matrix = rounder.quantize(w, site.columns, grid);
        using sample = new RowSample(math, w);
        return { matrix, relativeError: sample.relativeError(matrix, moments), note: null };
      },
      scaled,
    );
    sites.push(rounded);
    await onSite();
  }
  for (const each of weights.values()) each[Symbol.dispose]();
  return { sites, vectors };
}

/** Runs through a layer as it is, and stays before it. */
function inputsOf(run: CalibrationRun, layer: WalkedLayer): Map<LinearSite, InputStatistics> {
  const statistics = new Map(
    layer.sites.map((site) => [site, new InputStatistics(run.math, site.columns)]),
  );
  const visits = new Map(
    layer.sites.map((site): [number, InputVisitor] => [
      site.command,
      (inputs, stride, numTokens) => statistics.get(site)!.add(inputs, stride, numTokens),
    ]),
  );
  run.walker.moveTo(layer.sites.at(-1)!.command, visits, { keep: false });
  return statistics;
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

/** What stands before a linear and can take up the inverse of its scales; null where nothing can. */
function beforeOf(
  run: CalibrationRun,
  config: ModelConfig,
  layer: WalkedLayer,
  site: LinearSite,
): Before | null {
  const norm = normBefore(run.walker, run.weights, site);
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
