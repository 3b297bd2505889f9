/** A signal that aborts when the client of a response is gone before it was answered. */
import type { ServerResponse } from 'node:http';
import { HastenError } from '../platform/errors.ts';

export class ClientGoneError extends HastenError {
  constructor() {
    super('client_gone', 'the client closed the connection');
  }
}

/**
 * @param shutdown aborts too when the server stops waiting for running requests
 */
export function clientSignal(response: ServerResponse, shutdown: AbortSignal): AbortSignal {
  const controller = new AbortController();
  response.once('close', () => {
    if (!response.writableFinished) controller.abort(new ClientGoneError());
  });
  return AbortSignal.any([controller.signal, shutdown]);
}
