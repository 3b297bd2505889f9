/**
 * Keeps a text from going on with white space for ever, as small models do between the parts of JSON. A grammar that counts space does the same,
 * but takes ten times as long to compile and hundreds of megabytes (measured: XGrammar 0.1.27, 30 fields, at most 32: 6 s for 0.1 s).
 */
import type { GrammarVocabulary } from './vocabulary.ts';

/** White space in a row, bytes: enough for any sane indentation. */
const MAX_SPACES = 64;

export class SpaceGuard {
  /** Bytes of white space that each token ends with; -1 where it is nothing else. i32 `[vocabSize]` */
  readonly #trailing: Int32Array;
  readonly #lengths: Int32Array;
  /** Tokens that are nothing but white space. */
  readonly #spaceIds: readonly number[];

  constructor({ offsets, bytes, vocabSize }: GrammarVocabulary) {
    this.#trailing = new Int32Array(vocabSize);
    this.#lengths = new Int32Array(vocabSize);
    const spaceIds: number[] = [];
    for (let id = 0; id + 1 < offsets.length; id++) {
      const [start, end] = [offsets[id]!, offsets[id + 1]!];
      let at = end;
      while (at > start && isSpace(bytes[at - 1]!)) at--;
      this.#lengths[id] = end - start;
      this.#trailing[id] = end - at;
      if (at === start && end > start) {
        this.#trailing[id] = -1;
        spaceIds.push(id);
      }
    }
    this.#spaceIds = spaceIds;
  }

  /** Bytes of white space that a text ends with, which had `numSpaces` of them before this token. */
  after(token: number, numSpaces: number): number {
    const trailing = this.#trailing[token]!;
    return trailing < 0 ? numSpaces + this.#lengths[token]! : trailing;
  }

  /** Takes white space out of a mask where there was enough of it, unless nothing else may come. */
  apply(mask: Int32Array, numSpaces: number): void {
    if (numSpaces < MAX_SPACES) return;
    const spaces = this.#spaceIds.filter((id) => ((mask[id >> 5]! >>> (id & 31)) & 1) === 1);
    for (const id of spaces) mask[id >> 5]! &= ~(1 << (id & 31));
    if (mask.some((word) => word !== 0)) return;
    for (const id of spaces) mask[id >> 5]! |= 1 << (id & 31);
  }
}

function isSpace(byte: number): boolean {
  return byte === 0x20 || (byte >= 0x09 && byte <= 0x0d);
}
