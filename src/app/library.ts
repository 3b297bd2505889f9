/** What `load` gives: a model as an object, with typed options that are checked. Knows nothing of terminals or HTTP. */
import { resolve } from 'node:path';
import { POOLINGS, type Pooling, unitVector } from '../engine/pooling.ts';
import type { SamplingParamsInput } from '../engine/sampling-params.ts';
import type { GrammarInput } from '../grammar/grammar-spec.ts';
import { LOAD_FORMATS, type LoadFormat } from '../models/load-format.ts';
import { HastenError } from '../platform/errors.ts';
import {
  KV_CACHE_TYPES,
  type KvCacheType,
  PRECISIONS,
  type Precision,
  TARGET_NAMES,
  type TargetName,
} from '../runtime/runner-options.ts';
import { findModel } from './find-model.ts';
import { planCacheFolder } from './plan-cache-folder.ts';
import type { RunningModel } from './running-model.ts';
import { startModel } from './start-model.ts';
import type {
  ChatRenderOptions,
  Generation,
  GenerationPart,
  GenerationResult,
} from './text-model.ts';

/** An option that does not exist, or a value that it does not take. */
export class OptionError extends HastenError {
  readonly option: string;

  constructor(option: string, message: string) {
    super('invalid_option', message);
    this.option = option;
  }
}

export interface LoadProgress {
  /** What is being done, in words. */
  readonly phase: string;
  readonly done: number;
  /** 0 where it is not known. */
  readonly total: number;
}

export interface LoadOptions {
  /** Longest sequence, prompt and answer together; default: the model's own, as far as memory goes. */
  readonly maxModelLen?: number;
  /** Bytes for keys and values of all running sequences. */
  readonly kvCacheMemoryBytes?: number;
  /** How keys and values are kept: auto (f16, the default), f16, f32, q8 or q4. */
  readonly kvCacheType?: KvCacheType;
  /** Answers that are generated side by side; further ones wait. Default 16. */
  readonly maxSeqs?: number;
  /** Compute threads; default one per physical core. */
  readonly threads?: number | 'auto';
  readonly target?: TargetName;
  readonly precision?: Precision;
  /** Quantizes a model that is stored in f32, f16 or bf16 while it is loaded: `nf4`, `int4` or `int8`. */
  readonly loadIn?: LoadFormat;
  /** A smaller model of the same vocabulary, in any form that `load` takes: it drafts tokens, which are checked several at once. Texts stay the same. */
  readonly draftModel?: string;
  /** Never use the network. */
  readonly offline?: boolean;
  /** Where packed weights are kept for the next start; null for nowhere. Default: `hasten/plans` in the user's cache folder. */
  readonly planCacheFolder?: string | null;
  /** Gives up loading. */
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: LoadProgress) => void;
}

export interface ChatMessage {
  readonly role: string;
  readonly content: string;
  readonly [field: string]: unknown;
}

/** Sampling, and what else belongs to one answer; what is left out comes from the model's generation_config. */
export interface AnswerOptions extends SamplingParamsInput {
  /** What the answer may be: JSON of a schema, a pattern, one of a list, an EBNF. Its `result` rejects if the grammar cannot be used. */
  readonly responseFormat?: ResponseFormat | undefined;
  /** Ends the answer at once; its result then has `finishReason: 'abort'`. */
  readonly signal?: AbortSignal;
}

/** The form of an answer. `schema` is a JSON schema, or the JSON text of one; `grammar` an EBNF that begins at the rule `root`. */
export type ResponseFormat = Exclude<GrammarInput, { readonly type: 'tags' }>;

export interface ChatOptions extends AnswerOptions {
  /** Variables for the chat template, such as `enable_thinking`. */
  readonly templateVariables?: ChatRenderOptions['variables'];
}

export interface EmbedOptions {
  /** Over which tokens; default `mean`. */
  readonly pooling?: Pooling;
  /** Only the first so many values of a vector, made length 1 again. */
  readonly dimensions?: number;
  readonly signal?: AbortSignal;
}

/** An answer on its way. Iterate over its parts, or ask for the whole text; either once. Leaving the loop early stops it. */
export interface Answer extends AsyncIterable<GenerationPart> {
  /** The whole text. */
  text(): Promise<string>;
  /** How it ended and how long it took; there when the answer is over. */
  readonly result: Promise<GenerationResult>;
}

