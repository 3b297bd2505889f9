/** `hasten perplexity`: how well the model predicts a text. */
import { setImmediate } from 'node:timers/promises';
import type { Command } from 'commander';
import { OpenedModel } from '../../app/open-model.ts';
import { scoringRows, windowNll } from '../../app/scoring.ts';
import { SequenceDriver } from '../../app/sequence-driver.ts';
import { createRunner } from '../../runtime/create-runner.ts';
import type { Tokenizer } from '../../tokenizer/tokenizer.ts';
import { CommandError } from '../errors.ts';
import { InterruptHandler } from '../interrupt.ts';
import { findModelWithProgress, neededLength, runnerFlags } from '../model-command.ts';
import {
  addEngineOptions,
  type EngineFlags,
  openingOptions,
  parseInteger,
  readTextFile,
} from '../options.ts';
import { printJson, printLine } from '../output.ts';
import { ProgressReporter } from '../progress.ts';

interface PerplexityFlags extends EngineFlags {
  readonly file: string;
  readonly window: number;
  readonly json: boolean;
}

interface ScoredWindow {
  /** Tokens scored: all but the first. */
  readonly tokens: number;
  /** Mean over them. */
  readonly nll: number;
}

export function define(command: Command): void {
  addEngineOptions(command)
    .argument('<model>', 'a path, an alias or any form that pull takes')
    .requiredOption('--file <file>', 'the text, or - for stdin')
    .option('--window <tokens>', 'tokens of a window', parseInteger(2), 512)
    .option('--json', 'print one JSON object', false)
    .addHelpText(
      'after',
      `
The text is cut into windows that do not overlap; each scores its tokens from the second on, and a
last partial window is dropped. If the model adds BOS, a window is BOS and one text token less.

Example:
  $ hasten perplexity smollm2 --file book.txt
`,
    )
    .action(perplexity);
}

async function perplexity(spec: string, flags: PerplexityFlags): Promise<void> {
  using interrupts = new InterruptHandler();
  const { signal } = interrupts;
  const { offline, window } = flags;
  const { path } = await findModelWithProgress(spec, { offline, signal });
  using model = new OpenedModel(path, openingOptions(flags));
  const { config, weights } = model.description;
  const windows = cutIntoWindows(await readTextFile(flags.file), model.requireTokenizer(), window);
  using runner = await createRunner({
    source: weights,
    config,
    ...runnerFlags(flags),
    maxModelLen: neededLength(window, flags, config),
    maxSeqs: 1,
    maxLogitRows: scoringRows(config.vocabSize),
  });
  const driver = new SequenceDriver(runner);
  const scored: ScoredWindow[] = [];
  using progress = new ProgressReporter();
  for (const tokenIds of windows) {
    signal.throwIfAborted();
    scored.push({ tokens: tokenIds.length - 1, nll: await windowNll(runner, driver, tokenIds) });
    progress.update({
      label: 'windows',
      done: scored.length,
      total: windows.length,
      unit: 'items',
    });
    await setImmediate(); // Lets Ctrl-C and the bar through.
  }
  progress[Symbol.dispose]();
  const tokens = scored.reduce((sum, each) => sum + each.tokens, 0);
  const nll = scored.reduce((sum, each) => sum + each.nll * each.tokens, 0) / tokens;
  const result = { tokens, nll, perplexity: Math.exp(nll), windows: scored };
  if (flags.json) await printJson(result);
  else {
    await printLine(
      `perplexity ${result.perplexity.toFixed(4)}  (nll ${nll.toFixed(5)}, ${tokens} tokens in ${scored.length} windows)`,
    );
  }
}

function cutIntoWindows(text: string, tokenizer: Tokenizer, window: number): number[][] {
  const tokenIds = tokenizer.encode(text);
  const { bosTokenId } = tokenizer;
  const head = tokenizer.addsBos && bosTokenId !== null ? [bosTokenId] : [];
  const size = window - head.length;
  const count = Math.floor(tokenIds.length / size);
  if (count === 0) {
    throw new CommandError(
      `the text has ${tokenIds.length} tokens, less than one window of ${size}; choose a smaller --window`,
    );
  }
  return Array.from({ length: count }, (_, i) => [
    ...head,
    ...tokenIds.slice(i * size, (i + 1) * size),
  ]);
}
