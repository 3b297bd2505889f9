/** Token counts of a request, as the API reports them. */
import type { GenerationResult } from '../app/text-model.ts';

export interface Usage {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly total_tokens: number;
  readonly prompt_tokens_details: { readonly cached_tokens: number };
}

/** @param results of every choice, `choicesPerPrompt` in a row sharing one prompt, which counts once */
export function usageOf(results: readonly GenerationResult[], choicesPerPrompt: number): Usage {
  let promptTokens = 0;
  let cachedTokens = 0;
  let outputTokens = 0;
  results.forEach((result, index) => {
    outputTokens += result.timings.outputTokens;
    if (index % choicesPerPrompt !== 0) return;
    promptTokens += result.timings.promptTokens;
    cachedTokens += result.cachedTokens;
  });
  return {
    prompt_tokens: promptTokens,
    completion_tokens: outputTokens,
    total_tokens: promptTokens + outputTokens,
    prompt_tokens_details: { cached_tokens: cachedTokens },
  };
}