export type SessionText = string | readonly number[] | readonly ChatMessage[];

export interface Model extends Disposable, AsyncDisposable {
  readonly name: string;
  /** Longest sequence, prompt and answer together. */
  readonly maxModelLen: number;
  /** The next message of a conversation. */
  chat(messages: readonly ChatMessage[], options?: ChatOptions): Answer;
  /** What follows a text, or token ids taken exactly. */
  complete(prompt: string | readonly number[], options?: AnswerOptions): Answer;
  /** A vector of length 1 for each text (or token ids taken exactly): its pooled final hidden state. */
  embed(
    texts: readonly (string | readonly number[])[],
    options?: EmbedOptions,
  ): Promise<Float32Array[]>;
  /**
   * Saves the keys and values of a text (a prompt, token ids or a conversation) to a file, so that a later process goes on from it at once.
   *
   * @returns how many tokens are in the file: those of full blocks
   * @throws an error of code `invalid_session` if it cannot be written, or the text is too short
   */
  saveSession(path: string, text: SessionText): Promise<number>;
  /**
   * Takes a saved text back into the prefix cache, for every prompt that begins with it.
   *
   * @returns how many tokens: less than were saved if there is no room for all
   * @throws an error of code `invalid_session` if the file is damaged or of another model
   */
  restoreSession(path: string): Promise<number>;
  /** Token ids of a text, nothing added. */
  tokenize(text: string): number[];
  detokenize(tokenIds: readonly number[]): string;
}

type Check = readonly [accepted: string, isAccepted: (value: unknown) => boolean];

const atLeastOne: Check = [
  'a whole number of at least 1',
  (x) => Number.isSafeInteger(x) && (x as number) >= 1,
];
const oneOf = (names: readonly string[]): Check => [
  `one of ${names.join(', ')}`,
  (x) => names.includes(x as string),
];
const isFunction: Check = ['a function', (x) => typeof x === 'function'];
const isSignal: Check = ['an AbortSignal', (x) => x instanceof AbortSignal];

const LOAD_OPTIONS: { readonly [K in keyof Required<LoadOptions>]: Check } = {
  maxModelLen: atLeastOne,
  kvCacheMemoryBytes: atLeastOne,
  kvCacheType: oneOf(KV_CACHE_TYPES),
  maxSeqs: atLeastOne,
  threads: ['"auto" or a whole number of at least 1', (x) => x === 'auto' || atLeastOne[1](x)],
  target: oneOf(TARGET_NAMES),
  precision: oneOf(PRECISIONS),
  loadIn: oneOf(LOAD_FORMATS),
  draftModel: ['a path or the name of a model', (x) => typeof x === 'string' && x !== ''],
  offline: ['true or false', (x) => typeof x === 'boolean'],
  planCacheFolder: ['a folder or null', (x) => x === null || typeof x === 'string'],
  signal: isSignal,
  onProgress: isFunction,
};

/** @throws {OptionError} on an unknown key or a bad value, naming what is accepted */
function checkOptions(
  where: string,
  options: object,
  known: Readonly<Record<string, Check>>,
): void {
  for (const [key, value] of Object.entries(options)) {
    const check = Object.hasOwn(known, key) ? known[key] : undefined;
    if (check === undefined) {
      const names = Object.keys(known).join(', ');
      throw new OptionError(key, `${where}: unknown option "${key}"; known are ${names}`);
    }
    const [accepted, isAccepted] = check;
    if (value !== undefined && !isAccepted(value)) {
      throw new OptionError(
        key,
        `${where}: ${key}: expected ${accepted}, got ${JSON.stringify(value)}`,
      );
    }
  }
}

