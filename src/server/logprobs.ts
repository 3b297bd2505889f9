/** Log probabilities in the shapes of the two endpoints. */
import type { TokenLogprobs, TokenProbability } from '../app/text-model.ts';

/** A token as text; bytes that are no UTF-8 by themselves are spelled `bytes:\xe2\x82`, as OpenAI does. */
function tokenText(bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return `bytes:${[...bytes].map((byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join('')}`;
  }
}

function entry({ bytes, logprob }: TokenProbability) {
  return { token: tokenText(bytes), logprob: finite(logprob), bytes: [...bytes] };
}

/** JSON has no infinity; OpenAI writes -9999 for a probability of zero. */
function finite(logprob: number): number {
  return Number.isFinite(logprob) ? logprob : -9999;
}

/** `choices[].logprobs` of chat completions. */
export function chatLogprobs(tokens: readonly TokenLogprobs[]) {
  return {
    content: tokens.map((token) => ({ ...entry(token), top_logprobs: token.top.map(entry) })),
    refusal: null,
  };
}

/**
 * `choices[].logprobs` of completions.
 * @param offset characters of the answer before these tokens
 */
export function completionLogprobs(tokens: readonly TokenLogprobs[], offset: number) {
  const offsets: number[] = [];
  let position = offset;
  for (const { bytes } of tokens) {
    offsets.push(position);
    position += tokenText(bytes).length;
  }
  return {
    tokens: tokens.map(({ bytes }) => tokenText(bytes)),
    token_logprobs: tokens.map(({ logprob }) => finite(logprob)),
    top_logprobs: tokens.map(({ top }) =>
      Object.fromEntries(top.map(({ bytes, logprob }) => [tokenText(bytes), finite(logprob)])),
    ),
    text_offset: offsets,
  };
}
