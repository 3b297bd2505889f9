/**
 * Options that several commands share, defined once, and the parsers of their values. Knows nothing of what the values do.
 */
import { readFile } from 'node:fs/promises';
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { SamplingParamsInput } from '../engine/sampling-params.ts';
import type { GrammarInput } from '../grammar/grammar-spec.ts';
import type { LoadFormat } from '../models/load-format.ts';
import type { LoadModelOptions } from '../models/load-model.ts';
import {
  type KvCacheType,
  kvCacheTypeOf,
  PRECISIONS,
  type Precision,
  TARGET_NAMES,
  type TargetName,
} from '../runtime/runner-options.ts';
import { CommandError, UsageError } from './errors.ts';

/** How a model is opened and run; every command that computes takes these. */
export interface EngineFlags {
  readonly maxModelLen?: number;
  readonly kvCacheMemory?: number;
  readonly kvCacheType: KvCacheType;
  readonly threads: number | 'auto';
  readonly target: TargetName;
  readonly precision: Precision;
  readonly loadIn4bit?: 'nf4' | 'int4';
  readonly loadIn8bit: boolean;
  readonly offline: boolean;
}

/** How the next token is chosen; what is left out comes from the model's generation_config. */
export interface SamplingFlags {
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly seed?: number;
  readonly repetitionPenalty?: number;
  readonly frequencyPenalty?: number;
  readonly presencePenalty?: number;
  readonly stop?: string[];
}

export function addOfflineOption(command: Command): Command {
  return command.option('--offline', 'use cached models only, never the network', false);
}

/**
 * @param except threads: a command with an option of its own by the same name leaves these out; lengths: one that says itself how long sequences are
 */
export function addEngineOptions(
  command: Command,
  except: { threads?: false; lengths?: false } = {},
): Command {
  if (except.threads !== false) {
    command.option(
      '-t, --threads <n>',
      'compute threads, or auto: one per core',
      parseThreads,
      'auto' as const,
    );
  }
  addOfflineOption(command);
  if (except.lengths !== false) {
    command
      .option(
        '-c, --max-model-len <tokens>',
        "longest sequence, prompt and answer (k = 1024); left out: the model's own, if memory allows",
        parseCount,
      )
      .option(
        '--kv-cache-memory <size>',
        'memory of the KV cache, such as 512MB; left out: four such sequences, or a quarter of what is free',
        parseBytes,
      );
  }
  return command
    .option(
      '--kv-cache-type <type>',
      'keys and values as f16, q8 (half of that), q4 (under a third) or f32',
      parseKvCacheType,
      'auto' as const,
    )
    .addOption(
      new Option('--target <name>', 'what code is made for').choices(TARGET_NAMES).default('auto'),
    )
    .addOption(
      new Option('--precision <mode>', 'fast: int8 activations; f32: everything in f32')
        .choices(PRECISIONS)
        .default('fast'),
    )
    .addOption(
      new Option('--load-in-4bit [type]', 'quantize an f32, f16 or bf16 model while loading')
        .choices(['nf4', 'int4'])
        .preset('nf4')
        .conflicts('loadIn8bit'),
    )
    .option('--load-in-8bit', 'likewise, to 8-bit integers', false);
}

/** What the model is to be quantized to while it is loaded, if at all. */
export function loadFormat({
  loadIn4bit,
  loadIn8bit,
}: Pick<EngineFlags, 'loadIn4bit' | 'loadIn8bit'>): LoadFormat | undefined {
  return loadIn8bit ? 'int8' : loadIn4bit;
}

/** How the files of a model are to be read. */
export function openingOptions(
  flags: Pick<EngineFlags, 'loadIn4bit' | 'loadIn8bit' | 'maxModelLen'>,
): LoadModelOptions {
  return { maxModelLen: flags.maxModelLen ?? null, loadIn: loadFormat(flags) ?? null };
}

export function addSamplingOptions(command: Command): Command {
  return command
    .option('--temperature <t>', '0 takes the likeliest token each time', parseNumber(0, 2))
    .option('--top-k <k>', 'choose among the k likeliest tokens', parseInteger(0))
    .option('--top-p <p>', 'choose among the likeliest tokens that make up p', parseNumber(0, 1))
    .option('--min-p <p>', 'leave out tokens below p times the likeliest', parseNumber(0, 1))
    .option('-s, --seed <n>', 'same seed, same text', parseInteger(0))
    .option(
      '--repetition-penalty <x>',
      'above 1 discourages tokens seen before',
      parseNumber(0, 10),
    )
    .option('--frequency-penalty <x>', 'per earlier occurrence in the answer', parseNumber(-2, 2))
    .option(
      '--presence-penalty <x>',
      'for any earlier occurrence in the answer',
      parseNumber(-2, 2),
    )
    .option('--stop <text>', 'end before this text; may be given again', collect);
}

/** What the answer may be. */
export interface GrammarFlags {
  readonly jsonSchema?: string;
  readonly grammar?: string;
  readonly regex?: string;
}