export async function loadModel(spec: string, options: LoadOptions): Promise<Model> {
  checkOptions('load', options, LOAD_OPTIONS);
  const { signal, onProgress, offline = false, draftModel } = options;
  const find = (name: string) =>
    findModel(name, {
      offline,
      signal,
      onProgress: ({ phase, file, receivedBytes, totalBytes = 0 }) =>
        onProgress?.({ phase: `${phase} ${file}`, done: receivedBytes, total: totalBytes }),
    });
  const found = await find(spec);
  const draft = draftModel === undefined ? undefined : await find(draftModel);
  const running = await startModel({
    name: found.name,
    setup: {
      path: found.path,
      target: options.target ?? 'auto',
      precision: options.precision ?? 'fast',
      loadIn: options.loadIn,
      threads: options.threads ?? 'auto',
      maxModelLen: options.maxModelLen,
      kvCacheMemoryBytes: options.kvCacheMemoryBytes,
      kvCacheType: options.kvCacheType,
      maxSeqs: options.maxSeqs,
      ...(draft && { drafts: { modelPath: draft.path } }),
      planCacheFolder:
        options.planCacheFolder === undefined ? planCacheFolder() : options.planCacheFolder,
    },
    signal,
    onProgress,
  });
  return new LoadedModel(running);
}

class LoadedModel implements Model {
  readonly #running: RunningModel;

  constructor(running: RunningModel) {
    this.#running = running;
  }

  get name(): string {
    return this.#running.name;
  }

  get maxModelLen(): number {
    return this.#running.maxModelLen;
  }

  chat(messages: readonly ChatMessage[], options: ChatOptions = {}): Answer {
    const { templateVariables: variables, ...rest } = options;
    return this.#answer(this.#running.encodeChat(messages, { variables }), rest);
  }

  complete(prompt: string | readonly number[], options: AnswerOptions = {}): Answer {
    const tokenIds = typeof prompt === 'string' ? this.#running.encodePrompt(prompt) : prompt;
    return this.#answer(tokenIds, options);
  }

  async embed(
    texts: readonly (string | readonly number[])[],
    options: EmbedOptions = {},
  ): Promise<Float32Array[]> {
    checkOptions('embed', options, {
      pooling: oneOf(POOLINGS),
      dimensions: [
        `a whole number from 1 to ${this.#running.hiddenSize}`,
        (x) => atLeastOne[1](x) && (x as number) <= this.#running.hiddenSize,
      ],
      signal: isSignal,
    });
    const { pooling = 'mean', dimensions, signal } = options;
    return await Promise.all(
      texts.map(async (text) => {
        const tokenIds = typeof text === 'string' ? this.#running.encodePrompt(text) : text;
        const { values } = await this.#running.embed({ tokenIds, pooling, signal });
        return unitVector(values, dimensions);
      }),
    );
  }

  saveSession(path: string, text: SessionText): Promise<number> {
    return this.#running.calls.saveSession(resolve(path), { tokenIds: this.#encode(text) });
  }

  async restoreSession(path: string): Promise<number> {
    return (await this.#running.calls.restoreSession(resolve(path))).length;
  }

  #encode(text: SessionText): readonly number[] {
    if (typeof text === 'string') return this.#running.encodePrompt(text);
    const isChat = (list: typeof text): list is readonly ChatMessage[] =>
      typeof list[0] === 'object';
    return isChat(text) ? this.#running.encodeChat(text, { addGenerationPrompt: false }) : text;
  }

  tokenize(text: string): number[] {
    return this.#running.tokenize(text);
  }

  detokenize(tokenIds: readonly number[]): string {
    return this.#running.decode(tokenIds);
  }

  /** Begins to close without waiting; `await using` waits. */
  [Symbol.dispose](): void {
    void this.#running[Symbol.asyncDispose]();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#running[Symbol.asyncDispose]();
  }

  #answer(
    tokenIds: readonly number[],
    { signal, responseFormat: grammar, ...sampling }: AnswerOptions,
  ): Answer {
    if (signal !== undefined && !isSignal[1](signal)) {
      throw new OptionError('signal', `signal: expected ${isSignal[0]}`);
    }
    return new GenerationAnswer(this.#running.generate({ tokenIds, sampling, grammar, signal }));
  }
}

class GenerationAnswer implements Answer {
  readonly #generation: Generation;

  constructor(generation: Generation) {
    this.#generation = generation;
  }

  get result(): Promise<GenerationResult> {
    return this.#generation.result;
  }

  async text(): Promise<string> {
    let text = '';
    for await (const part of this) text += part.text;
    return text;
  }

  [Symbol.asyncIterator](): AsyncIterator<GenerationPart> {
    return this.#generation[Symbol.asyncIterator]();
  }
}
