/** `hasten quantize`: a smaller model from a model. */
import { existsSync, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { OpenedModel } from '../../app/open-model.ts';
import { compressLinears, METHODS, type Method } from '../../compress/calibrated.ts';
import { CompressionState, fingerprintOf } from '../../compress/compression-state.ts';
import { CalibrationTooShortError, CompressError } from '../../compress/errors.ts';
import { F32Weights } from '../../compress/f32-weights.ts';
import { FILE_TYPE_NAMES, type FileTypeName, isFileTypeName } from '../../compress/ggml-recipe.ts';
import { SYMMETRIES, type Symmetry } from '../../compress/group-quantizer.ts';
import { checkFitsLayout } from '../../compress/hf-layout-check.ts';
import { type QuantizeReport, quantizeModel } from '../../compress/quantize-model.ts';
import { HF_LAYOUTS, type HfLayout, writeHfModel } from '../../compress/write-hf.ts';
import { asDiskError } from '../../hub/download.ts';
import { DiskSpaceError } from '../../hub/errors.ts';
import { CommandError, UsageError } from '../errors.ts';
import { InterruptHandler } from '../interrupt.ts';
import { findModelWithProgress } from '../model-command.ts';
import { addOfflineOption, parseCount, parseInteger, readTextFile } from '../options.ts';
import { formatBytes, formatSeconds, note, printJson, printLine } from '../output.ts';
import { ProgressReporter } from '../progress.ts';

const TARGETS = [...FILE_TYPE_NAMES, ...HF_LAYOUTS];
const BUILT_IN_TEXT = fileURLToPath(
  new URL('../../../assets/calibration/public-domain.txt', import.meta.url),
);

interface QuantizeFlags {
  readonly to: FileTypeName | HfLayout;
  readonly output: string;
  readonly method: Method;
  readonly bits: number;
  readonly groupSize: number | 'row';
  readonly symmetry: Symmetry;
  readonly calibration?: string;
  readonly tokens: number;
  readonly window: number;
  readonly threads?: number;
  readonly offline: boolean;
  readonly json: boolean;
}

export function define(command: Command): void {
  addOfflineOption(command)
    .argument('<model>', 'a path, an alias or any form that pull takes')
    .requiredOption('--to <type>', `${TARGETS.join(', ')}`, parseType)
    .requiredOption(
      '-o, --output <path>',
      'the new GGUF file, or folder for gptq, awq and compressed-tensors',
    )
    .addOption(
      new Option('--method <name>', 'how codes are chosen').choices(METHODS).default('gptq'),
    )
    .option('--bits <n>', 'bits of a code', parseInteger(2), 4)
    .option('--group-size <n>', 'inputs that share a scale, or row', parseGroupSize, 128)
    .addOption(
      new Option('--symmetry <name>', 'where scales and zero points come from')
        .choices(SYMMETRIES)
        .default('asymmetric'),
    )
    .option('--calibration <file>', 'text to calibrate with; a built-in one by default')
    .option('--tokens <n>', 'tokens of it (k = 1024)', parseCount, 32_768)
    .option('--window <n>', 'tokens of a window', parseCount, 512)
    .option('--threads <n>', 'compute threads', parseInteger(1))
    .option('--json', 'print one JSON object', false)
    .addHelpText(
      'after',
      `
Types that end in _s, _m and _l give more bits to the tensors that llama.cpp gives more to. A row that
is no multiple of 256 takes the nearest type with blocks of 32. Weights that are quantized already
are dequantized first, and lose a little more.

--to gptq, awq and compressed-tensors write a Hugging Face folder in that layout, of a model that is one,
with --method, --bits, --group-size and --symmetry. A run that was interrupted goes on where it was.

Examples:
  $ hasten quantize ./llama --to gptq --bits 4 --group-size 128 -o ./llama-gptq
  $ hasten quantize gemma3-270m --to q4_k_m -o gemma3-270m-q4_k_m.gguf
`,
    )
    .action(quantize);
}

async function quantize(spec: string, flags: QuantizeFlags): Promise<void> {
  using interrupts = new InterruptHandler();
  const { signal } = interrupts;
  if (isHfLayout(flags.to)) {
    await calibrate(spec, flags, flags.to, signal);
    return;
  }
  if (!flags.output.endsWith('.gguf')) {
    throw new UsageError(`--output ${flags.output}: expected a name that ends in .gguf`);
  }
  const { path } = await findModelWithProgress(spec, { offline: flags.offline, signal });
  const output = resolve(flags.output);
  if (output === resolve(path)) throw new UsageError('--output names the model itself');
  using model = new OpenedModel(path);
  const startMs = performance.now();
  using progress = new ProgressReporter();
  const report = await quantizeModel(path, model.description.config, output, {
    fileType: flags.to,
    signal,
    onProgress: (done, total) =>
      progress.update({ label: 'quantizing', done, total, unit: 'bytes' }),
  }).catch((error: unknown) => {
    throw diskFull(error, output);
  });
  progress[Symbol.dispose]();
  const seconds = (performance.now() - startMs) / 1000;
  if (flags.json) await printJson({ ...report, seconds, output });
  else await printReport(report, output, seconds);
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
  const { method, bits, groupSize, symmetry, tokens, window } = flags;
  const threads = flags.threads ?? 'auto';
  using model = new OpenedModel(path);
  const { config, weights: source } = model.description;
  if (model.description.format !== 'safetensors') {
    throw new UsageError(
      `--to ${layout} is for models that are Hugging Face folders; ${spec} is a GGUF file`,
    );
  }
  const ids = model
    .requireTokenizer()
    .encode(await readTextFile(flags.calibration ?? BUILT_IN_TEXT));
  const numWindows = Math.max(1, Math.floor(tokens / window));
  if (ids.length < numWindows * window) {
    throw new CalibrationTooShortError(ids.length, numWindows * window, window);
  }
  const windows = Array.from({ length: numWindows }, (_, i) =>
    ids.slice(i * window, (i + 1) * window),
  );
  const output = resolve(flags.output);
  if (existsSync(output)) throw new UsageError(`--output ${flags.output}: is there already`);
  const scheme = { bits, groupSize, symmetry, searchesRange: method === 'rtn' };
  const files = source.files.map((file) => [file, statSync(file).size, statSync(file).mtimeMs]);
  const fingerprint = fingerprintOf({ files, windows, method, scheme });
  const state = new CompressionState(`${output}.state`, fingerprint);
  using progress = new ProgressReporter();
  const startMs = performance.now();
  const compressed = await compressLinears({
    ...{ weights: new F32Weights(source), config, windows, method, threads, state, signal },
    schemeOf: () => scheme,
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
    throw diskFull(error, output);
  });
  progress[Symbol.dispose]();
  const sizeBytes = await writeHfModel(path, compressed, layout, output).catch((error: unknown) => {
    throw diskFull(error, output);
  });
  state.remove();
  const seconds = (performance.now() - startMs) / 1000;
  const layers = compressed.layers;
  if (flags.json) await printJson({ output, sizeBytes, seconds, layers });
  else {
    note(`${formatBytes(sizeBytes)} in ${formatSeconds(seconds)}`);
    await printLine(output);
  }
}

/** A full disk said as such; anything else as it is. Nothing is left under the final name either way. */
function diskFull(error: unknown, output: string): unknown {
  if (!(asDiskError(error, output) instanceof DiskSpaceError)) return error;
  return new CommandError(
    `no space left for ${output}: free some, or name an --output on another disk; layers that were calibrated are kept in ${output}.state, and the same command goes on after them`,
    { cause: error },
  );
}

function isHfLayout(name: FileTypeName | HfLayout): name is HfLayout {
  return (HF_LAYOUTS as readonly string[]).includes(name);
}

function parseType(text: string): FileTypeName | HfLayout {
  const name = text.toLowerCase();
  if (isFileTypeName(name) || isHfLayout(name as HfLayout)) return name as FileTypeName | HfLayout;
  throw new InvalidArgumentError(`Expected one of ${TARGETS.join(', ')}.`);
}

function parseGroupSize(text: string): number | 'row' {
  return text === 'row' ? text : parseInteger(1)(text);
}
