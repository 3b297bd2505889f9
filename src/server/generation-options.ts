/** From the wire's field names to the engine's sampling parameters. */
import type { SamplingParamsInput } from '../engine/sampling-params.ts';
import type { SharedFields } from './request-schemas.ts';

export interface AnswerLimits {
  /** null: as many as fit. */
  readonly maxTokens: number | null;
  /** null: no logprobs; 0: of the chosen token only. */
  readonly logprobs: number | null;
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
