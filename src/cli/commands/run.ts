/** `hasten run`: one prompt, one answer. */

import type { Command } from 'commander';
import type { EngineHost } from '../../app/engine-host.ts';
import type { GenerationResult, TextModel } from '../../app/text-model.ts';
import { UsageError } from '../errors.ts';
import { InterruptHandler } from '../interrupt.ts';
import { startModelWithProgress } from '../model-command.ts';
import {
  addEngineOptions,
  addGrammarOptions,
  addSamplingOptions,
  type EngineFlags,
  type GrammarFlags,
  grammarFromFlags,
  parseInteger,
  parseTokenIds,
  readTextFile,
  type SamplingFlags,
  samplingFromFlags,
} from '../options.ts';
import { note, printJson, styledError, writeOut } from '../output.ts';
import type { ProgramServices } from '../program.ts';

interface RunFlags extends EngineFlags, SamplingFlags, GrammarFlags {
  readonly tokenIds?: number[];
  readonly prompt?: string;
  readonly chat?: string;
  readonly system?: string;
  readonly maxTokens?: number;
  readonly ignoreEos: boolean;
  readonly json: boolean;
}

const DEFAULT_MAX_TOKENS = 256;

export function define(command: Command, { engineHost }: ProgramServices): void {
  command
    .argument('<model>', 'a path, an alias or any form that pull takes')
    .argument('[message]', 'the same as --chat; - reads it from stdin')
    .option('-p, --prompt <text>', 'text to go on from; BOS is added if the model wants it')
    .option('--chat <text>', 'a message to answer, by the chat template of the model')
    .option('--token-ids <ids>', 'a prompt of token ids, exactly: 1,2,3', parseTokenIds)
    .option('--system <text>', 'system message before --chat')
    .option(
      '-n, --max-tokens <n>',
      `most tokens of the answer; left out: ${DEFAULT_MAX_TOKENS}, or as many as fit`,
      parseInteger(1),
    )
    .option('--ignore-eos', 'end-of-text tokens neither end the answer nor are hidden', false);
  addEngineOptions(addGrammarOptions(addSamplingOptions(command)))
    .option('--json', 'print one JSON object', false)
    .addHelpText(
      'after',
      `
Sampling settings that are left out come from the model's generation_config.json, else temperature is 1 and
every token may be chosen.

JSON: {"tokenIds":[…],"text":"…","finishReason":"stop|length",
"timings":{"promptTokens":…,"promptMs":…,"outputTokens":…,"outputMs":…,"ttftMs":…}}

Examples:
  $ hasten run smollm2 "Why is the sky blue?"
  $ cat notes.txt | hasten run smollm2 - --system "Sum this up in a sentence."
  $ hasten run smollm2 --chat "Anna is 31." --json-schema '{"type":"object","properties":{"age":{"type":"integer"}},"required":["age"]}'
  $ hasten run smollm2 --prompt "The capital of France is" --max-tokens 8 --temperature 0
`,
    )
    .action(async (spec: string, message: string | undefined, flags: RunFlags) =>
      run(spec, await withMessage(flags, message), engineHost),
    );
}

/** The message after the model is `--chat`. */
async function withMessage(flags: RunFlags, message: string | undefined): Promise<RunFlags> {
  if (message === undefined) return flags;
  if (flags.chat !== undefined) throw new UsageError('there are two messages: leave out --chat');
  return { ...flags, chat: message === '-' ? (await readTextFile('-')).trimEnd() : message };
}

async function run(spec: string, flags: RunFlags, host: EngineHost | undefined): Promise<void> {
  const given = [flags.tokenIds, flags.prompt, flags.chat].filter((prompt) => prompt !== undefined);
  if (given.length === 0) {
    throw new UsageError(
      `nothing to answer: hasten run ${spec} "a message", or --prompt, or --token-ids; hasten chat ${spec} is a conversation`,
    );
  }
  if (given.length > 1) {
    throw new UsageError('expected one of a message (or --chat), --prompt and --token-ids');
  }
  if (flags.system !== undefined && flags.chat === undefined) {
    throw new UsageError('--system goes with a message or --chat only');
  }
  using interrupts = new InterruptHandler();
  const grammar = await grammarFromFlags(flags);
  const { signal } = interrupts;
  await using model = await startModelWithProgress(spec, flags, { signal, maxSeqs: 1, host });
  const tokenIds = promptIds(model, flags);
  const sampling = {
    ...samplingFromFlags(flags),
    maxTokens: flags.maxTokens ?? defaultMaxTokens(model, tokenIds.length),
    ignoreEos: flags.ignoreEos,
  };
  const generation = model.generate({ tokenIds, sampling, grammar, signal });
  const outputIds: number[] = [];
  let text = '';
  for await (const part of generation) {
    outputIds.push(...part.tokenIds);
    text += part.text;
    if (!flags.json) await writeOut(part.text);
  }
  const result = await generation.result;
  const { finishReason, timings } = result;
  if (finishReason === 'abort' && flags.json) throw signal.reason;
  if (flags.json) {
    await printJson({ tokenIds: outputIds, text, finishReason, timings });
    return;
  }
  if (!text.endsWith('\n')) await writeOut('\n');
  if (process.stderr.isTTY) note(styledError('dim', describe(result)));
  if (finishReason === 'abort') throw signal.reason;
}

/** null where nothing fits: the engine then says so, with the numbers. */
function defaultMaxTokens({ maxModelLen }: TextModel, numPromptTokens: number): number | null {
  const room = maxModelLen - numPromptTokens;
  return room > DEFAULT_MAX_TOKENS ? DEFAULT_MAX_TOKENS : null;
}

function promptIds(model: TextModel, flags: RunFlags): readonly number[] {
  if (flags.tokenIds !== undefined) return flags.tokenIds;
  if (flags.prompt !== undefined) return model.encodePrompt(flags.prompt);
  const system = flags.system === undefined ? [] : [{ role: 'system', content: flags.system }];
  return model.encodeChat([...system, { role: 'user', content: flags.chat ?? '' }]);
}

/** "31 tokens, 120.3 tokens/s, first after 45 ms" */
export function describe({ finishReason, timings }: GenerationResult): string {
  const { outputTokens, outputMs, ttftMs } = timings;
  const parts = [`${outputTokens} ${outputTokens === 1 ? 'token' : 'tokens'}`];
  if (outputTokens > 1 && outputMs > 0) {
    parts.push(`${(((outputTokens - 1) * 1000) / outputMs).toFixed(1)} tokens/s`);
  }
  if (outputTokens > 0) parts.push(`first after ${Math.round(ttftMs)} ms`);
  if (finishReason === 'length') parts.push('cut at the token limit');
  return parts.join(', ');
}
