/**
 * Translates the regular expressions of tokenizer files (Oniguruma, Ruby syntax) to JavaScript. Knows nothing of
 * tokenizers. What differs: `\s`, `\d`, `\w`, `\b` are Unicode there; `^` and `$` are line anchors; possessive quantifiers
 * and atomic groups exist; escapes are freer. Anything not understood is refused, never guessed.
 *
 * The result runs in V8's backtracking engine: a hostile pattern can be slow, which is not bounded here.
 */
import { TokenizerError } from './errors.ts';

/** Unicode White_Space, which is not JavaScript's `\s` (that has U+FEFF and lacks U+0085). Content of a class. */
export const WHITE_SPACE =
  '\\t-\\r \\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000';
const WORD = '\\p{L}\\p{M}\\p{Nd}\\p{Pc}';

const CLASS_ESCAPES: Readonly<Record<string, { content: string; isNegated: boolean }>> = {
  s: { content: WHITE_SPACE, isNegated: false },
  S: { content: WHITE_SPACE, isNegated: true },
  d: { content: '\\p{Nd}', isNegated: false },
  D: { content: '\\p{Nd}', isNegated: true },
  w: { content: WORD, isNegated: false },
  W: { content: WORD, isNegated: true },
  h: { content: '0-9a-fA-F', isNegated: false },
  H: { content: '0-9a-fA-F', isNegated: true },
};
const CONTROL_ESCAPES: Readonly<Record<string, number>> = {
  t: 9,
  n: 10,
  v: 11,
  f: 12,
  r: 13,
  a: 7,
  e: 27,
  '0': 0,
};

/**
 * @param pattern Oniguruma source
 * @returns an equivalent expression with flags `gv`
 * @throws {TokenizerError} if the pattern uses what is not supported, or is malformed
 */
export function translateRegex(pattern: string): RegExp {
  const source = new Translator(pattern).translate();
  try {
    return new RegExp(source, 'gv');
  } catch (cause) {
    throw new TokenizerError(
      `regular expression ${JSON.stringify(pattern.slice(0, 200))} is not valid: ${(cause as Error).message}`,
      { cause },
    );
  }
}

class Translator {
  readonly #pattern: string;
  #at = 0;
  #numAtomic = 0;

  constructor(pattern: string) {
    this.#pattern = pattern;
  }

  translate(): string {
    const out = this.#alternatives(0);
    if (this.#at < this.#pattern.length) this.#refuse('an unmatched ")"');
    return out;
  }

  /** Alternatives up to the closing parenthesis or the end. */
  #alternatives(depth: number): string {
    if (depth > 100) this.#refuse('more than 100 nested groups');
    let out = '';
    while (this.#at < this.#pattern.length) {
      const char = this.#pattern[this.#at]!;
      if (char === ')') break;
      if (char === '|') {
        this.#at++;
        out += '|';
      } else {
        out += this.#quantified(this.#atom(depth));
      }
    }
    return out;
  }

