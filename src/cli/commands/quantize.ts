/** `hasten quantize`: a smaller model from a model. */
import { resolve } from 'node:path';
import { type Command, InvalidArgumentError } from 'commander';
import { OpenedModel } from '../../app/open-model.ts';
import { FILE_TYPE_NAMES, type FileTypeName, isFileTypeName } from '../../compress/ggml-recipe.ts';
import { type QuantizeReport, quantizeModel } from '../../compress/quantize-model.ts';
import { UsageError } from '../errors.ts';
import { InterruptHandler } from '../interrupt.ts';
import { findModelWithProgress } from '../model-command.ts';
import { addOfflineOption } from '../options.ts';
import { formatBytes, formatSeconds, note, printJson, printLine } from '../output.ts';
import { ProgressReporter } from '../progress.ts';

interface QuantizeFlags {
  readonly to: FileTypeName;
  readonly output: string;
  readonly offline: boolean;
  readonly json: boolean;
}

export function define(command: Command): void {
  addOfflineOption(command)
    .argument('<model>', 'a path, an alias or any form that pull takes')
    .requiredOption('--to <type>', `type of the new file: ${FILE_TYPE_NAMES.join(', ')}`, parseType)
    .requiredOption('-o, --output <file>', 'the new GGUF file')
    .option('--json', 'print one JSON object', false)
    .addHelpText(
      'after',
      `
Types that end in _s, _m and _l give more bits to the tensors that llama.cpp gives more to. A row that
is no multiple of 256 takes the nearest type with blocks of 32. Weights that are quantized already
are dequantized first, and lose a little more.

Example:
  $ hasten quantize gemma3-270m --to q4_k_m -o gemma3-270m-q4_k_m.gguf
`,
    )
    .action(quantize);
}

async function quantize(spec: string, flags: QuantizeFlags): Promise<void> {
  using interrupts = new InterruptHandler();
  const { signal } = interrupts;
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

function parseType(text: string): FileTypeName {
  const name = text.toLowerCase();
  if (!isFileTypeName(name)) {
    throw new InvalidArgumentError(`Expected one of ${FILE_TYPE_NAMES.join(', ')}.`);
  }
  return name;
}
