/** What became of each request: the vocabulary that the client, the ledger and the summary share. Holds data only. */

/**
 * Why a request failed.
 * `connect`: no connection. `reset`: the connection broke. `stalled`: nothing came for too long. `timeout`: the whole took too long.
 * `truncated`: the stream ended without saying that it was done. `malformed`: what came is no chunk of a completion.
 * `client_error`, `server_error`: the HTTP status. `error_event`: an error inside of the stream. `cut_off`: the run ended first.
 */
export type FailReason =
  | 'connect'
  | 'reset'
  | 'stalled'
  | 'timeout'
  | 'truncated'
  | 'malformed'
  | 'client_error'
  | 'server_error'
  | 'error_event'
  | 'cut_off';

export type Outcome =
  | { readonly kind: 'finished'; readonly finishReason: string | null }
  /** The server had no room: 429 or 503. */
  | {
      readonly kind: 'refused';
      readonly status: number;
      readonly retryAfterMs: number | null;
      readonly message: string;
    }
  | {
      readonly kind: 'failed';
      readonly reason: FailReason;
      readonly status: number | null;
      readonly message: string;
    };

/** One request as the client saw it. Times are milliseconds, of a monotonic clock. */
export interface RequestRecord {
  readonly index: number;
  readonly conversation: number;
  /** Place in the conversation, from 0. */
  readonly turn: number;
  readonly priority: string | null;
  /** From the start of the run until it was due; null in a closed loop. */
  readonly dueMs: number | null;
  /** From the start of the run until it was sent. */
  readonly sentMs: number;
  /** From sending to the end of the answer, or to the fault. */
  readonly endToEndMs: number;
  /** From sending to the first content that is not empty; null if none came. */
  readonly ttftMs: number | null;
  /** Between one piece of content and the next. A piece may hold several tokens. */
  readonly interTokenMs: readonly number[];
  /** As the server counted; null where it reported no usage. */
  readonly promptTokens: number | null;
  /** As the server counted, otherwise the pieces of content. */
  readonly outputTokens: number;
  readonly cachedTokens: number | null;
  readonly outcome: Outcome;
}
