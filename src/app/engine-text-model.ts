/** A `TextModel` over an engine, wherever that runs: prompts are encoded here, text comes back with the engine's events. */
import type { EngineApi } from '../engine/engine.ts';
import type { EngineCalls } from '../engine/engine-calls.ts';
import type { EngineStats } from '../engine/engine-stats.ts';
import { RequestTooLongError } from '../engine/errors.ts';
import type { EngineEvent, FinishEvent, TokenEvent } from '../engine/events.ts';
import type { RequestHandle } from '../engine/request-handle.ts';
import { GRAMMAR_FAULT, GrammarError } from '../grammar/errors.ts';
import { HastenError, InternalError } from '../platform/errors.ts';
import { ChatTemplate } from '../tokenizer/chat-template.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import { infillMarks } from './infill.ts';
import { NoTokenizerError } from './open-model.ts';
import type {
  ChatRenderOptions,
  ChatTurn,
  Embedding,
  EmbeddingRequest,
  Generation,
  GenerationPart,
  GenerationRequest,
  GenerationResult,
  ModelLimits,
  TextModel,
  TokenLogprobs,
} from './text-model.ts';
import { knowsTools, type ToolStyle, toolStyleOf, withToolsAsText } from './tool-prompt.ts';

/** The engine gave up on one request; others may go on. */
export class GenerationError extends HastenError {
  /** What kind of fault it was in the engine. */
  readonly engineCode: string;

  constructor(engineCode: string, message: string) {
    super('generation_failed', message);
    this.engineCode = engineCode;
  }
}

/** The model cannot be talked with. */
export class NoChatTemplateError extends HastenError {
  constructor(name: string) {
    super(
      'no_chat_template',
      `${name}: the model has no chat template, so it goes on from plain text only (--prompt, /v1/completions)`,
    );
  }
}

export interface EngineTextModelOptions {
  readonly name: string;
  /** For errors. */
  readonly path: string;
  readonly engine: EngineApi;
  readonly tokenizer: Tokenizer | null;
}

export class EngineTextModel implements TextModel {
  readonly name: string;
  readonly engine: EngineApi;
  readonly #path: string;
  readonly #tokenizer: Tokenizer | null;
  /** By their source; parsed when first needed. */
  readonly #chatTemplates = new Map<string, ChatTemplate>();
  #longestTokenBytes: number | null = null;

  constructor(options: EngineTextModelOptions) {
    this.name = options.name;
    this.engine = options.engine;
    this.#path = options.path;
    this.#tokenizer = options.tokenizer;
  }

  get maxModelLen(): number {
    return this.engine.limits.maxModelLen;
  }

  tokenize(text: string): number[] {
    return this.#requireTokenizer().encode(text);
  }

  encodePrompt(text: string): number[] {
    const tokenizer = this.#requireTokenizer();
    this.#requireRoom(text.length);
    const tokenIds = tokenizer.encode(text);
    const { bosTokenId } = tokenizer;
    // BOS only: an EOS that some tokenizers add would end the text that is to be continued.
    const wantsBos = tokenizer.addsBos && bosTokenId !== null && tokenIds[0] !== bosTokenId;
    return wantsBos ? [bosTokenId, ...tokenIds] : tokenIds;
  }

  encodeChat(messages: readonly ChatTurn[], options: ChatRenderOptions = {}): number[] {
    const tokenizer = this.#requireTokenizer();
    const { tools, toolStart } = options;
    const hasTools = tools !== undefined && tools.length > 0;
    const { template, source } = this.#templateFor(hasTools);
    const isToldAsText = hasTools && !knowsTools(source);
    const turns = isToldAsText ? withToolsAsText(messages, tools) : messages;
    const { tokenIds } = template.renderToIds(tokenizer, turns, {
      addGenerationPrompt: options.addGenerationPrompt ?? true,
      variables: options.variables,
      tools: hasTools && !isToldAsText ? tools : null,
      specialsInContent: 'text',
      beforeEncoding: (text) => this.#requireRoom(text.length),
    });
    if (toolStart === undefined) return tokenIds;
    return [...tokenIds, ...tokenizer.encode(toolStart)];
  }

  get toolStyle(): ToolStyle {
    return toolStyleOf(this.#templateFor(true).source);
  }

  #templateFor(hasTools: boolean): { template: ChatTemplate; source: string } {
    const tokenizer = this.#requireTokenizer();
    const ofTools = hasTools ? tokenizer.chatTemplates?.get('tool_use') : undefined;
    const source = ofTools ?? tokenizer.chatTemplate;
    if (source === null) throw new NoChatTemplateError(this.name);
    let template = this.#chatTemplates.get(source);
    if (template === undefined) {
      const parsed = ChatTemplate.of(tokenizer, { hasTools });
      if (parsed === null) throw new NoChatTemplateError(this.name);
      template = parsed;
      this.#chatTemplates.set(source, template);
    }
    return { template, source };
  }

  decode(tokenIds: readonly number[]): string {
    return this.#requireTokenizer().decode(tokenIds);
  }

