/**
 * What the rest of hasten knows of a tokenizer: text to ids and back. Says nothing of where it was loaded from or how it
 * works; `tokenizer.ts` chooses the implementation.
 */

export interface EncodeOptions {
  /** Add BOS/EOS the way the model does; default false. */
  readonly addSpecial?: boolean;
  /** Recognise the text of special (control) tokens; default true. User-defined added tokens are always recognised. */
  readonly parseSpecial?: boolean;
  /**
   * A character that is dropped from the text after added tokens were recognised: placed inside the text of a special
   * token it keeps that text from being recognised. Chat rendering uses it to keep users from writing control tokens.
   */
  readonly breakMark?: string;
}

export interface DecodeOptions {
  /** Leave special (control) tokens out of the text; default false. */
  readonly skipSpecial?: boolean;
  /**
   * The ids continue a text (generated after a prompt): keep the leading space that SentencePiece tokenizers with a
   * space prefix otherwise drop; default false.
   */
  readonly isContinuation?: boolean;
}

/** Turns ids into text as they come, complete characters only. */
export interface DecoderStream {
  /** The text that this id completes, often a word, sometimes nothing. @throws {TokenizerError} on an invalid id */
  push(id: number): string;
  /** What is left at the end: nothing, or U+FFFD for a character that was never completed. The stream starts anew. */
  end(): string;
}

/** Views that are not to be written to. */
export interface TokenTable {
  /** Where each token's bytes begin, u32 `[vocabSize + 1]`. */
  readonly offsets: Uint32Array;
  readonly bytes: Uint8Array;
  /** 1 for special (control) tokens, u8 `[vocabSize]`. */
  readonly specials: Uint8Array;
}

export interface Tokenizer {
  /** Number of ids; a model may have more logits than that (padding), those ids have no text. */
  readonly vocabSize: number;
  readonly bosTokenId: number | null;
  /** Every id that ends a turn, from the tokenizer's own metadata (eos, eot, eom); the first is the file's EOS. */
  readonly eosTokenIds: readonly number[];
  /** Whether `addSpecial` puts anything before the text. */
  readonly addsBos: boolean;
  /** Whether `addSpecial` puts anything after the text. */
  readonly addsEos: boolean;
  /** The default chat template, raw Jinja. */
  readonly chatTemplate: string | null;
  /** All chat templates by name; the default one is `default`, the one for tools, where there is one, `tool_use`. */
  readonly chatTemplates?: ReadonlyMap<string, string>;
  /** Builds what encoding needs and decoding does not, if that has not been done yet; the first text does it otherwise. @throws {TokenizerError} */
  prepareEncoding(): void;
  /** Lone surrogates are encoded as U+FFFD. */
  encode(text: string, options?: EncodeOptions): number[];
  /** Bytes that are not UTF-8 become U+FFFD. @throws {TokenizerError} on an invalid id */
  decode(ids: ArrayLike<number>, options?: DecodeOptions): string;
  /** The bytes that a token adds to a text (`logprobs.bytes`); not to be written to. @throws {TokenizerError} on an invalid id */
  tokenBytes(id: number): Uint8Array;
  /** The same of all tokens, without an object for each. */
  readonly tokenTable: TokenTable;
  /** Whether this is a special (control) token; false for ids outside the vocabulary. */
  isSpecial(id: number): boolean;
  /** The id of a token as the file spells it (`<|im_end|>`, `Ġthe`, `▁the`). */
  tokenToId(text: string): number | undefined;
  /** The token as the file spells it. */
  idToToken(id: number): string | undefined;
  createDecoderStream(options?: DecodeOptions): DecoderStream;
}
