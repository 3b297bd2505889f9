/** `hasten logits`: what the model says about the next token, in numbers. */
import type { Command } from 'commander';
import { Option } from 'commander';
import { OpenedModel } from '../../app/open-model.ts';
import { scoringRows, topIds } from '../../app/scoring.ts';
import { SequenceDriver } from '../../app/sequence-driver.ts';
import { createRunner } from '../../runtime/create-runner.ts';
import { CommandError } from '../errors.ts';
import { InterruptHandler } from '../interrupt.ts';
import { findModelWithProgress, neededLength, runnerFlags } from '../model-command.ts';
import {
  addEngineOptions,
  type EngineFlags,
  openingOptions,
  parseInteger,
  parseTokenIds,
} from '../options.ts';
import { printLine, writeOut } from '../output.ts';

interface LogitsFlags extends EngineFlags {
  readonly tokenIds: number[];
  readonly positions: 'last' | 'all';
  readonly top: number;
  readonly full: boolean;
  readonly json: boolean;
}

export function define(command: Command): void {
  addEngineOptions(command)
    .argument('<model>', 'a path, an alias or any form that pull takes')
    .requiredOption('--token-ids <ids>', 'the tokens, exactly: 1,2,3', parseTokenIds)
    .addOption(
      new Option('--positions <which>', 'after the last token, or after each')
        .choices(['last', 'all'])
        .default('last'),
    )
    .option('--top <k>', 'how many of the largest logits', parseInteger(0), 10)
    .option('--full', 'all logits of each position', false)
    .option('--json', 'print one JSON object', false)
    .addHelpText(
      'after',
      `
JSON: {"positions":[{"position":2,"top":[{"id":5,"logit":1.23}]}]}, positions from 0, and with
--full "logits":[…] in each. Numbers parse back to the exact f32.

Example:
  $ hasten logits smollm2 --token-ids 504,3575,282,4649,314 --top 5
`,
    )
    .action(printLogits);
}

async function printLogits(spec: string, flags: LogitsFlags): Promise<void> {
  using interrupts = new InterruptHandler();
  const { tokenIds, offline } = flags;
  const { path } = await findModelWithProgress(spec, { offline, signal: interrupts.signal });
  using model = new OpenedModel(path, openingOptions(flags));
  const { config, weights } = model.description;
  const unknown = tokenIds.find((id) => id >= config.vocabSize);
  if (unknown !== undefined) {
    throw new CommandError(
      `token id ${unknown}: the model has ids from 0 to ${config.vocabSize - 1}`,
    );
  }
  using runner = await createRunner({
    source: weights,
    config,
    ...runnerFlags(flags),
    maxModelLen: neededLength(tokenIds.length, flags, config),
    maxSeqs: 1,
    maxLogitRows: flags.positions === 'all' ? scoringRows(config.vocabSize) : 1,
  });
  const driver = new SequenceDriver(runner);
  // The head goes out with the first position, so that a failure before it leaves stdout empty.
  let before = flags.json ? '{"positions":[' : '';
  await driver.feed(tokenIds, flags.positions, async (position, row) => {
    interrupts.signal.throwIfAborted();
    const logits = runner.logits(row);
    const top = topIds(logits, flags.top);
    if (!flags.json) {
      await printText(position, top, logits, flags.full);
      return;
    }
    const shown = top.map((id) => `{"id":${id},"logit":${numberText(logits[id]!)}}`);
    await writeOut(`${before}{"position":${position},"top":[${shown.join(',')}]`);
    if (flags.full) await writeLogits(logits);
    await writeOut('}');
    before = ',';
  });
  if (flags.json) await writeOut(']}\n');
}

/** In pieces, as a vocabulary may have hundreds of thousands of entries. */
async function writeLogits(logits: Float32Array): Promise<void> {
  const pieceSize = 8192;
  await writeOut(',"logits":[');
  for (let start = 0; start < logits.length; start += pieceSize) {
    const piece = Array.from(logits.subarray(start, start + pieceSize), numberText);
    await writeOut(`${start > 0 ? ',' : ''}${piece.join(',')}`);
  }
  await writeOut(']');
}

/** Nine digits tell every f32 apart. JSON knows no infinity and no NaN. */
function numberText(value: number): string {
  return Number.isFinite(value) ? String(Number(value.toPrecision(9))) : 'null';
}

async function printText(
  position: number,
  top: readonly number[],
  logits: Float32Array,
  isFull: boolean,
): Promise<void> {
  await printLine(`position ${position}`);
  const ids = isFull ? logits.keys() : top;
  for (const id of ids) await printLine(`  ${String(id).padStart(7)}  ${logits[id]?.toFixed(4)}`);
}
