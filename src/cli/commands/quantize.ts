/** `hasten quantize`: a smaller model from a model. */
import { existsSync, statSync } from 'node:fs';
import { basename, resolve } from 'node:path';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { allocationPage, placeOf } from '../../app/allocation-page.ts';
import { convertedToGguf } from '../../app/convert-to-gguf.ts';
import { OpenedModel } from '../../app/open-model.ts';
import { ALIGNMENT } from '../../compress/align-to-exact.ts';
import { AUTOROUND_DEFAULTS } from '../../compress/autoround.ts';
import { compressLinears, METHODS, type Method } from '../../compress/calibrated.ts';
import { CompressionState, fingerprintOf } from '../../compress/compression-state.ts';
import { CompressError } from '../../compress/errors.ts';
import { F32Weights } from '../../compress/f32-weights.ts';
import { FILE_TYPE_NAMES, type FileTypeName } from '../../compress/ggml-recipe.ts';
import { SYMMETRIES, type Symmetry } from '../../compress/group-quantizer.ts';
import { checkFitsLayout } from '../../compress/hf-layout-check.ts';
import { readImatrix } from '../../compress/imatrix.ts';
import { mixModel, removeProbes } from '../../compress/mix-model.ts';
import { MIXED_FORMATS, type MixedFormat, type MixedPlan } from '../../compress/mixed-precision.ts';
import { findOutlierColumns } from '../../compress/outlier-columns.ts';
import {
  type QuantizeModelOptions,
  type QuantizeReport,
  quantizeModel,
} from '../../compress/quantize-model.ts';
import { smoothInputs } from '../../compress/smooth-quant.ts';
import { HF_LAYOUTS, type HfLayout, writeHfModel } from '../../compress/write-hf.ts';
import {
  ROUNDED_LAYOUTS,
  type RoundedLayout,
  type RoundOptions,
  writeRoundedModel,
} from '../../compress/write-rounded.ts';
import { writeFileAtomic } from '../../platform/atomic-file.ts';
import {
  addCalibrationOptions,
  type CalibrationFlags,
  calibrationWindowsOf,
  gatherImatrix,
  windowOf,
} from '../calibration.ts';
import { diskFull } from '../disk-full.ts';
import { InterruptedError, UsageError } from '../errors.ts';
import { InterruptHandler } from '../interrupt.ts';
import { findModelWithProgress } from '../model-command.ts';
import { addOfflineOption, parseBytes, parseCount, parseInteger, parseNumber } from '../options.ts';
import { formatBytes, formatSeconds, formatTable, note, printJson, printLine } from '../output.ts';
import { ProgressReporter } from '../progress.ts';
import { type QuantizeWay, uselessOption } from './quantize-options.ts';

const TARGETS = [...FILE_TYPE_NAMES, ...HF_LAYOUTS, ...ROUNDED_LAYOUTS];
type TargetName = FileTypeName | HfLayout | RoundedLayout;

interface QuantizeFlags extends CalibrationFlags {
  readonly to?: TargetName;
  readonly targetBpw?: number;
  readonly targetSize?: number;
  readonly formats?: MixedFormat[];
  readonly searchTokens: number;
  readonly chart?: string;
  readonly output: string;
  readonly method?: Method | 'smoothquant' | 'llm-int8';
  readonly smoothingStrength: number;
  readonly outlierThreshold: number;
  readonly outlierShare: number;
  readonly iterations?: number;
  readonly bits: number;
  readonly groupSize: number | 'row';
  readonly symmetry: Symmetry;
  readonly imatrix?: string;
  readonly threads?: number;
  readonly offline: boolean;
  readonly json: boolean;
}

