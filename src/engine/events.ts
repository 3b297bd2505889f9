/**
 * What the engine tells about a request: token events, then exactly one finish event. Plain data, so that it crosses a process border as it is.
 */

import type { TokenLogprob } from './logprobs.ts';
import type { PreparedRequest } from './request.ts';

export interface TokenEvent {
  readonly type: 'token';
  readonly requestId: string;
  readonly tokenId: number;
  /** Text that this token released: may be empty (half a character, or text held back because it may become a stop string), or several tokens'. */
  readonly text: string;
  /** With `logprobs` asked for: of this token, natural logarithm. */
  readonly logprob?: number;
  /** With `logprobs` above 0: the most probable tokens at this place, best first. */
  readonly topLogprobs?: readonly TokenLogprob[];
}

/** `stop`: an EOS id, stop id or stop string; `length`: `maxTokens` reached. */
export type FinishReason = 'stop' | 'length' | 'abort' | 'error';

export interface Usage {
  readonly promptTokens: number;
  /** Tokens that had an event (EOS and stop ids have none), those before a resumption included. */
  readonly completionTokens: number;
  /** Prompt tokens whose keys and values came from the prefix cache. */
  readonly cachedTokens: number;
}

/** Milliseconds; `null` for what was not reached. */
export interface Timings {
  /** Arrival to the first step it took part in. */
  readonly queueMs: number | null;
  /** From there to the first token. */
  readonly promptMs: number | null;
  /** Arrival to the first token. */
  readonly ttftMs: number | null;
  /** First token to last token. */
  readonly outputMs: number | null;
  /** Arrival to the end. */
  readonly totalMs: number;
}

export interface FinishEvent {
  readonly type: 'finish';
  readonly requestId: string;
  readonly reason: FinishReason;
  /** The stop string, or the id out of `stopTokenIds`; `null` for an EOS id and for every other reason. */
  readonly stopReason: string | number | null;
  /** Text that was held back and is now known to belong to the output. */
  readonly text: string;
  readonly usage: Usage;
  readonly timings: Timings;
  /** With reason `error`. */
  readonly error?: { readonly code: string; readonly message: string };
  /** Of a request with `pooling`: the pooled hidden state, f32 [hiddenSize]. */
  readonly embedding?: Float32Array;
}

export type EngineEvent = TokenEvent | FinishEvent;

/** The end of a request that no engine has in hand: refused on arrival, or left without an engine. */
export function unservedFinish(
  request: PreparedRequest,
  reason: 'abort' | 'error',
  error?: FinishEvent['error'],
): FinishEvent {
  return {
    type: 'finish',
    requestId: request.requestId,
    reason,
    stopReason: null,
    text: '',
    usage: {
      promptTokens: request.promptTokenIds.length,
      completionTokens: request.outputTokenIds.length,
      cachedTokens: 0,
    },
    timings: { queueMs: null, promptMs: null, ttftMs: null, outputMs: null, totalMs: 0 },
    ...(error !== undefined && { error }),
  };
}
