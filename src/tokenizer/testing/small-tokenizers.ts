/** Tokenizers of a few tokens for tests, through the same doors as real ones. */
import type { Tokenizer } from '../contract.ts';
import { tokenizerFromGguf } from '../gguf-tokenizer.ts';

/** `<0x00>` to `<0xFF>`, what a vocabulary with byte fallback spells bytes as. */
export const BYTE_TOKENS: readonly string[] = Array.from(
  { length: 256 },
  (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`,
);

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

/** A tokenizer.json in the manner of Llama 2: space marks, byte fallback, merges. */
export function llama2Json(): Record<string, unknown> {
  const tokens = ['<unk>', '<s>', '</s>', ...BYTE_TOKENS, '▁', 'h', 'i', 'hi', '▁hi'];
  return {
    added_tokens: [
      { id: 0, content: '<unk>', special: true, normalized: false },
      { id: 1, content: '<s>', special: true, normalized: false },
      { id: 2, content: '</s>', special: true, normalized: false },
    ],
    normalizer: {
      type: 'Sequence',
      normalizers: [
        { type: 'Prepend', prepend: '▁' },
        { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
      ],
    },
    pre_tokenizer: null,
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
      special_tokens: { '<s>': { id: '<s>', ids: [1], tokens: ['<s>'] } },
    },
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
        { type: 'ByteFallback' },
        { type: 'Fuse' },
        { type: 'Strip', content: ' ', start: 1, stop: 0 },
      ],
    },
    model: {
      type: 'BPE',
      unk_token: '<unk>',
      fuse_unk: true,
      byte_fallback: true,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges: ['h i', '▁ hi'],
    },
  };
}
