/**
 * Text from token ids as they come: holds back the bytes of a character until it is complete. Knows of a tokenizer only
 * what bytes an id has and whether it is special.
 */
import type { DecoderStream, Tokenizer } from './contract.ts';

const SHORT = 32;

function isShortAscii(bytes: Uint8Array): boolean {
  if (bytes.length > SHORT) return false;
  for (let i = 0; i < bytes.length; i++) if (bytes[i]! >= 0x80) return false;
  return true;
}

export class Utf8DecoderStream implements DecoderStream {
  readonly #tokenizer: Pick<Tokenizer, 'tokenBytes' | 'isSpecial'>;
  readonly #skipsSpecial: boolean;
  readonly #stripsLeadingSpace: boolean;
  // `ignoreBOM` keeps a U+FEFF in the text, as decoding it all at once does.
  readonly #decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  /** Whether the decoder may hold the beginning of a character. */
  #mayHold = false;
  #isAtStart = true;

  constructor(
    tokenizer: Pick<Tokenizer, 'tokenBytes' | 'isSpecial'>,
    skipsSpecial: boolean,
    stripsLeadingSpace: boolean,
  ) {
    this.#tokenizer = tokenizer;
    this.#skipsSpecial = skipsSpecial;
    this.#stripsLeadingSpace = stripsLeadingSpace;
  }

  push(id: number): string {
    const bytes = this.#tokenizer.tokenBytes(id); // first: it checks the id
    if (this.#skipsSpecial && this.#tokenizer.isSpecial(id)) return '';
    return this.#withoutLeadingSpace(this.#decode(bytes));
  }

  end(): string {
    const rest = this.#withoutLeadingSpace(this.#decoder.decode());
    this.#mayHold = false;
    this.#isAtStart = true;
    return rest;
  }

  /** Most tokens are a few ASCII characters: for those a call of the decoder takes ten times as long as putting them together. */
  #decode(bytes: Uint8Array): string {
    const isAscii = isShortAscii(bytes);
    if (isAscii && !this.#mayHold) return String.fromCharCode(...bytes);
    this.#mayHold = !isAscii;
    return this.#decoder.decode(bytes, { stream: true });
  }

  #withoutLeadingSpace(text: string): string {
    if (!this.#isAtStart || text === '') return text;
    this.#isAtStart = false;
    return this.#stripsLeadingSpace && text.startsWith(' ') ? text.slice(1) : text;
  }
}
