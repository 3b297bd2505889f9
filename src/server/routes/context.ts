/** What every route is given. */
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { ServedModel } from '../served-model.ts';

export interface RouteContext {
  readonly served: ServedModel;
  /** Aborts when the server stops waiting for running requests. */
  readonly shutdown: AbortSignal;
}

export type Route = (server: FastifyInstance, context: RouteContext) => void;

/** Tells the log, not the client, of fields that were not understood. */
export function warnOfUnknownFields(request: FastifyRequest, fields: readonly string[]): void {
  if (fields.length > 0) request.log.warn({ fields }, 'ignored unknown fields of the body');
}