export function define(command: Command): void {
  addCalibrationOptions(addOfflineOption(command))
    .argument('<model>', 'a path, an alias or any form that pull takes')
    .option('--to <type>', `${TARGETS.join(', ')}`, parseType)
    .requiredOption(
      '-o, --output <path>',
      'the new GGUF file, or folder for the layouts of Hugging Face',
    )
    .addOption(
      new Option('--method <name>', 'how codes are chosen; gptq where there is a choice').choices([
        ...METHODS,
        'smoothquant',
        'llm-int8',
      ]),
    )
    .option(
      '--smoothing-strength <x>',
      'how much smoothquant moves, 0 (nothing) to 1',
      parseNumber(0, 1),
      0.5,
    )
    .option(
      '--outlier-threshold <x>',
      'llm-int8 keeps input columns with any |x| of at least this in 16 bits',
      parseNumber(0.001, 1e6),
      6,
    )
    .option(
      '--outlier-share <x>',
      'at most this share of the columns of a linear, the largest first',
      parseNumber(0.001, 1),
      0.03,
    )
    .option(
      '--iterations <n>',
      `steps of --method autoround; ${AUTOROUND_DEFAULTS.iterations} by default`,
      parseInteger(0),
    )
    .option('--bits <n>', 'bits of a code', parseInteger(2), 4)
    .option('--group-size <n>', 'inputs that share a scale, or row', parseGroupSize, 128)
    .addOption(
      new Option('--symmetry <name>', 'where scales and zero points come from')
        .choices(SYMMETRIES)
        .default('asymmetric'),
    )
    .option(
      '--imatrix <file>',
      "importance matrix for a GGUF type, llama.cpp's or ours; auto makes one",
    )
    .option(
      '--target-bpw <x>',
      'a GGUF type for each tensor, so many bits per weight in all',
      parseNumber(1, 16),
    )
    .option(
      '--target-size <size>',
      'likewise, a file of at most this size, such as 100MB',
      parseBytes,
    )
    .option(
      '--formats <list>',
      `types for --target-…, of ${MIXED_FORMATS.join(', ')}`,
      parseFormats,
    )
    .option(
      '--search-tokens <n>',
      'tokens that --target-… compares predictions on',
      parseCount,
      512,
    )
    .option('--chart <file>', 'where --target-… draws its choice; OUTPUT.html by default')
    .option('-t, --threads <n>', 'compute threads', parseInteger(1))
    .option('--json', 'print one JSON object', false)
    .addHelpText(
      'after',
      `
Types that end in _s, _m and _l give more bits to the tensors that llama.cpp gives more to. A row that
is no multiple of 256 takes the nearest type with blocks of 32. Weights that are quantized already
are dequantized first, and lose a little more. A Hugging Face folder (Llama, Qwen2, Qwen3, Gemma 3,
GLM) is converted on the way, also to f16 or bf16. --imatrix auto runs the calibration text first.

--target-bpw and --target-size choose a type for each tensor: they measure how predictions change with one
tensor rounded at a time and spend bits where they save most. A search that was interrupted goes on.

--to nf4, fp4 and int8 (bitsandbytes) and w8a8 (compressed-tensors int-quantized) write a Hugging Face
folder of a model that is one, rounded to nearest; for w8a8 and int8 --method smoothquant first moves
outliers of the activations into the weights, for int8 --method llm-int8 keeps their columns in 16 bits.

--to gptq, awq and compressed-tensors write a Hugging Face folder in that layout, of a model that is one,
with --method, --bits, --group-size and --symmetry. --method autoround takes longer, and pays at 3 bits.
A run that was interrupted goes on where it was.

Examples:
  $ hasten quantize ./llama --to gptq --bits 4 --group-size 128 -o ./llama-gptq
  $ hasten quantize ./llama --to compressed-tensors --method autoround --bits 3 -o ./llama-3bit
  $ hasten quantize ./llama --to nf4 -o ./llama-nf4
  $ hasten quantize ./llama --to int8 --method llm-int8 -o ./llama-int8
  $ hasten quantize ./llama --target-bpw 4.8 -o llama-mixed.gguf
  $ hasten quantize gemma3-270m --to q4_k_m --imatrix auto -o gemma3-270m-q4_k_m.gguf
`,
    )
    .action(quantize);
}

