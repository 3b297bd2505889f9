/** `hasten tokenize`: text to token ids and back. */
import type { Command } from 'commander';
import { OpenedModel } from '../../app/open-model.ts';
import { UsageError } from '../errors.ts';
import { InterruptHandler } from '../interrupt.ts';
import { findModelWithProgress } from '../model-command.ts';
import { addOfflineOption, readTextFile } from '../options.ts';
import { printJson, printLine } from '../output.ts';

interface TokenizeFlags {
  readonly text?: string;
  readonly textFile?: string;
  readonly offline: boolean;
  readonly json: boolean;
}

export function define(command: Command): void {
  addOfflineOption(command)
    .argument('<model>', 'a path, an alias or any form that pull takes')
    .option('--text <text>', 'the text')
    .option('--text-file <file>', 'a file with the text, or - for stdin')
    .option('--json', 'print one JSON object: {"tokenIds":[…],"text":"decoded"}', false)
    .addHelpText(
      'after',
      `
No BOS or EOS is added; the text of special tokens is recognised.

Example:
  $ hasten tokenize smollm2 --text "Hello, world"
`,
    )
    .action(tokenize);
}

async function tokenize(spec: string, flags: TokenizeFlags): Promise<void> {
  if ((flags.text === undefined) === (flags.textFile === undefined)) {
    throw new UsageError('expected either --text or --text-file');
  }
  using interrupts = new InterruptHandler();
  const { offline } = flags;
  const { path } = await findModelWithProgress(spec, { offline, signal: interrupts.signal });
  using model = new OpenedModel(path);
  const tokenizer = model.requireTokenizer();
  const text = flags.text ?? (await readTextFile(flags.textFile ?? '-'));
  const tokenIds = tokenizer.encode(text);
  if (flags.json) {
    await printJson({ tokenIds, text: tokenizer.decode(tokenIds) });
    return;
  }
  for (const id of tokenIds) {
    await printLine(`${String(id).padStart(7)}  ${JSON.stringify(tokenizer.decode([id]))}`);
  }
}
