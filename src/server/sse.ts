/**
 * A server-sent event stream on a raw response: one `data:` line per value, as fast as the reader takes them. Knows nothing of what is sent.
 */
import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import { ClientGoneError } from './request-scope.ts';

export class EventStream {
  readonly #response: ServerResponse;
  readonly #signal: AbortSignal;

  /**
   * Sends the head at once, so that the client knows that it was heard.
   * @param signal aborted when the client is gone: ends every wait
   */
  constructor(response: ServerResponse, signal: AbortSignal) {
    this.#response = response;
    this.#signal = signal;
    response.writeHead(200, {
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
    await once(this.#response, 'drain', { signal: this.#signal });
  }
}
