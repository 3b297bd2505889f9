/** Tokenizers of a few tokens for tests, through the same doors as real ones. */
import type { Tokenizer } from '../contract.ts';
import { tokenizerFromGguf } from '../gguf-tokenizer.ts';

/** Byte-level GGUF metadata with the given tokens (type normal), no merges. */
export function gpt2Metadata(tokens: readonly string[]): Map<string, unknown> {
  return new Map<string, unknown>([
    ['tokenizer.ggml.model', 'gpt2'],
    ['tokenizer.ggml.pre', 'gpt-2'],
    ['tokenizer.ggml.tokens', tokens],
    ['tokenizer.ggml.token_type', new Int32Array(tokens.length).fill(1)],
    ['tokenizer.ggml.merges', []],
  ]);
}

export function gpt2Like(tokens: readonly string[]): Tokenizer {
  return tokenizerFromGguf(gpt2Metadata(tokens));
}

/** SentencePiece GGUF metadata: `[token, score, type]`. */
export function sentencePieceMetadata(
  tokens: readonly (readonly [string, number, number])[],
): Map<string, unknown> {
  return new Map<string, unknown>([
    ['tokenizer.ggml.model', 'llama'],
    ['tokenizer.ggml.tokens', tokens.map(([token]) => token)],
    ['tokenizer.ggml.scores', Float32Array.from(tokens, ([, score]) => score)],
    ['tokenizer.ggml.token_type', Int32Array.from(tokens, ([, , type]) => type)],
  ]);
}
