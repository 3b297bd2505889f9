/**
 * What a shell (command line, server, library) sees of a loaded model: text in, text out, with tokens, logprobs and timings beside it.
 * Knows nothing of HTTP or terminals, nor of how tokens come to be.
 */
import type { EngineCalls } from '../engine/engine-calls.ts';
import type { EngineStats } from '../engine/engine-stats.ts';
import type { Pooling } from '../engine/pooling.ts';
import type { Priority } from '../engine/priority.ts';
import type { SamplingParamsInput } from '../engine/sampling-params.ts';
import type { GrammarInput } from '../grammar/grammar-spec.ts';
import type { ToolStyle } from './tool-prompt.ts';

export type FinishReason = 'stop' | 'length' | 'abort';

export interface TokenProbability {
  readonly id: number;
  /** The token's bytes; alone they need not be whole UTF-8. */
  readonly bytes: Uint8Array;
  /** Natural logarithm. */
  readonly logprob: number;
}

export interface TokenLogprobs extends TokenProbability {
  /** The most probable tokens, best first; as many as were asked for. */
  readonly top: readonly TokenProbability[];
}

/** What came out since the last part; text may lag behind tokens while a character is incomplete or a stop string may be starting. */
export interface GenerationPart {
  readonly text: string;
  readonly tokenIds: readonly number[];
  /** One per token id, where asked for. */
  readonly logprobs: readonly TokenLogprobs[];
}

export interface GenerationTimings {
  readonly promptTokens: number;
  /** From submission to the first token. */
  readonly promptMs: number;
  readonly outputTokens: number;
  /** From the first to the last token. */
  readonly outputMs: number;
  /** Time to first token, from submission. */
  readonly ttftMs: number;
  /** From submission to the first step it took part in. */
  readonly queueMs: number;
}

export interface GenerationResult {
  readonly finishReason: FinishReason;
  /** The stop string, or the id of those asked for, that ended it; null for an end of text and every other end. */
  readonly stopReason: string | number | null;
  readonly cachedTokens: number;
  readonly timings: GenerationTimings;
}

export interface GenerationRequest {
  /** The prompt exactly as it is: nothing is added. */
  readonly tokenIds: readonly number[];
  readonly sampling?: SamplingParamsInput;
  /** Ends the generation at once, with `finishReason: 'abort'`. */
  readonly signal?: AbortSignal;
  /** Who goes first; default `normal`. */
  readonly priority?: Priority;
  /** On whose behalf: tenants share the machine fairly. */
  readonly tenant?: string;
  /** Only requests with the same salt share cached prefixes. */
  readonly cacheSalt?: string | undefined;
  /** What the answer may be. */
  readonly grammar?: GrammarInput | undefined;
}

export interface EmbeddingRequest extends Omit<GenerationRequest, 'sampling'> {
  readonly pooling: Pooling;
}

export interface Embedding {
  /** f32 [hiddenSize], not normalised. */
  readonly values: Float32Array;
  readonly promptTokens: number;
}

/** A running generation. Iterate once; `result` is there when the iteration is over. */
export interface Generation extends AsyncIterable<GenerationPart> {
  /** Rejects with what the iteration throws. */
  readonly result: Promise<GenerationResult>;
}

export interface ChatTurn {
  readonly role: string;
  readonly content: string;
  readonly [field: string]: unknown;
}

export interface ChatRenderOptions {
  /** Functions that the model may call, as in the OpenAI API. */
  readonly tools?: readonly unknown[] | undefined;
  /** Text that the answer is made to begin with, as a model writes it. */
  readonly toolStart?: string | undefined;
  /** Ends the prompt with the beginning of an answer. Default true. */
  readonly addGenerationPrompt?: boolean;
  /** Further variables for the template, such as `enable_thinking`. */
  readonly variables?: Readonly<Record<string, unknown>>;
}

export interface TextModel {
  /** Short name, as the source calls it. */
  readonly name: string;
  /** Prompt and output together, at most. */
  readonly maxModelLen: number;
  /** Token ids of text as part of a prompt: special tokens recognised, nothing added. */
  tokenize(text: string): number[];
  /** Token ids of a whole prompt: BOS before it if the model wants one. */
  encodePrompt(text: string): number[];
  /** Token ids of a conversation. @throws {ChatTemplateError} if the model has no template or the template refuses */
  encodeChat(messages: readonly ChatTurn[], options?: ChatRenderOptions): number[];
  decode(tokenIds: readonly number[]): string;
  /** How the model writes calls of functions. */
  readonly toolStyle: ToolStyle;
  /**
   * Starts a generation.
   * @throws {RequestError | RequestTooLongError} at once if the request can never be done
   */
  generate(request: GenerationRequest): Generation;
  /**
   * The pooled final hidden state of a text.
   * @throws {RequestError | RequestTooLongError} if it can never be done; the reason of the signal if that aborts
   */
  embed(request: EmbeddingRequest): Promise<Embedding>;
  /** Width of an embedding. */
  readonly hiddenSize: number;
  /**
   * The prompt that lets a model fill in what stands between two texts; null if it was not trained for that.
   */
  encodeInfill(prefix: string, suffix: string): number[] | null;
  /** Pins prefixes, saves and restores sessions. */
  readonly calls: EngineCalls;
  /** Figures of the engine now. @throws {EngineClosedError} while there is none */
  stats(): Promise<EngineStats>;
  /** What the engine was started with. */
  readonly limits: ModelLimits;
}

export interface ModelLimits {
  /** Sequences that run side by side. */
  readonly maxSeqs: number;
  readonly numBlocks: number;
  /** Tokens per KV block. */
  readonly blockSize: number;
}
