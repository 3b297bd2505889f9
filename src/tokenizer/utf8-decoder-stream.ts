/**
 * Text from token ids as they come: holds back the bytes of a character until it is complete. Knows of a tokenizer only
 * what bytes an id has and whether it is special.
 */
import type { DecoderStream, Tokenizer } from './contract.ts';

export class Utf8DecoderStream implements DecoderStream {
  readonly #tokenizer: Pick<Tokenizer, 'tokenBytes' | 'isSpecial'>;
  readonly #skipsSpecial: boolean;
  readonly #stripsLeadingSpace: boolean;
  // `ignoreBOM` keeps a U+FEFF in the text, as decoding it all at once does.
  readonly #decoder = new TextDecoder('utf-8', { ignoreBOM: true });
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
    return this.#withoutLeadingSpace(this.#decoder.decode(bytes, { stream: true }));
  }

  end(): string {
    const rest = this.#withoutLeadingSpace(this.#decoder.decode());
    this.#isAtStart = true;
    return rest;
  }

  #withoutLeadingSpace(text: string): string {
    if (!this.#isAtStart || text === '') return text;
    this.#isAtStart = false;
    return this.#stripsLeadingSpace && text.startsWith(' ') ? text.slice(1) : text;
  }
}
