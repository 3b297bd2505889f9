/**
 * Keeps the text of control tokens in user content from becoming control tokens: a mark is put inside each such text,
 * and `Tokenizer.encode` drops it after control tokens were recognised. Knows nothing of templates.
 */
import type { Tokenizer } from './contract.ts';

const textsByTokenizer = new WeakMap<Tokenizer, readonly string[]>();

/** The texts of all special tokens of a tokenizer, of two characters and more. */
export function specialTexts(tokenizer: Tokenizer): readonly string[] {
  let texts = textsByTokenizer.get(tokenizer);
  if (texts === undefined) {
    const found = new Set<string>();
    for (let id = 0; id < tokenizer.vocabSize; id++) {
      if (!tokenizer.isSpecial(id)) continue;
      const text = tokenizer.idToToken(id);
      if (text !== undefined && text.length > 1) found.add(text);
    }
    texts = [...found];
    textsByTokenizer.set(tokenizer, texts);
  }
  return texts;
}

/** A noncharacter (U+FDD0 to U+FDEF) that occurs in none of the values. */
export function unusedMark(...values: readonly unknown[]): string {
  const text = JSON.stringify(values);
  for (let code = 0xfdd0; code <= 0xfdef; code++) {
    const mark = String.fromCharCode(code);
    if (!text.includes(mark)) return mark;
  }
  // All 32 are in use, which no honest text does: their meaning to the text is nothing, so one may be dropped from it.
  return '\ufdd0';
}

/**
 * A copy of `value` with `mark` inside every special text of its strings, except those under the keys in `plainKeys`.
 * A string that ends in the beginning of a special text, or begins with the end of one, is marked there too: two strings,
 * or a string and the template, could form the text together.
 */
export function protectText<T>(
  value: T,
  specials: readonly string[],
  mark: string,
  plainKeys: ReadonlySet<string>,
): T {
  const protect = (item: unknown): unknown => {
    if (typeof item === 'string') return markSpecials(item, specials, mark);
    if (Array.isArray(item)) return item.map(protect);
    if (typeof item !== 'object' || item === null) return item;
    return Object.fromEntries(
      Object.entries(item).map(([key, field]) => [
        key,
        plainKeys.has(key) ? field : protect(field),
      ]),
    );
  };
  return protect(value) as T;
}

function markSpecials(text: string, specials: readonly string[], mark: string): string {
  // Marks go before these offsets.
  const offsets = new Set<number>();
  for (const special of specials) {
    for (let at = text.indexOf(special); at >= 0; at = text.indexOf(special, at + 1)) {
      offsets.add(at + 1);
    }
    for (let length = 1; length < special.length; length++) {
      if (text.endsWith(special.slice(0, length))) offsets.add(text.length - length + 1);
      if (text.startsWith(special.slice(-length))) offsets.add(length - 1);
    }
  }
  let marked = '';
  let from = 0;
  for (const offset of [...offsets].sort((a, b) => a - b)) {
    marked += text.slice(from, offset) + mark;
    from = offset;
  }
  return marked + text.slice(from);
}
