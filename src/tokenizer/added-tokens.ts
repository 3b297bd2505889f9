/**
 * Finds added tokens (`<|im_end|>`, `<tool_call>`, runs of spaces) in text before anything else looks at it: leftmost,
 * then longest, as `tokenizers` does. Knows nothing of how the text between them is encoded.
 */
import { TokenizerError } from './errors.ts';

export interface AddedToken {
  readonly id: number;
  readonly content: string;
  /** A control token: only recognised where control tokens may be, left out by `skipSpecial`. */
  readonly isSpecial: boolean;
  /** White space before (after) the token belongs to it. */
  readonly stripsLeft: boolean;
  readonly stripsRight: boolean;
  /** Not inside a word. */
  readonly isSingleWord: boolean;
}

/** Longer ones do not occur, and would let a hostile vocabulary make every position of a text expensive. */
const MAX_LENGTH = 1024;

interface TrieNode {
  readonly children: Map<number, TrieNode>;
  token: AddedToken | null;
}

export class AddedTokens {
  readonly tokens: readonly AddedToken[];
  /** Built by the first text: some vocabularies have thousands of these tokens, and a start that encodes nothing needs none. */
  #trie: TrieNode | undefined;
  /** 1 where some token starts with a code unit of this low byte; u8 `[256]`. Rules out most positions. */
  readonly #starts = new Uint8Array(256);

  /** Tokens with an empty text are never found. @throws {TokenizerError} if one is too long */
  constructor(tokens: readonly AddedToken[]) {
    this.tokens = tokens;
    for (const { id, content } of tokens) {
      if (content.length > MAX_LENGTH) {
        throw new TokenizerError(
          `added token ${id} has ${content.length} characters; at most ${MAX_LENGTH} are accepted`,
        );
      }
      if (content !== '') this.#starts[content.charCodeAt(0) & 255] = 1;
    }
  }

  /**
   * Walks through `text` in order.
   *
   * @param parseSpecial whether control tokens are recognised
   * @param onText called with each non-empty stretch between tokens
   * @param onToken called with each token found
   */
  scan(
    text: string,
    parseSpecial: boolean,
    onText: (text: string, start: number) => void,
    onToken: (id: number) => void,
  ): void {
    const starts = this.#starts;
    let textStart = 0;
    for (let at = 0; at < text.length; ) {
      if (starts[text.charCodeAt(at) & 255] === 0) {
        at++;
        continue;
      }
      const token = this.#longestAt(text, at, parseSpecial);
      if (token === null) {
        at++;
        continue;
      }
      let end = at + token.content.length;
      let textEnd = at;
      if (token.stripsLeft) while (textEnd > textStart && isSpace(text, textEnd - 1)) textEnd--;
      if (token.stripsRight) while (end < text.length && isSpace(text, end)) end++;
      if (textEnd > textStart) onText(text.slice(textStart, textEnd), textStart);
      onToken(token.id);
      textStart = at = end;
    }
    if (textStart === 0) {
      if (text.length > 0) onText(text, 0);
    } else if (textStart < text.length) {
      onText(text.slice(textStart), textStart);
    }
  }

  #longestAt(text: string, start: number, parseSpecial: boolean): AddedToken | null {
    this.#trie ??= trieOf(this.tokens);
    let node = this.#trie;
    let longest: AddedToken | null = null;
    for (let at = start; at < text.length; at++) {
      const next = node.children.get(text.charCodeAt(at));
      if (next === undefined) break;
      node = next;
      const { token } = node;
      if (token === null || (token.isSpecial && !parseSpecial)) continue;
      if (token.isSingleWord && (isWord(text, start - 1) || isWord(text, at + 1))) continue;
      longest = token;
    }
    return longest;
  }
}

function trieOf(tokens: readonly AddedToken[]): TrieNode {
  const root: TrieNode = { children: new Map(), token: null };
  for (const token of tokens) {
    const { content } = token;
    if (content === '') continue;
    let node = root;
    for (let i = 0; i < content.length; i++) {
      const code = content.charCodeAt(i);
      let next = node.children.get(code);
      if (next === undefined) {
        next = { children: new Map(), token: null };
        node.children.set(code, next);
      }
      node = next;
    }
    node.token ??= token;
  }
  return root;
}

function isSpace(text: string, index: number): boolean {
  return /[\s\u0085]/.test(text[index]!) && text[index] !== '\ufeff';
}

function isWord(text: string, index: number): boolean {
  const char = text[index];
  return char !== undefined && /[\p{L}\p{M}\p{Nd}\p{Pc}]/u.test(char);
}