  /** An atom with the quantifier that follows it; possessive ones become a lookahead and a back reference. */
  #quantified(atom: string): string {
    const quantifier = /^(?:[?*+]|\{\d*(?:,\d*)?\})/.exec(
      this.#pattern.slice(this.#at, this.#at + 24),
    )?.[0];
    if (quantifier === undefined || quantifier === '{}' || quantifier === '{,}') return atom;
    this.#at += quantifier.length;
    const js = quantifier.startsWith('{,') ? `{0${quantifier.slice(1)}` : quantifier;
    const next = this.#pattern[this.#at];
    if (next === '?') {
      this.#at++;
      return `${atom}${js}?`;
    }
    if (next === '+') {
      this.#at++;
      // Ruby: `{n,m}+` is not possessive but a second, greedy quantifier.
      return quantifier.startsWith('{') ? `(?:${atom}${js})+` : this.#atomic(`${atom}${js}`);
    }
    return `${atom}${js}`;
  }

  #atomic(body: string): string {
    const name = `atomic${this.#numAtomic++}`;
    return `(?:(?=(?<${name}>${body}))\\k<${name}>)`;
  }

  #atom(depth: number): string {
    const char = this.#next();
    switch (char) {
      case '(':
        return this.#group(depth);
      case '[':
        return this.#class(0);
      case '\\':
        return this.#escape();
      case '.':
        return '[^\\n]';
      case '^':
        return '(?<![^\\n])';
      case '$':
        return '(?![^\\n])';
      case '*':
      case '+':
      case '?':
        return this.#refuse(`a quantifier "${char}" with nothing before it`);
      default:
        return literal(char);
    }
  }

  #group(depth: number): string {
    const kind = /^\?(?:<?[=!]|[:>]|[imx]*(?:-[imx]+)?:|<[A-Za-z_]\w*>)/.exec(
      this.#pattern.slice(this.#at, this.#at + 80),
    )?.[0];
    if (kind === undefined && this.#pattern[this.#at] === '?')
      this.#refuse('an unknown kind of group');
    this.#at += kind?.length ?? 0;
    const body = this.#alternatives(depth + 1);
    if (this.#next() !== ')') this.#refuse('an unclosed "("');
    if (kind === undefined || kind === '?:' || (kind.startsWith('?<') && kind.endsWith('>'))) {
      return `(?:${body})`; // captures are never read
    }
    if (kind === '?>') return this.#atomic(body);
    if (/^\?<?[=!]$/.test(kind)) return `(${kind}${body})`;
    if (kind === '?i:') return `(?i:${body})`;
    return this.#refuse(`the group flags "(${kind}"`);
  }

  #escape(): string {
    const char = this.#next();
    const set = CLASS_ESCAPES[char];
    if (set) return `[${set.isNegated ? '^' : ''}${set.content}]`;
    switch (char) {
      case 'p':
      case 'P':
        return this.#property(char === 'P');
      case 'b':
        return `(?:(?<=[${WORD}])(?![${WORD}])|(?<![${WORD}])(?=[${WORD}]))`;
      case 'B':
        return `(?:(?<=[${WORD}])(?=[${WORD}])|(?<![${WORD}])(?![${WORD}]))`;
      case 'A':
        return '(?<![\\p{Any}])';
      case 'z':
        return '(?![\\p{Any}])';
      case 'Z':
        return '(?=\\n?(?![\\p{Any}]))';
      default:
        return literal(this.#escapedCharacter(char));
    }
  }

  #class(depth: number): string {
    if (depth > 20) this.#refuse('more than 20 nested classes');
    const isNegated = this.#pattern[this.#at] === '^';
    if (isNegated) this.#at++;
    const operands: string[] = [];
    let content = '';
    let isFirst = true;
    for (;;) {
      if (this.#at >= this.#pattern.length) this.#refuse('an unclosed "["');
      if (this.#pattern.startsWith('&&', this.#at)) {
        this.#at += 2;
        operands.push(`[${content}]`);
        content = '';
        continue;
      }
      if (this.#pattern.startsWith('[:', this.#at)) this.#refuse('a POSIX bracket');
      const char = this.#next();
      if (char === ']' && !isFirst) break;
      isFirst = false;
      if (char === '[') {
        content += this.#class(depth + 1);
        continue;
      }
      const item = char === '\\' ? this.#classEscape() : { character: char };
      if (item.set !== undefined) {
        content += item.set;
        continue;
      }
      content += literal(item.character!);
      if (this.#pattern[this.#at] === '-' && this.#pattern[this.#at + 1] !== ']') {
        this.#at++;
        const end = this.#next();
        if (end === '[') this.#refuse('a range that ends in a class');
        const upper = end === '\\' ? this.#classEscape() : { character: end };
        if (upper.character === undefined) this.#refuse('a range that ends in a class');
        content += `-${literal(upper.character)}`;
      }
    }
    if (operands.length > 0) content = [...operands, `[${content}]`].join('&&');
    return `[${isNegated ? '^' : ''}${content}]`;
  }

  #classEscape(): { set?: string; character?: string } {
    const char = this.#next();
    const set = CLASS_ESCAPES[char];
    if (set) return { set: set.isNegated ? `[^${set.content}]` : set.content };
    if (char === 'p' || char === 'P') return { set: this.#property(char === 'P') };
    if (char === 'b') return { character: '\b' };
    return { character: this.#escapedCharacter(char) };
  }

  #property(isNegated: boolean): string {
    const match = /^\{(\^?)([A-Za-z][\w=& -]*)\}/.exec(
      this.#pattern.slice(this.#at, this.#at + 60),
    );
    if (!match) return this.#refuse('a malformed \\p{...}');
    this.#at += match[0].length;
    const letter = isNegated !== (match[1] === '^') ? 'P' : 'p';
    for (const name of [match[2]!, `Script=${match[2]}`]) {
      try {
        new RegExp(`\\p{${name}}`, 'v');
        return `\\${letter}{${name}}`;
      } catch {
        // not a property of this kind
      }
    }
    return this.#refuse(`the unknown property ${match[0]}`);
  }

  /** The character that `\` + `char` stands for. */
  #escapedCharacter(char: string): string {
    const control = CONTROL_ESCAPES[char];
    if (control !== undefined) return String.fromCharCode(control);
    if (char === 'x' || char === 'u') {
      const rest = this.#pattern.slice(this.#at, this.#at + 10);
      const hex = (
        char === 'x' ? /^\{([0-9a-fA-F]{1,6})\}|^([0-9a-fA-F]{1,2})/ : /^()([0-9a-fA-F]{4})/
      ).exec(rest);
      const code = Number.parseInt(hex?.[1] || hex?.[2] || '', 16);
      if (!hex || !(code <= 0x10ffff)) return this.#refuse(`a malformed \\${char} escape`);
      this.#at += hex[0].length;
      return String.fromCodePoint(code);
    }
    if (/[A-Za-z1-9]/.test(char)) return this.#refuse(`the escape \\${char}`);
    return char;
  }

  /** The next whole character. */
  #next(): string {
    const code = this.#pattern.codePointAt(this.#at);
    if (code === undefined) return this.#refuse('an unexpected end');
    const char = String.fromCodePoint(code);
    this.#at += char.length;
    return char;
  }

  #refuse(what: string): never {
    throw new TokenizerError(
      `regular expression ${JSON.stringify(this.#pattern.slice(0, 200))} has ${what} near offset ${this.#at}, which is not supported`,
    );
  }
}

function literal(char: string): string {
  return /[A-Za-z0-9]/.test(char) ? char : `\\u{${char.codePointAt(0)!.toString(16)}}`;
}
