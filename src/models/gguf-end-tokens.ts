/**
 * Which ids end a text, from GGUF metadata. Converters write one or two of them; the others are found by their text, as llama.cpp does.
 */
import type { ConfigFields } from './config-fields.ts';

const ID_KEYS = ['eos_token_id', 'eot_token_id', 'eom_token_id'];

/** End-of-turn and end-of-text markers of published vocabularies. */
const COMMON_END_TEXTS = [
  '<|im_end|>',
  '<|endoftext|>',
  '<|end_of_text|>',
  '<|eot_id|>',
  '<|eom_id|>',
  '<|end|>',
  '<end_of_turn>',
];

/** Token types of GGUF vocabularies. */
const CONTROL = 3;
const USER_DEFINED = 4;

/**
 * @param ownEndTexts further markers of this architecture
 * @param all the file's metadata by full keys
 * @returns ids in ascending order
 */
export function endOfTextIds(
  all: ConfigFields,
  ownEndTexts: readonly string[] = [],
): readonly number[] {
  const endTexts = new Set([...COMMON_END_TEXTS, ...ownEndTexts]);
  const ids = new Set(ID_KEYS.flatMap((key) => all.tokenIds(`tokenizer.ggml.${key}`)));
  const types = all.list('tokenizer.ggml.token_type') ?? [];
  const found = all.strings('tokenizer.ggml.tokens')?.find(endTexts);
  for (const id of [...(found?.values() ?? [])].flat()) {
    if (types[id] === CONTROL || types[id] === USER_DEFINED) ids.add(id);
  }
  return [...ids].sort((a, b) => a - b);
}
