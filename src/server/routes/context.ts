/** What every route is given. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { Pooling } from '../../engine/pooling.ts';
import type { RequestScope } from '../request-scope.ts';
import type { ServedModel } from '../served-model.ts';
import type { Telemetry } from '../telemetry.ts';

export interface RouteContext {
  readonly served: ServedModel;
  readonly telemetry: Telemetry;
  /** How embeddings are made. */
  readonly pooling: Pooling;
  /** Where a client's sessions are saved; `null`: they cannot be. */
  sessionFolder(request: FastifyRequest): string | null;
  /**
   * Lets in a request for so many answers; its work goes on for as long as the scope.
   * @throws {ApiError} 429 if there is no room for it
   */
  enter(request: FastifyRequest, reply: FastifyReply, numAnswers: number): RequestScope;
}

export type Route = (server: FastifyInstance, context: RouteContext) => void;

/** Tells the log, not the client, of fields that were not understood. */
export function warnOfUnknownFields(request: FastifyRequest, fields: readonly string[]): void {
  if (fields.length > 0) request.log.warn({ fields }, 'ignored unknown fields of the body');
}
