/** The tokens of a model as grammars see them: bytes, and which of them have no text of their own. Plain data; may lie in shared memory. */
import { codeUnitOfByte } from '../tokenizer/byte-alphabet.ts';

export interface GrammarVocabulary {
  /** Where each token's bytes begin, i32 `[numTokens + 1]`. */
  readonly offsets: Int32Array;
  readonly bytes: Uint8Array;
  /** 1 for control tokens, which are never part of a text, u8 `[numTokens]`. */
  readonly isSpecial: Uint8Array;
  /** Logits of the model: ids from `numTokens` on have no text. */
  readonly vocabSize: number;
  readonly eosTokenIds: readonly number[];
}

/** 32-bit words of a mask over the vocabulary. */
export function maskWords(vocabSize: number): number {
  return Math.ceil(vocabSize / 32);
}

/**
 * Every token in GPT-2's byte alphabet, in which bytes that are half a character can be written, too. Control tokens and those without text
 * are empty, and are then in no text.
 */
export function spelledTokens({
  offsets,
  bytes,
  isSpecial,
  vocabSize,
}: GrammarVocabulary): string[] {
  const numTokens = offsets.length - 1;
  return Array.from({ length: vocabSize }, (_, id) => {
    if (id >= numTokens || isSpecial[id] === 1) return '';
    let text = '';
    for (let at = offsets[id]!; at < offsets[id + 1]!; at++) {
      text += String.fromCharCode(codeUnitOfByte[bytes[at]!]!);
    }
    return text;
  });
}
