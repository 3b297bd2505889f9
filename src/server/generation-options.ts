/** From the wire's field names to the engine's sampling parameters. */

import type { FastifyRequest } from 'fastify';
import type { GenerationRequest } from '../app/text-model.ts';
import { PRIORITIES, type Priority } from '../engine/priority.ts';
import type { SamplingParamsInput } from '../engine/sampling-params.ts';
import { badRequest } from './errors.ts';
import type { SharedFields } from './request-schemas.ts';

export interface AnswerLimits {
  /** null: as many as fit. */
  readonly maxTokens: number | null;
  /** null: no logprobs; 0: of the chosen token only. */
  readonly logprobs: number | null;
}

/** In a header, for clients whose library has no word for it. */
const PRIORITY_HEADER = 'x-priority';

/**
 * Who goes first, on whose behalf, and who shares cached prefixes: by the body's fields or the header, and by API key.
 * @throws {ApiError} 400 if the header holds no class
 */
export function standingOf(
  request: FastifyRequest,
  body: { readonly priority?: Priority | undefined; readonly cache_salt?: string | undefined },
): Pick<GenerationRequest, 'priority' | 'tenant' | 'cacheSalt'> {
  const given = request.headers[PRIORITY_HEADER];
  const fromHeader = PRIORITIES.find((priority) => priority === given);
  if (given !== undefined && fromHeader === undefined) {
    const accepted = PRIORITIES.join(', ');
    throw badRequest(
      PRIORITY_HEADER,
      `${PRIORITY_HEADER}: expected one of ${accepted}, got "${given}"`,
    );
  }
  const { priority = fromHeader, cache_salt: cacheSalt } = body;
  return { tenant: request.caller, cacheSalt, ...(priority !== undefined && { priority }) };
}

/**
 * @param choice index among the request's `n` answers: each draws with a seed of its own
 */
export function samplingOf(
  request: SharedFields,
  limits: AnswerLimits,
  choice: number,
): SamplingParamsInput {
  return {
    temperature: request.temperature,
    topP: request.top_p,
    topK: request.top_k,
    minP: request.min_p,
    seed: request.seed === undefined ? undefined : request.seed + choice,
    stop: request.stop,
    stopTokenIds: request.stop_token_ids,
    logitBias: request.logit_bias,
    frequencyPenalty: request.frequency_penalty,
    presencePenalty: request.presence_penalty,
    repetitionPenalty: request.repetition_penalty,
    ignoreEos: request.ignore_eos,
    maxTokens: limits.maxTokens,
    logprobs: limits.logprobs,
  };
}
