/**
 * A byte-level BPE tokenizer of any size, in GGUF metadata, that every engine accepts: the 256 bytes, pairs of letters with a merge
 * each, and names that no text has for the rest. Knows nothing of models.
 */
import { codeUnitOfByte } from '../../src/tokenizer/byte-alphabet.ts';
import type { GgufEntry } from '../../src/weights/gguf-header.ts';

const LETTERS = 'abcdefghijklmnopqrstuvwxyz';
const TOKEN_TYPE_NORMAL = 1;
const TOKEN_TYPE_CONTROL = 3;
const END_OF_TEXT = '<|endoftext|>';

/** @throws {RangeError} if `vocabSize` leaves no room for the bytes */
export function plainTokenizer(vocabSize: number): [string, GgufEntry][] {
  if (vocabSize < 257) throw new RangeError(`vocabSize is ${vocabSize}; expected at least 257`);
  const bytes = Array.from(codeUnitOfByte, (unit) => String.fromCharCode(unit));
  const pairs = [...LETTERS].flatMap((a) => [...LETTERS].map((b) => [a, b] as const));
  const merged = pairs.slice(0, vocabSize - 257);
  const named = [END_OF_TEXT, ...bytes, ...merged.map(([a, b]) => a + b)];
  const rest = Array.from({ length: vocabSize - named.length }, (_, i) => `<unused${i}>`);
  const tokens = [...named, ...rest];
  const types = Int32Array.from(tokens, (_, id) =>
    id === 0 || id >= named.length ? TOKEN_TYPE_CONTROL : TOKEN_TYPE_NORMAL,
  );
  return [
    ['tokenizer.ggml.model', { type: 'string', value: 'gpt2' }],
    ['tokenizer.ggml.pre', { type: 'string', value: 'gpt-2' }],
    ['tokenizer.ggml.tokens', { type: 'array', of: 'string', value: tokens }],
    ['tokenizer.ggml.token_type', { type: 'array', of: 'i32', value: types }],
    [
      'tokenizer.ggml.merges',
      { type: 'array', of: 'string', value: merged.map(([a, b]) => `${a} ${b}`) },
    ],
    ['tokenizer.ggml.bos_token_id', { type: 'u32', value: 0 }],
    ['tokenizer.ggml.eos_token_id', { type: 'u32', value: 0 }],
    ['tokenizer.ggml.add_bos_token', { type: 'bool', value: false }],
  ];
}
