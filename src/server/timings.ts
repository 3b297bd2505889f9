/** `timings` of an answer, as llama.cpp's server gives them. */
import type { GenerationResult } from '../app/text-model.ts';

export function timingsOf({ timings, cachedTokens }: GenerationResult) {
  const { promptTokens, promptMs, outputTokens, outputMs } = timings;
  const promptCount = promptTokens - cachedTokens;
  // The first token comes with the prompt.
  const outputCount = Math.max(0, outputTokens - 1);
  return {
    cache_n: cachedTokens,
    prompt_n: promptCount,
    prompt_ms: promptMs,
    prompt_per_token_ms: promptMs / Math.max(1, promptCount),
    prompt_per_second: perSecond(promptCount, promptMs),
    predicted_n: outputTokens,
    predicted_ms: outputMs,
    predicted_per_token_ms: outputMs / Math.max(1, outputCount),
    predicted_per_second: perSecond(outputCount, outputMs),
  };
}

function perSecond(count: number, ms: number): number {
  return ms > 0 ? (count * 1000) / ms : 0;
}
