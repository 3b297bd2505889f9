/** `hasten quantize` to a Hugging Face folder in another toolkit's layout: rounded to nearest, or calibrated. */
import { existsSync, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { OpenedModel } from '../../app/open-model.ts';
import { ALIGNMENT } from '../../compress/align-to-exact.ts';
import { AUTOROUND_DEFAULTS } from '../../compress/autoround.ts';
import { compressLinears } from '../../compress/calibrated.ts';
import { CompressionState, fingerprintOf } from '../../compress/compression-state.ts';
import { CompressError } from '../../compress/errors.ts';
import { F32Weights } from '../../compress/f32-weights.ts';
import { checkFitsLayout } from '../../compress/hf-layout-check.ts';
import { findOutlierColumns } from '../../compress/outlier-columns.ts';
import { smoothInputs } from '../../compress/smooth-quant.ts';
import { type HfLayout, writeHfModel } from '../../compress/write-hf.ts';
import {
  type RoundedLayout,
  type RoundOptions,
  writeRoundedModel,
} from '../../compress/write-rounded.ts';
import { calibrationWindowsOf } from '../calibration.ts';
import { UsageError } from '../errors.ts';
import { findModelWithProgress } from '../model-command.ts';
import { formatBytes, formatSeconds, note, printJson, printLine } from '../output.ts';
import { ProgressReporter } from '../progress.ts';
import type { QuantizeFlags } from './quantize-flags.ts';

/** Ways to choose what is rounded to nearest, by layout. */
const ROUNDED_METHODS: Readonly<Record<RoundedLayout, readonly string[]>> = {
  nf4: ['rtn'],
  fp4: ['rtn'],
  int8: ['rtn', 'smoothquant', 'llm-int8'],
  w8a8: ['rtn', 'smoothquant'],
};

/** A Hugging Face folder rounded to nearest. */
export async function roundFolder(
  spec: string,
  flags: QuantizeFlags,
  layout: RoundedLayout,
  signal: AbortSignal,
): Promise<void> {
  const { path } = await findModelWithProgress(spec, { offline: flags.offline, signal });
  const output = resolve(flags.output);
  if (existsSync(output)) throw new UsageError(`--output ${flags.output}: is there already`);
  const { method = 'rtn' } = flags;
  if (!ROUNDED_METHODS[layout].includes(method)) {
    const accepted = ROUNDED_METHODS[layout].join(', ');
    throw new UsageError(`--method ${method} is not for --to ${layout}; accepted: ${accepted}`);
  }
  const startMs = performance.now();
  const replaced = method === 'smoothquant' ? await smoothed(path, flags, signal) : undefined;
  const outliers = method === 'llm-int8' ? await outliersOf(path, flags, signal) : undefined;
  using progress = new ProgressReporter();
  const sizeBytes = await writeRoundedModel(path, layout, output, {
    ...(replaced && { replaced }),
    ...(outliers && { outliers }),
    signal,
    onProgress: (done, total) =>
      progress.update({ label: 'quantizing', done, total, unit: 'bytes' }),
  });
  progress[Symbol.dispose]();
  await printMade({ output, sizeBytes, seconds: (performance.now() - startMs) / 1000 }, flags);
}

async function smoothed(
  path: string,
  flags: QuantizeFlags,
  signal: AbortSignal,
): Promise<ReadonlyMap<string, Float32Array>> {
  using model = new OpenedModel(path);
  using progress = new ProgressReporter();
  return await smoothInputs({
    ...(await calibrationRun(model, flags)),
    ...{ strength: flags.smoothingStrength, signal },
    onProgress: (done, total) =>
      progress.update({ label: 'smoothing', done, total, unit: 'items' }),
  });
}

async function outliersOf(
  path: string,
  flags: QuantizeFlags,
  signal: AbortSignal,
): Promise<RoundOptions['outliers']> {
  using model = new OpenedModel(path);
  const { outlierThreshold: threshold, outlierShare: maxShare } = flags;
  using progress = new ProgressReporter();
  const columns = await findOutlierColumns({
    ...(await calibrationRun(model, flags)),
    ...{ threshold, maxShare, signal },
    onProgress: (done, total) =>
      progress.update({ label: 'finding outliers', done, total, unit: 'items' }),
  });
  return { threshold, columns };
}

/** What a walk through the calibration text takes. */
async function calibrationRun(model: OpenedModel, flags: QuantizeFlags) {
  const { config, weights } = model.description;
  const windows = await calibrationWindowsOf(model, flags);
  const threads = flags.threads ?? ('auto' as const);
  return { weights: new F32Weights(weights), config, windows, threads };
}

/** Compresses a Hugging Face folder with a calibration text and writes it in another toolkit's layout. */
export async function calibrateFolder(
  spec: string,
  flags: QuantizeFlags,
  layout: HfLayout,
  signal: AbortSignal,
): Promise<void> {
  const { path } = await findModelWithProgress(spec, { offline: flags.offline, signal });
  const { method = 'gptq', bits, groupSize, symmetry } = flags;
  if (method === 'smoothquant' || method === 'llm-int8') {
    throw new UsageError(`--method ${method} is not for --to ${layout}; int8 takes it`);
  }
  const { iterations = AUTOROUND_DEFAULTS.iterations } = flags;
  const threads = flags.threads ?? 'auto';
  using model = new OpenedModel(path);
  const { config, weights: source } = model.description;
  if (model.description.format !== 'safetensors') {
    throw new UsageError(
      `--to ${layout} is for models that are Hugging Face folders; ${spec} is a GGUF file`,
    );
  }
  const output = resolve(flags.output);
  if (existsSync(output)) throw new UsageError(`--output ${flags.output}: is there already`);
  // Nothing is run to round to nearest, so that any one token will do.
  const windows = method === 'rtn' ? [[0]] : await calibrationWindowsOf(model, flags);
  const scheme = { bits, groupSize, symmetry, searchesRange: method !== 'awq' };
  const files = source.files.map((file) => [file, statSync(file).size, statSync(file).mtimeMs]);
  const settings = {
    ...{ method, scheme, alignment: ALIGNMENT },
    ...(method === 'autoround' && { iterations }),
  };
  const fingerprint = fingerprintOf({ files, windows, ...settings });
  const state = new CompressionState(`${output}.state`, fingerprint);
  using progress = new ProgressReporter();
  const startMs = performance.now();
  const compressed = await compressLinears({
    ...{ weights: new F32Weights(source), config, windows, method, threads, state, signal },
    schemeOf: () => scheme,
    autoround: { iterations },
    checkMatrix: (tensor, shape) => checkFitsLayout(layout, tensor, shape),
    onStep: (done, total) => progress.update({ label: method, done, total, unit: 'items' }),
    onLayer: ({ layer, sites }) => {
      const worst = Math.max(...sites.map((site) => site.relativeError ?? 0));
      if (worst > 0)
        note(`layer ${layer}: relative error of outputs up to ${worst.toPrecision(3)}`);
    },
  }).catch((error: unknown) => {
    // The same run would be refused again: there is nothing to go on with.
    if (error instanceof CompressError) state.remove();
    throw error;
  });
  progress[Symbol.dispose]();
  const sizeBytes = await writeHfModel(path, compressed, layout, output);
  state.remove();
  const seconds = (performance.now() - startMs) / 1000;
  await printMade({ output, sizeBytes, seconds }, flags, { layers: compressed.layers });
}

async function printMade(
  made: { readonly output: string; readonly sizeBytes: number; readonly seconds: number },
  { json }: QuantizeFlags,
  details: object = {},
): Promise<void> {
  if (json) {
    await printJson({ ...made, ...details });
    return;
  }
  note(`${formatBytes(made.sizeBytes)} in ${formatSeconds(made.seconds)}`);
  await printLine(made.output);
}