export function addGrammarOptions(command: Command): Command {
  return command
    .option('--json-schema <file|json>', 'the answer is JSON of this schema')
    .option('--grammar <file>', 'the answer is what this EBNF (GBNF) takes, from its rule root')
    .option('--regex <pattern>', 'the answer matches this pattern');
}

/** @throws {UsageError} if more than one is given; {CommandError} if a file cannot be read */
export async function grammarFromFlags(flags: GrammarFlags): Promise<GrammarInput | undefined> {
  const { jsonSchema, grammar, regex } = flags;
  if ([jsonSchema, grammar, regex].filter((flag) => flag !== undefined).length > 1) {
    throw new UsageError('expected at most one of --json-schema, --grammar and --regex');
  }
  if (regex !== undefined) return { type: 'regex', regex };
  if (grammar !== undefined) return { type: 'grammar', grammar: await readTextFile(grammar) };
  if (jsonSchema === undefined) return undefined;
  const isJson = /^\s*\{/.test(jsonSchema);
  return { type: 'json_schema', schema: isJson ? jsonSchema : await readTextFile(jsonSchema) };
}

/** The sampling flags that were given, as the engine takes them. */
export function samplingFromFlags(flags: SamplingFlags): SamplingParamsInput {
  const { temperature, topK, topP, minP, seed, stop } = flags;
  const { repetitionPenalty, frequencyPenalty, presencePenalty } = flags;
  const penalties = { repetitionPenalty, frequencyPenalty, presencePenalty };
  return { temperature, topK, topP, minP, seed, stop, ...penalties };
}

/** For an option that may be given again. */
export function collect(value: string, previous: string[] | undefined): string[] {
  return [...(previous ?? []), value];
}

export function parseNumber(lowest: number, highest: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === '' || !(value >= lowest && value <= highest)) {
      throw new InvalidArgumentError(`Expected a number from ${lowest} to ${highest}.`);
    }
    return value;
  };
}

export function parseInteger(lowest: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^-?\d+$/.test(text) || !Number.isSafeInteger(value) || value < lowest) {
      throw new InvalidArgumentError(`Expected a whole number, at least ${lowest}.`);
    }
    return value;
  };
}

/** `4096`, or `4k` for 4096. */
export function parseCount(text: string): number {
  const match = /^(\d+)(k?)$/i.exec(text);
  const value = match ? Number(match[1]) * (match[2] ? 1024 : 1) : 0;
  if (!Number.isSafeInteger(value) || value < 1) {
    throw new InvalidArgumentError('Expected a count of at least 1, such as 4096 or 4k.');
  }
  return value;
}

const UNITS: Readonly<Record<string, number>> = {
  '': 1,
  B: 1,
  K: 2 ** 10,
  KB: 1e3,
  KIB: 2 ** 10,
  M: 2 ** 20,
  MB: 1e6,
  MIB: 2 ** 20,
  G: 2 ** 30,
  GB: 1e9,
  GIB: 2 ** 30,
};

/** `512MB` (10^6), `512MiB` or `512M` (2^20), or plain bytes. */
export function parseBytes(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/i.exec(text.trim());
  const unit = match ? UNITS[(match[2] ?? '').toUpperCase()] : undefined;
  if (!match || unit === undefined) {
    throw new InvalidArgumentError('Expected a size, such as 512MB, 1.5GiB or 2G.');
  }
  return Math.floor(Number(match[1]) * unit);
}

/** Our names, and what llama.cpp and vLLM call the same: q8_0, int8, fp16, ... */
function parseKvCacheType(text: string): KvCacheType {
  const type = kvCacheTypeOf(text);
  if (type === null) {
    throw new InvalidArgumentError('Expected auto, f16, f32, q8 (q8_0, int8) or q4 (q4_0, int4).');
  }
  return type;
}

function parseThreads(text: string): number | 'auto' {
  if (text === 'auto') return 'auto';
  const value = parseInteger(1)(text);
  if (value > 1024) throw new InvalidArgumentError('Expected 1 to 1024, or auto.');
  return value;
}

/** `1,2,3` */
export function parseTokenIds(text: string): number[] {
  const ids = text.split(',').map((part) => (/^\s*\d+\s*$/.test(part) ? Number(part) : Number.NaN));
  if (!ids.every((id) => Number.isSafeInteger(id) && id < 2 ** 31)) {
    throw new InvalidArgumentError('Expected token ids separated by commas, such as 1,2,3.');
  }
  return ids;
}

/** `1,2` -> [1, 2], each at least 1. */
export function parseCounts(text: string): number[] {
  return text.split(',').map((part) => parseInteger(1)(part.trim()));
}

/**
 * The whole of a text file, or of stdin for `-`.
 * @throws {CommandError} if it cannot be read
 */
export async function readTextFile(path: string): Promise<string> {
  try {
    if (path !== '-') return await readFile(path, 'utf8');
    const parts: Buffer[] = [];
    for await (const part of process.stdin) parts.push(part as Buffer);
    return Buffer.concat(parts).toString('utf8');
  } catch (error) {
    throw new CommandError(`cannot read "${path}": ${(error as Error).message}`, { cause: error });
  }
}
