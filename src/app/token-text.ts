/**
 * What an engine on another thread needs of a tokenizer: the bytes of each token, as one block of shared memory. Reading a tokenizer takes
 * longer than starting an engine, so only one thread does it.
 */
import type { DecoderSource } from '../engine/sequence.ts';
import type { GrammarVocabulary } from '../grammar/vocabulary.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import { Utf8DecoderStream } from '../tokenizer/utf8-decoder-stream.ts';

/** Plain data over shared memory: passing it on copies nothing. */
export interface TokenText {
  /** Where each token's bytes begin, i32 `[vocabSize + 1]`. */
  readonly offsets: Int32Array;
  readonly bytes: Uint8Array;
  /** 1 for control tokens, u8 `[vocabSize]`. */
  readonly isSpecial: Uint8Array;
}

export function tokenTextOf({ tokenTable }: Tokenizer): TokenText {
  const offsets = new Int32Array(new SharedArrayBuffer(4 * tokenTable.offsets.length));
  const bytes = new Uint8Array(new SharedArrayBuffer(tokenTable.bytes.length));
  const isSpecial = new Uint8Array(new SharedArrayBuffer(tokenTable.specials.length));
  offsets.set(tokenTable.offsets);
  bytes.set(tokenTable.bytes);
  isSpecial.set(tokenTable.specials);
  return { offsets, bytes, isSpecial };
}

const NO_BYTES = new Uint8Array();

/** What grammars need of a text: the model may have more logits than its tokenizer has tokens, or the other way round. */
export function grammarVocabulary(
  text: TokenText,
  vocabSize: number,
  eosTokenIds: readonly number[],
): GrammarVocabulary {
  const numTokens = Math.min(vocabSize, text.offsets.length - 1);
  return {
    offsets: text.offsets.subarray(0, numTokens + 1),
    bytes: text.bytes,
    isSpecial: text.isSpecial,
    vocabSize,
    eosTokenIds: eosTokenIds.filter((id) => id < vocabSize),
  };
}

/** Text of output, which continues a prompt: special tokens shown, no space taken away. Ids without a token have no text. */
export function decoderSource(text: TokenText | null): DecoderSource {
  const tokenBytes = (id: number): Uint8Array => {
    if (text === null || id + 1 >= text.offsets.length) return NO_BYTES;
    // A copy, as TextDecoder takes no shared memory; a handful of bytes.
    return text.bytes.slice(text.offsets[id], text.offsets[id + 1]);
  };
  const source = { tokenBytes, isSpecial: () => false };
  return { createDecoderStream: () => new Utf8DecoderStream(source, false, false) };
}
