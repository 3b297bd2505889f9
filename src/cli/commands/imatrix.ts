/** `hasten imatrix`: the importance of each input channel of a model's weights, in llama.cpp's formats. */
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { OpenedModel } from '../../app/open-model.ts';
import { writeImatrix } from '../../compress/imatrix.ts';
import {
  addCalibrationOptions,
  type CalibrationFlags,
  gatherImatrix,
  windowOf,
} from '../calibration.ts';
import { diskFull } from '../disk-full.ts';
import { UsageError } from '../errors.ts';
import { InterruptHandler } from '../interrupt.ts';
import { findModelWithProgress } from '../model-command.ts';
import { addOfflineOption, parseInteger } from '../options.ts';
import { formatSeconds, note, printJson, printLine } from '../output.ts';

interface ImatrixFlags extends Omit<CalibrationFlags, 'calibration'> {
  readonly file?: string;
  readonly output: string;
  readonly offline: boolean;
  readonly json: boolean;
}

export function define(command: Command): void {
  addCalibrationOptions(addOfflineOption(command))
    .argument('<model>', 'a path, an alias or any form that pull takes')
    .option('-f, --file <file>', 'the same as --calibration')
    .requiredOption('-o, --output <path>', 'a .gguf file, or .dat for the older format')
    .option('-t, --threads <n>', 'compute threads', parseInteger(1))
    .option('--json', 'print one JSON object', false)
    .addHelpText(
      'after',
      `
The mean square of each input channel of the linears of all layers, over a text. Both formats are read by
llama.cpp's llama-quantize --imatrix, and by hasten quantize --imatrix.

Example:
  $ hasten imatrix gemma3-270m --file book.txt -o gemma3-270m.imatrix.gguf
`,
    )
    .action(imatrix);
}

async function imatrix(
  spec: string,
  flags: ImatrixFlags & Pick<CalibrationFlags, 'calibration'>,
): Promise<void> {
  using interrupts = new InterruptHandler();
  const { signal } = interrupts;
  if (!/\.(gguf|dat)$/.test(flags.output)) {
    throw new UsageError(`--output ${flags.output}: expected a name that ends in .gguf or .dat`);
  }
  const { path } = await findModelWithProgress(spec, { offline: flags.offline, signal });
  const output = resolve(flags.output);
  if (output === resolve(path)) throw new UsageError('--output names the model itself');
  using model = new OpenedModel(path);
  const startMs = performance.now();
  const calibration = flags.file ?? flags.calibration;
  const made = await gatherImatrix(
    model,
    { ...flags, ...(calibration !== undefined && { calibration }) },
    signal,
  );
  await writeImatrix(output, made, windowOf(model, flags.window)).catch((error: unknown) => {
    throw diskFull(error, output);
  });
  const seconds = (performance.now() - startMs) / 1000;
  const entries = made.importance.size;
  if (flags.json) await printJson({ output, entries, chunks: made.numChunks, seconds });
  else {
    note(`${entries} tensors over ${made.numChunks} windows in ${formatSeconds(seconds)}`);
    await printLine(output);
  }
}
