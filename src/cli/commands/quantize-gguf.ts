import { basename, resolve } from 'node:path';
import { allocationPage, placeOf } from '../../app/allocation-page.ts';
import { convertedToGguf } from '../../app/convert-to-gguf.ts';
import { OpenedModel } from '../../app/open-model.ts';
import type { FileTypeName } from '../../compress/ggml-recipe.ts';
import { readImatrix } from '../../compress/imatrix.ts';
import { mixModel, removeProbes } from '../../compress/mix-model.ts';
import { MIXED_FORMATS, type MixedPlan } from '../../compress/mixed-precision.ts';
import {
  type QuantizeModelOptions,
  type QuantizeReport,
  quantizeModel,
} from '../../compress/quantize-model.ts';
import { writeFileAtomic } from '../../platform/atomic-file.ts';
import { calibrationWindowsOf, gatherImatrix, windowOf } from '../calibration.ts';
import { UsageError } from '../errors.ts';
import { findModelWithProgress } from '../model-command.ts';
import { formatBytes, formatSeconds, formatTable, note, printJson, printLine } from '../output.ts';
import { ProgressReporter } from '../progress.ts';
import type { QuantizeFlags } from './quantize-flags.ts';

export async function toGguf(
  spec: string,
  flags: QuantizeFlags,
  fileType: FileTypeName,
  signal: AbortSignal,
): Promise<void> {
  const { path, output } = await ggufPaths(spec, flags, signal);
  using model = new OpenedModel(path);
  const startMs = performance.now();
  const imatrix = await imatrixOf(model, flags, signal);
  const converted = convertedToGguf(model);
  using progress = new ProgressReporter();
  const report = await quantizeModel(path, model.description.config, output, {
    types: fileType,
    ...(converted && { converted }),
    ...(imatrix && { imatrix }),
    ...writing(flags, signal, progress),
  });
  progress[Symbol.dispose]();
  const seconds = (performance.now() - startMs) / 1000;
  if (flags.json) await printJson({ ...report, seconds, output });
  else await printReport(report, output, seconds);
}

/** How a file is written, whatever its types. */
function writing(
  { threads }: QuantizeFlags,
  signal: AbortSignal,
  progress: ProgressReporter,
): Omit<QuantizeModelOptions, 'types'> {
  return {
    ...(threads !== undefined && { threads }),
    signal,
    onProgress: (done, total) =>
      progress.update({ label: 'quantizing', done, total, unit: 'bytes' }),
  };
}

/** The model, and where the GGUF file made of it is to be. */
async function ggufPaths(
  spec: string,
  flags: QuantizeFlags,
  signal: AbortSignal,
): Promise<{ path: string; output: string }> {
  if (!flags.output.endsWith('.gguf')) {
    throw new UsageError(`--output ${flags.output}: expected a name that ends in .gguf`);
  }
  const { path } = await findModelWithProgress(spec, { offline: flags.offline, signal });
  const output = resolve(flags.output);
  if (output === resolve(path)) throw new UsageError('--output names the model itself');
  return { path, output };
}

export async function toMixedGguf(
  spec: string,
  flags: QuantizeFlags,
  signal: AbortSignal,
): Promise<void> {
  const { path, output } = await ggufPaths(spec, flags, signal);
  const { targetBpw, targetSize, searchTokens, threads } = flags;
  using model = new OpenedModel(path);
  const startMs = performance.now();
  const imatrix = await imatrixOf(model, flags, signal);
  const converted = convertedToGguf(model);
  const window = Math.min(windowOf(model, flags.window), 256, searchTokens);
  const windows = await calibrationWindowsOf(model, { ...flags, tokens: searchTokens, window });
  const stateFile = `${output}.search.json`;
  using progress = new ProgressReporter();
  const plan = await mixModel(path, model.description, {
    target:
      targetBpw === undefined
        ? { kind: 'size', bytes: targetSize! }
        : { kind: 'bpw', bitsPerWeight: targetBpw },
    ...{ formats: flags.formats ?? MIXED_FORMATS, windows, stateFile, signal },
    importance: imatrix?.importance,
    ...(converted && { converted }),
    threads: threads ?? 'auto',
    onProgress: (phase, done, total) =>
      progress.update({ label: phase, done, total, unit: 'items' }),
  });
  const report = await quantizeModel(path, model.description.config, output, {
    types: new Map(plan.tensors.map(({ name, dtype }) => [name, dtype])),
    ...(converted && { converted }),
    ...(imatrix && { imatrix }),
    ...writing(flags, signal, progress),
  });
  progress[Symbol.dispose]();
  const chart = resolve(flags.chart ?? `${output}.html`);
  await writeFileAtomic(chart, allocationPage(basename(output), plan));
  removeProbes(stateFile);
  const seconds = (performance.now() - startMs) / 1000;
  if (flags.json) {
    await printJson({ ...report, ...plan, seconds, output, chart });
    return;
  }
  note(allocationTable(plan));
  note(`chart: ${chart}`);
  await printReport(report, output, seconds);
}

/** Layers downwards, their tensors across. */
function allocationTable({ tensors, predictedLoss }: MixedPlan): string {
  const placed = tensors.map((tensor) => ({ ...tensor, ...placeOf(tensor.name) }));
  const parts = [...new Set(placed.filter((t) => t.layer !== null).map((t) => t.part))];
  const layers = [...new Set(placed.map((t) => t.layer))].sort((a, b) => (a ?? -1) - (b ?? -1));
  const rows = layers.map((layer) => {
    const own = placed.filter((t) => t.layer === layer);
    const loss = own.reduce((sum, t) => sum + t.loss, 0);
    const bits = own.reduce((sum, t) => sum + 8 * t.bytes, 0);
    const elements = own.reduce((sum, t) => sum + t.elements, 0);
    const types =
      layer === null
        ? [own.map((t) => `${t.part} ${t.dtype}`).join(', ')]
        : parts.map((part) => own.find((t) => t.part === part)?.dtype ?? '');
    return [`${layer ?? '–'}`, (bits / elements).toFixed(2), loss.toExponential(1), ...types];
  });
  const header = ['layer', 'bits', 'predicted KL', ...parts];
  return `${formatTable(header, rows)}\npredicted KL divergence: ${predictedLoss.toPrecision(3)} in all`;
}

/** The importance that was asked for: of a file, or gathered now. */
async function imatrixOf(
  model: OpenedModel,
  flags: QuantizeFlags,
  signal: AbortSignal,
): Promise<QuantizeModelOptions['imatrix'] | undefined> {
  if (flags.imatrix === undefined) return undefined;
  if (flags.imatrix !== 'auto') {
    return { file: flags.imatrix, ...readImatrix(resolve(flags.imatrix)) };
  }
  return { file: 'auto', ...(await gatherImatrix(model, flags, signal)) };
}

async function printReport(
  { sizeBytes, bitsPerWeight, typeCounts }: QuantizeReport,
  output: string,
  seconds: number,
): Promise<void> {
  const types = Object.entries(typeCounts).map(([type, count]) => `${count} ${type}`);
  note(`${types.join(', ')}; ${bitsPerWeight.toFixed(2)} bits per weight`);
  note(`${formatBytes(sizeBytes)} in ${formatSeconds(seconds)}`);
  await printLine(output);
}