async function quantize(spec: string, flags: QuantizeFlags, command: Command): Promise<void> {
  using interrupts = new InterruptHandler();
  const { signal } = interrupts;
  const { to, targetBpw, targetSize } = flags;
  const numAsked = [to, targetBpw, targetSize].filter((each) => each !== undefined).length;
  if (numAsked !== 1) {
    throw new UsageError('give one of --to, --target-bpw and --target-size');
  }
  const given = Object.keys(flags).filter((name) => command.getOptionValueSource(name) === 'cli');
  const useless = uselessOption({ ...flags, way: wayOf(to) }, given);
  if (useless !== null) throw new UsageError(useless);
  try {
    if (to === undefined) await toMixedGguf(spec, flags, signal);
    else if (isHfLayout(to)) await calibrate(spec, flags, to, signal);
    else if (isRoundedLayout(to)) await round(spec, flags, to, signal);
    else await toGguf(spec, flags, to, signal);
  } catch (error) {
    const output = resolve(flags.output);
    const kept = keptBeside(output);
    if (error instanceof InterruptedError && kept !== '') note(`interrupted: ${kept}`);
    throw diskFull(error, output, kept);
  }
}

function wayOf(to: TargetName | undefined): QuantizeWay {
  if (to === undefined) return 'mixed';
  if (isHfLayout(to)) return 'grouped';
  return isRoundedLayout(to) ? 'rounded' : 'gguf';
}

async function toGguf(
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
    ...(flags.threads !== undefined && { threads: flags.threads }),
    signal,
    onProgress: (done, total) =>
      progress.update({ label: 'quantizing', done, total, unit: 'bytes' }),
  });
  progress[Symbol.dispose]();
  const seconds = (performance.now() - startMs) / 1000;
  if (flags.json) await printJson({ ...report, seconds, output });
  else await printReport(report, output, seconds);
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

async function toMixedGguf(spec: string, flags: QuantizeFlags, signal: AbortSignal): Promise<void> {
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
    ...(flags.threads !== undefined && { threads: flags.threads }),
    signal,
    onProgress: (done, total) =>
      progress.update({ label: 'quantizing', done, total, unit: 'bytes' }),
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

/** Ways to choose what is rounded to nearest, by layout. */
const ROUNDED_METHODS: Readonly<Record<RoundedLayout, readonly string[]>> = {
  nf4: ['rtn'],
  fp4: ['rtn'],
  int8: ['rtn', 'smoothquant', 'llm-int8'],
  w8a8: ['rtn', 'smoothquant'],
};

/** A Hugging Face folder rounded to nearest. */
async function round(
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

/** Compresses a Hugging Face folder with a calibration text and writes it in another toolkit's layout. */
async function calibrate(
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

/** What the same command goes on with after it has failed. */
function keptBeside(output: string): string {
  const isKept = [`${output}.state`, `${output}.search.json`].some((path) => existsSync(path));
  return isKept
    ? `what was calibrated or measured so far is kept beside ${output}, and the same command goes on after it`
    : '';
}

function isRoundedLayout(name: TargetName): name is RoundedLayout {
  return (ROUNDED_LAYOUTS as readonly string[]).includes(name);
}

function isHfLayout(name: TargetName): name is HfLayout {
  return (HF_LAYOUTS as readonly string[]).includes(name);
}

function parseType(text: string): TargetName {
  const name = text.toLowerCase();
  if ((TARGETS as readonly string[]).includes(name)) return name as TargetName;
  throw new InvalidArgumentError(`Expected one of ${TARGETS.join(', ')}.`);
}

function parseFormats(text: string): MixedFormat[] {
  return text.split(',').map((name) => {
    const dtype = MIXED_FORMATS.find((each) => each === name.trim().toLowerCase());
    if (dtype === undefined) {
      throw new InvalidArgumentError(`Expected some of ${MIXED_FORMATS.join(', ')}.`);
    }
    return dtype;
  });
}

function parseGroupSize(text: string): number | 'row' {
  return text === 'row' ? text : parseInteger(1)(text);
}
