/**
 * How long the work for one HTTP request may go on: until it is answered, its client is gone, its time is up, or the server ends it.
 */
import type { ServerResponse } from 'node:http';
import { HastenError } from '../platform/errors.ts';
import { ApiError } from './errors.ts';

export class ClientGoneError extends HastenError {
  constructor() {
    super('client_gone', 'the client closed the connection');
  }
}

export interface RequestScopeOptions {
  /** Aborts when the server stops waiting for running requests. */
  readonly shutdown: AbortSignal;
  /** null: no limit. */
  readonly timeoutMs: number | null;
  readonly slowReaderMs: number;
  /** Called once, when the work has ended. */
  readonly release: () => void;
}

/** Leaving the scope aborts whatever still runs for the request, such as the other choices when one has failed. */
export class RequestScope implements Disposable {
  readonly signal: AbortSignal;
  /** Time after which a reader that reads nothing is given up. */
  readonly slowReaderMs: number;
  readonly #controller = new AbortController();
  readonly #timer: NodeJS.Timeout | undefined;
  readonly #release: () => void;

  constructor(response: ServerResponse, options: RequestScopeOptions) {
    const { shutdown, timeoutMs, slowReaderMs, release } = options;
    this.slowReaderMs = slowReaderMs;
    this.signal = AbortSignal.any([this.#controller.signal, shutdown]);
    this.#release = release;
    if (timeoutMs !== null) {
      const reason = new ApiError(408, `not done within ${timeoutMs / 1000} s`, {
        type: 'server_error',
        code: 'request_timeout',
      });
      this.#timer = setTimeout(() => this.#controller.abort(reason), timeoutMs);
    }
    response.once('close', () => {
      if (!response.writableFinished) this.#controller.abort(new ClientGoneError());
    });
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#controller.abort(new ClientGoneError());
    this.#release();
  }
}