  encodeInfill(prefix: string, suffix: string): number[] | null {
    const tokenizer = this.#requireTokenizer();
    const marks = infillMarks(tokenizer);
    if (marks === null) return null;
    this.#requireRoom(prefix.length + suffix.length);
    const { bosTokenId } = tokenizer;
    const encode = (text: string): number[] => tokenizer.encode(text, { parseSpecial: false });
    return [
      ...(tokenizer.addsBos && bosTokenId !== null ? [bosTokenId] : []),
      marks.prefix,
      ...encode(prefix),
      marks.suffix,
      ...encode(suffix),
      marks.middle,
    ];
  }

  get calls(): EngineCalls {
    return this.engine.calls;
  }

  stats(): Promise<EngineStats> {
    return this.engine.stats();
  }

  get limits(): ModelLimits {
    return this.engine.limits;
  }

  generate({ tokenIds, sampling, signal, ...rest }: GenerationRequest): Generation {
    if (this.#tokenizer === null && (sampling?.stop?.length ?? 0) > 0) {
      throw new NoTokenizerError(this.#path);
    }
    const handle = this.engine.submit(
      { ...rest, promptTokenIds: tokenIds, samplingParams: sampling },
      { signal },
    );
    return new EngineGeneration(handle, this.#tokenizer);
  }

  get hiddenSize(): number {
    return this.engine.limits.hiddenSize;
  }

  async embed({ tokenIds, signal, ...rest }: EmbeddingRequest): Promise<Embedding> {
    const handle = this.engine.submit({ ...rest, promptTokenIds: tokenIds }, { signal });
    const { embedding, usage, reason, error } = await handle.finished;
    if (embedding !== undefined) return { values: embedding, promptTokens: usage.promptTokens };
    signal?.throwIfAborted();
    throw new GenerationError(
      error?.code ?? reason,
      error?.message ?? 'the embedding was given up before it was done',
    );
  }

  /**
   * Spares the time of making tokens of a text that is too long for the context whatever they are.
   * @throws {RequestTooLongError} if it is
   */
  #requireRoom(numCharacters: number): void {
    if (numCharacters <= this.maxModelLen) return;
    this.#longestTokenBytes ??= longestToken(this.#requireTokenizer());
    const numPromptTokens = Math.ceil(numCharacters / this.#longestTokenBytes);
    if (numPromptTokens < this.maxModelLen) return;
    throw new RequestTooLongError(
      `the text has ${numCharacters} characters, so ${numPromptTokens} tokens at least; the context length is ${this.maxModelLen} tokens, prompt and output together`,
      { numPromptTokens, maxTokens: 0, maxSequenceTokens: this.maxModelLen },
    );
  }

  #requireTokenizer(): Tokenizer {
    if (this.#tokenizer === null) throw new NoTokenizerError(this.#path);
    return this.#tokenizer;
  }
}

/** At least 1. A character is at least a byte, so no token has more characters than that. */
function longestToken({ tokenTable: { offsets } }: Tokenizer): number {
  let longest = 1;
  for (let id = 1; id < offsets.length; id++) {
    longest = Math.max(longest, offsets[id]! - offsets[id - 1]!);
  }
  return longest;
}

class EngineGeneration implements Generation {
  readonly result: Promise<GenerationResult>;
  readonly #handle: RequestHandle;
  readonly #tokenizer: Tokenizer | null;

  constructor(handle: RequestHandle, tokenizer: Tokenizer | null) {
    this.#handle = handle;
    this.#tokenizer = tokenizer;
    this.result = handle.finished.then(resultOf);
    this.result.catch(() => {}); // The iteration throws the same.
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<GenerationPart, void, undefined> {
    for await (const event of this.#handle) {
      const part = this.#partOf(event);
      if (part !== undefined) yield part;
    }
    await this.result;
  }

  #partOf(event: EngineEvent): GenerationPart | undefined {
    if (event.type === 'token') {
      const { text, tokenId } = event;
      return { text, tokenIds: [tokenId], logprobs: this.#logprobsOf(event) };
    }
    return event.text === '' ? undefined : { text: event.text, tokenIds: [], logprobs: [] };
  }

  /** A model may have more logits than its tokenizer has tokens. */
  #bytesOf(id: number): Uint8Array {
    const tokenizer = this.#tokenizer;
    return tokenizer !== null && id < tokenizer.vocabSize
      ? tokenizer.tokenBytes(id)
      : new Uint8Array();
  }

  #logprobsOf({ tokenId, logprob, topLogprobs = [] }: TokenEvent): TokenLogprobs[] {
    if (logprob === undefined) return [];
    const probability = (id: number, value: number) => ({
      id,
      bytes: this.#bytesOf(id),
      logprob: value,
    });
    const top = topLogprobs.map((each) => probability(each.tokenId, each.logprob));
    return [{ ...probability(tokenId, logprob), top }];
  }
}

function resultOf({ reason, stopReason, usage, timings, error }: FinishEvent): GenerationResult {
  if (reason === 'error') {
    if (error === undefined) throw new InternalError('a request failed without saying why');
    if (error.code === GRAMMAR_FAULT) throw new GrammarError(error.message);
    throw new GenerationError(error.code, error.message);
  }
  return {
    finishReason: reason,
    cachedTokens: usage.cachedTokens,
    timings: {
      promptTokens: usage.promptTokens,
      promptMs: timings.promptMs ?? 0,
      outputTokens: usage.completionTokens,
      outputMs: timings.outputMs ?? 0,
      ttftMs: timings.ttftMs ?? 0,
      queueMs: timings.queueMs ?? 0,
    },
    stopReason,
  };
}
