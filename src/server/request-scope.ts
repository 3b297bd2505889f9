/** How long the work for one HTTP request may go on: until it is answered, its client is gone, or the server ends it. */
import type { ServerResponse } from 'node:http';
import { HastenError } from '../platform/errors.ts';

export class ClientGoneError extends HastenError {
  constructor() {
    super('client_gone', 'the client closed the connection');
  }
}

/** Leaving the scope aborts whatever still runs for the request, such as the other choices when one has failed. */
export class RequestScope implements Disposable {
  readonly signal: AbortSignal;
  readonly #controller = new AbortController();

  /** @param shutdown aborts when the server stops waiting for running requests */
  constructor(response: ServerResponse, shutdown: AbortSignal) {
    this.signal = AbortSignal.any([this.#controller.signal, shutdown]);
    response.once('close', () => {
      if (!response.writableFinished) this.#controller.abort(new ClientGoneError());
    });
  }

  [Symbol.dispose](): void {
    this.#controller.abort(new ClientGoneError());
  }
}
