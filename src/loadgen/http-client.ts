/**
 * Sends one streaming completion and times what comes back. Knows HTTP and the clock; knows nothing of schedules nor of what the prompts are for.
 *
 * Built on `node:http` rather than `fetch`: the data event of a socket is one call away from the clock, where fetch puts a web stream between.
 * Redirects are not followed and no proxy is used, so that a load goes nowhere but where it was sent.
 */
import http from 'node:http';
import https from 'node:https';
import {
  errorMessage,
  MalformedChunkError,
  parseChunk,
  StreamedError,
  type StreamUsage,
} from './completion-stream.ts';
import type { FailReason, Outcome } from './outcome.ts';
import { SseDecoder } from './sse-decoder.ts';
import { endpointUrl, type Target } from './target.ts';

export interface ClientTimeouts {
  /** For the whole of a request. */
  readonly totalMs: number;
  /** Without a byte. */
  readonly stallMs: number;
}

/** What one request showed; see RequestRecord for the meaning of the times. */
export interface Exchange {
  /** performance.now() at the moment of sending. */
  readonly sentAtMs: number;
  readonly endToEndMs: number;
  readonly ttftMs: number | null;
  readonly interTokenMs: readonly number[];
  readonly usage: StreamUsage | null;
  readonly pieces: number;
  readonly text: string;
  readonly outcome: Outcome;
}

/** A kept connection that was closed is noticed about a round trip after sending; what breaks later is the server's doing. */
const STALE_WITHIN_MS = 1000;
/** An error body is read up to here, for its message. */
const MAX_ERROR_BYTES = 64 * 1024;

export class CompletionClient implements Disposable {
  readonly #target: Target;
  readonly #timeouts: ClientTimeouts;
  readonly #agent: http.Agent;
  #numResent = 0;

  constructor(target: Target, timeouts: ClientTimeouts) {
    this.#target = target;
    this.#timeouts = timeouts;
    const isSecure = target.baseUrl.protocol === 'https:';
    this.#agent = isSecure
      ? new https.Agent({ keepAlive: true, maxSockets: Number.POSITIVE_INFINITY })
      : new http.Agent({ keepAlive: true, maxSockets: Number.POSITIVE_INFINITY });
  }

