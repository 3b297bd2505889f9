/**
 * A server-sent event stream on a raw response: one `data:` line per value, as fast as the reader takes them. Knows nothing of what is sent.
 */
import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import { HastenError } from '../platform/errors.ts';
import { ClientGoneError } from './request-scope.ts';

/** A reader for whom the server has waited too long; its connection is closed. */
export class SlowReaderError extends HastenError {
  constructor(waitedMs: number) {
    super('slow_reader', `the client has read nothing for ${waitedMs / 1000} s`);
  }
}

export interface EventStreamOptions {
  /** Time without any room for more after which a reader is given up. */
  readonly slowReaderMs: number;
  readonly headers?: Readonly<Record<string, string>>;
}

export class EventStream {
  readonly #response: ServerResponse;
  readonly #signal: AbortSignal;
  readonly #slowReaderMs: number;
  #draining: Promise<void> | undefined;

  /**
   * Sends the head at once, so that the client knows that it was heard.
   * @param signal aborted when the client is gone: ends every wait
   */
  constructor(
    response: ServerResponse,
    signal: AbortSignal,
    { slowReaderMs, headers }: EventStreamOptions,
  ) {
    this.#response = response;
    this.#signal = signal;
    this.#slowReaderMs = slowReaderMs;
    response.writeHead(200, {
      ...headers,
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache, no-transform',
      'x-accel-buffering': 'no',
    });
    response.flushHeaders();
  }

  /** Sends one value; resolves when there is room for the next, so that a slow reader slows its own request only. */
  async send(value: unknown): Promise<void> {
    await this.#write(`data: ${JSON.stringify(value)}\n\n`);
  }

  /** As `send`, with the value's kind on a line of its own. */
  async sendNamed(name: string, value: unknown): Promise<void> {
    await this.#write(`event: ${name}\ndata: ${JSON.stringify(value)}\n\n`);
  }

  /** Ends the stream without another word. */
  end(): void {
    this.#response.end();
  }

  /** Ends the stream the way OpenAI's clients expect. */
  async finish(): Promise<void> {
    await this.#write('data: [DONE]\n\n');
    this.#response.end();
  }

  async #write(text: string): Promise<void> {
    this.#signal.throwIfAborted();
    // Another choice of the same request has failed and ended the stream.
    if (this.#response.writableEnded) throw new ClientGoneError();
    if (this.#response.write(text)) return;
    // One wait for all answers of a request.
    this.#draining ??= this.#drained().finally(() => {
      this.#draining = undefined;
    });
    await this.#draining;
  }

  async #drained(): Promise<void> {
    const waiting = new AbortController();
    const timer = setTimeout(() => waiting.abort(), this.#slowReaderMs);
    try {
      const signal = AbortSignal.any([this.#signal, waiting.signal]);
      await once(this.#response, 'drain', { signal });
    } catch (error) {
      if (!waiting.signal.aborted) throw error;
      this.#response.destroy();
      throw new SlowReaderError(this.#slowReaderMs);
    } finally {
      clearTimeout(timer);
    }
  }
}
