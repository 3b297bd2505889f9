/** `hasten embed`: vectors of texts. */
import type { Command } from 'commander';
import { Option } from 'commander';
import type { RunningModel } from '../../app/running-model.ts';
import { POOLINGS, type Pooling, unitVector } from '../../engine/pooling.ts';
import { UsageError } from '../errors.ts';
import { InterruptHandler } from '../interrupt.ts';
import { startModelWithProgress } from '../model-command.ts';
import {
  addEngineOptions,
  collect,
  type EngineFlags,
  parseInteger,
  readTextFile,
} from '../options.ts';
import { printJson } from '../output.ts';
import { ProgressReporter } from '../progress.ts';

interface EmbedFlags extends EngineFlags {
  readonly text?: string[];
  readonly file?: string;
  readonly pooling: Pooling;
  readonly dimensions?: number;
}

/** Texts that are on their way at once. */
const NUM_AT_ONCE = 16;

export function define(command: Command): void {
  addEngineOptions(command)
    .argument('<model>', 'a path, an alias or any form that pull takes')
    .option('--text <text>', 'a text; may be given again', collect)
    .option('--file <file>', 'a file with a text in each line, or - for stdin')
    .addOption(
      new Option('--pooling <how>', 'how one vector is made of all tokens')
        .choices(POOLINGS)
        .default('mean'),
    )
    .option('--dimensions <n>', 'only the first so many values of each vector', parseInteger(1))
    .addHelpText(
      'after',
      `
Prints one JSON object a line, in the order of the texts:
{"index":0,"numTokens":5,"embedding":[…]}. A vector is the pooled final hidden state, made length 1.
Empty lines of a file are passed over.

Example:
  $ hasten embed smollm2 --text "a cat" --text "a dog"
  $ hasten embed smollm2 --file lines.txt --pooling last > vectors.jsonl
`,
    )
    .action(embed);
}

async function embed(spec: string, flags: EmbedFlags): Promise<void> {
  if ((flags.text === undefined) === (flags.file === undefined)) {
    throw new UsageError('expected either --text or --file');
  }
  const texts = flags.text ?? linesOf(await readTextFile(flags.file ?? '-'));
  if (texts.length === 0) throw new UsageError('there is no text: expected at least one line');
  using interrupts = new InterruptHandler();
  const { signal } = interrupts;
  await using model = await startModelWithProgress(spec, flags, { signal, maxSeqs: NUM_AT_ONCE });
  const { dimensions } = flags;
  if (dimensions !== undefined && dimensions > model.hiddenSize) {
    throw new UsageError(
      `--dimensions ${dimensions}: the model's vectors have ${model.hiddenSize}`,
    );
  }
  using progress = new ProgressReporter();
  for (let first = 0; first < texts.length; first += NUM_AT_ONCE) {
    const some = texts.slice(first, first + NUM_AT_ONCE);
    const lines = await Promise.all(some.map((text) => vectorOf(model, text, flags, signal)));
    for (const [i, line] of lines.entries()) await printJson({ index: first + i, ...line });
    const done = first + some.length;
    progress.update({ label: 'texts', done, total: texts.length, unit: 'items' });
  }
}

async function vectorOf(
  model: RunningModel,
  text: string,
  { pooling, dimensions }: EmbedFlags,
  signal: AbortSignal,
) {
  const tokenIds = model.encodePrompt(text);
  const { values } = await model.embed({ tokenIds, pooling, signal });
  const embedding = Array.from(unitVector(values, dimensions));
  return { numTokens: tokenIds.length, embedding };
}

function linesOf(text: string): string[] {
  return text.split(/\r?\n/).filter((line) => line.trim() !== '');
}