  /**
   * Never rejects: whatever happens is the outcome.
   * @param keepText whether the answer's text is wanted
   */
  async send(
    path: string,
    body: unknown,
    headers: Readonly<Record<string, string>>,
    signal: AbortSignal,
    keepText: boolean,
  ): Promise<Exchange> {
    const job = {
      url: endpointUrl(this.#target, path),
      payload: Buffer.from(JSON.stringify(body)),
      headers: { ...this.#target.headers, ...headers },
    };
    const first = new ExchangeRun(this.#timeouts, keepText);
    const exchange = await first.run({ ...job, agent: this.#agent }, signal);
    if (!first.hitStaleConnection) return exchange;
    // The server had closed a kept connection just when it was used again, and has not seen the request: once more, on a fresh one.
    this.#numResent++;
    const second = new ExchangeRun(this.#timeouts, keepText, exchange.sentAtMs);
    return await second.run({ ...job, agent: false }, signal);
  }

  /** Requests that met a kept connection which the server was just closing, and were sent again. */
  get numResent(): number {
    return this.#numResent;
  }

  [Symbol.dispose](): void {
    this.#agent.destroy();
  }
}

interface HttpJob {
  readonly url: URL;
  readonly payload: Buffer;
  readonly agent: http.Agent | false;
  readonly headers: Readonly<Record<string, string>>;
}

class ExchangeRun {
  readonly #timeouts: ClientTimeouts;
  readonly #keepText: boolean;
  readonly #decoder = new SseDecoder();
  readonly #sentAtMs: number;
  readonly #settled = Promise.withResolvers<Outcome>();
  #ttftMs: number | null = null;
  #lastPieceAtMs = 0;
  readonly #interTokenMs: number[] = [];
  #pieces = 0;
  #text = '';
  #usage: StreamUsage | null = null;
  #finishReason: string | null = null;
  #hasResponse = false;
  #endedAtMs = 0;
  #stallTimer: NodeJS.Timeout | undefined;
  hitStaleConnection = false;

  constructor(timeouts: ClientTimeouts, keepText: boolean, sentAtMs = performance.now()) {
    this.#timeouts = timeouts;
    this.#keepText = keepText;
    this.#sentAtMs = sentAtMs;
  }

  async run({ url, payload, agent, headers }: HttpJob, signal: AbortSignal): Promise<Exchange> {
    const send = url.protocol === 'https:' ? https.request : http.request;
    const request = send(url, {
      method: 'POST',
      agent,
      headers: {
        accept: 'text/event-stream',
        'content-type': 'application/json',
        'content-length': payload.length,
        ...headers,
      },
    });
    const { totalMs, stallMs } = this.#timeouts;
    const total = setTimeout(() => this.#fail('timeout', `not done after ${totalMs} ms`), totalMs);
    this.#stallTimer = setTimeout(
      () => this.#fail('stalled', `nothing came for ${stallMs} ms`),
      stallMs,
    );
    const onAbort = (): void => this.#fail('cut_off', 'the run ended first');
    signal.addEventListener('abort', onAbort, { once: true });
    if (signal.aborted) onAbort();
    request.on('socket', (socket) => socket.setNoDelay(true));
    request.on('response', (response) => this.#onResponse(response));
    request.on('error', (error: NodeJS.ErrnoException) => {
      const isUnanswered = this.#endedAtMs === 0 && !this.#hasResponse;
      const isEarly = performance.now() - this.#sentAtMs < STALE_WITHIN_MS;
      this.hitStaleConnection =
        isUnanswered && isEarly && request.reusedSocket && error.code === 'ECONNRESET';
      const isConnecting = error.syscall === 'connect' || error.syscall === 'getaddrinfo';
      this.#fail(isConnecting ? 'connect' : 'reset', error.message);
    });
    request.end(payload);
    const outcome = await this.#settled.promise;
    clearTimeout(total);
    clearTimeout(this.#stallTimer);
    signal.removeEventListener('abort', onAbort);
    // A finished answer has given its connection back already.
    if (outcome.kind === 'failed') request.destroy();
    return {
      sentAtMs: this.#sentAtMs,
      endToEndMs: this.#endedAtMs - this.#sentAtMs,
      ttftMs: this.#ttftMs,
      interTokenMs: this.#interTokenMs,
      usage: this.#usage,
      pieces: this.#pieces,
      text: this.#text,
      outcome,
    };
  }

  #settle(outcome: Outcome): void {
    if (this.#endedAtMs !== 0) return;
    this.#endedAtMs = performance.now();
    this.#settled.resolve(outcome);
  }

  #fail(reason: FailReason, message: string, status: number | null = null): void {
    this.#settle({ kind: 'failed', reason, status, message });
  }

  #onResponse(response: http.IncomingMessage): void {
    const status = response.statusCode ?? 0;
    const type = response.headers['content-type'] ?? '';
    this.#hasResponse = true;
    response.on('error', (error) => this.#fail('reset', error.message));
    response.on('aborted', () => this.#fail('reset', 'the connection broke'));
    if (status !== 200) {
      this.#readError(response, status);
    } else if (!type.startsWith('text/event-stream')) {
      response.resume();
      this.#fail('malformed', `expected an event stream, got "${type}"`, status);
    } else {
      response.on('data', (part: Buffer) => this.#onData(part));
      response.on('end', () => this.#onEnd());
    }
  }

  #readError(response: http.IncomingMessage, status: number): void {
    const parts: Buffer[] = [];
    let numBytes = 0;
    response.on('data', (part: Buffer) => {
      this.#stallTimer?.refresh();
      if (numBytes < MAX_ERROR_BYTES) parts.push(part);
      numBytes += part.length;
    });
    response.on('end', () => {
      const message = bodyMessage(Buffer.concat(parts).toString()) ?? `HTTP ${status}`;
      if (status === 429 || status === 503) {
        const retryAfterMs = parseRetryAfter(response.headers['retry-after'], Date.now());
        this.#settle({ kind: 'refused', status, retryAfterMs, message });
      } else {
        this.#fail(status >= 500 ? 'server_error' : 'client_error', message, status);
      }
    });
  }

  #onData(part: Buffer): void {
    const now = performance.now();
    this.#stallTimer?.refresh();
    try {
      for (const data of this.#decoder.push(part)) this.#onEvent(data, now);
    } catch (error) {
      const reason = error instanceof StreamedError ? 'error_event' : 'malformed';
      const isExpected =
        error instanceof StreamedError ||
        error instanceof MalformedChunkError ||
        error instanceof RangeError;
      if (!isExpected) throw error;
      this.#fail(reason, error.message, 200);
    }
  }

  #onEvent(data: string, now: number): void {
    if (data === '[DONE]') {
      // Settled now: a connection that breaks after the last word is no fault of the answer.
      this.#settle({ kind: 'finished', finishReason: this.#finishReason });
      return;
    }
    const { content, text, finishReason, usage } = parseChunk(data);
    this.#finishReason = finishReason ?? this.#finishReason;
    this.#usage = usage ?? this.#usage;
    if (this.#keepText) this.#text += text;
    if (content === '') return;
    if (this.#ttftMs === null) this.#ttftMs = now - this.#sentAtMs;
    else this.#interTokenMs.push(now - this.#lastPieceAtMs);
    this.#lastPieceAtMs = now;
    this.#pieces++;
  }

  #onEnd(): void {
    if (this.#finishReason !== null) {
      this.#settle({ kind: 'finished', finishReason: this.#finishReason });
    } else {
      this.#fail('truncated', 'the stream ended before the answer did', 200);
    }
  }
}

function bodyMessage(text: string): string | undefined {
  try {
    return errorMessage(JSON.parse(text));
  } catch {
    return text.trim().slice(0, 200) || undefined;
  }
}

/** Seconds or an HTTP date; null if there is none or it cannot be read. */
export function parseRetryAfter(value: string | undefined, nowMs: number): number | null {
  if (value === undefined) return null;
  if (/^\d+$/.test(value.trim())) return Number(value) * 1000;
  const date = Date.parse(value);
  return Number.isNaN(date) ? null : Math.max(0, date - nowMs);
}
