/**
 * Which pairs of neighbours may become one token, and in which order: the one difference between byte-pair encoding
 * (ranked merges) and SentencePiece (scored tokens). Knows nothing of how the merging is carried out.
 */
import { byteOfCodeUnit } from './byte-alphabet.ts';
import { TokenizerError } from './errors.ts';
import { writeTokenBytes } from './token-bytes.ts';
import { describe, type Vocabulary } from './vocabulary.ts';

/** A pair that must not be merged. */
export const NO_MERGE: number = Number.POSITIVE_INFINITY;

export interface MergeRanks {
  /**
   * Rank of forming token `id` from a left part of `leftBytes` bytes and the rest; the lowest rank merges first, equal
   * ranks from left to right. `NO_MERGE` where this split is not a merge.
   */
  rankOf(id: number, leftBytes: number): number;
}

/** SentencePiece BPE: any split of a token will do, the highest score merges first. Scores are f32 `[vocabSize]`. */
export class ScoreRanks implements MergeRanks {
  readonly #ranks: Float64Array;

  /** @throws {TokenizerError} if a score is not a number */
  constructor(scores: ArrayLike<number>) {
    const ranks = new Float64Array(scores.length);
    for (let id = 0; id < ranks.length; id++) {
      const score = scores[id]!;
      if (Number.isNaN(score)) throw new TokenizerError(`the score of token ${id} is not a number`);
      ranks[id] = -score;
    }
    this.#ranks = ranks;
  }

  rankOf(id: number): number {
    return this.#ranks[id]!;
  }
}

/**
 * Byte-pair encoding: merge i has rank i. A merge is kept as (token it forms, length of its left part) rather than as a
 * pair of ids: neighbours are then looked up by the bytes they cover, and loading needs one lookup per merge instead of
 * three, mostly none (the tokens of nearly all vocabularies are numbered in the order of the merges that form them).
 */
export class MergeTable implements MergeRanks {
  /** First merge that forms a token, -1 for none; i32 `[vocabSize]`. */
  readonly #firstMerge: Int32Array;
  /** Next merge that forms the same token, -1 for none; i32 `[numMerges]`. */
  readonly #nextMerge: Int32Array;
  /** Length in bytes of the left part; i32 `[numMerges]`. */
  readonly #leftBytes: Int32Array;

  /**
   * @param merges `"left right"` or `[left, right]` in order of rank, spelled like the tokens
   * @param isStrict throw where the merged token is not in the vocabulary (tokenizer.json); otherwise leave such a merge out
   * @throws {TokenizerError} if a merge is not two spelled parts
   */
  constructor(vocabulary: Vocabulary, merges: readonly unknown[], isStrict: boolean) {
    const firstMerge = new Int32Array(vocabulary.size).fill(-1);
    const nextMerge = new Int32Array(merges.length).fill(-1);
    const leftBytes = new Int32Array(merges.length);
    const isByteLevel = vocabulary.spelling === 'byte-level';
    let scratch = new Uint8Array(1024);
    let guess = 0;
    for (let i = 0; i < merges.length; i++) {
      const merge = merges[i]!;
      let split = 0;
      let end = 0;
      if (typeof merge === 'string') {
        if (merge.length * 3 > scratch.length) scratch = new Uint8Array(merge.length * 6);
        // Cutting the string would double the time to load; only spellings with a space in a part need it.
        if (isByteLevel) {
          for (let j = 0; j < merge.length; j++) {
            const code = merge.charCodeAt(j);
            const byte = code < 324 ? byteOfCodeUnit[code]! : 256;
            if (byte !== 256) {
              scratch[end++] = byte;
            } else if (code === 0x20 && split === 0) {
              split = end;
            } else {
              split = 0;
              break;
            }
          }
        }
        if (split === 0 || end === split) {
          // The first character may itself be a space where spaces are not marked.
          const space = merge.indexOf(' ', 1);
          if (space < 0 || space === merge.length - 1) throw malformed(i, merge);
          split = writeTokenBytes(merge.slice(0, space), vocabulary.spelling, scratch, 0);
          end = writeTokenBytes(merge.slice(space + 1), vocabulary.spelling, scratch, split);
        }
      } else {
        if (!isPair(merge)) throw malformed(i, merge);
        const [left, right] = merge;
        const room = (left.length + right.length) * 3;
        if (room > scratch.length) scratch = new Uint8Array(room * 2);
        split = writeTokenBytes(left, vocabulary.spelling, scratch, 0);
        end = writeTokenBytes(right, vocabulary.spelling, scratch, split);
      }
      let id = guess;
      if (guess >= vocabulary.size || !vocabulary.isToken(guess, scratch, 0, end)) {
        id = vocabulary.find(scratch, 0, end);
        if (id < 0) {
          if (!isStrict) continue;
          throw new TokenizerError(
            `merge ${i}, ${JSON.stringify(merge).slice(0, 200)}, forms a token that is not in the vocabulary`,
          );
        }
      }
      guess = id + 1;
      leftBytes[i] = split;
      nextMerge[i] = firstMerge[id]!;
      firstMerge[id] = i;
    }
    this.#firstMerge = firstMerge;
    this.#nextMerge = nextMerge;
    this.#leftBytes = leftBytes;
  }

  rankOf(id: number, leftBytes: number): number {
    for (let merge = this.#firstMerge[id]!; merge >= 0; merge = this.#nextMerge[merge]!) {
      if (this.#leftBytes[merge] === leftBytes) return merge;
    }
    return NO_MERGE;
  }
}

function isPair(merge: unknown): merge is readonly [string, string] {
  return (
    Array.isArray(merge) &&
    merge.length === 2 &&
    merge.every((part) => typeof part === 'string' && part !== '')
  );
}

function malformed(index: number, merge: unknown): TokenizerError {
  const seen = typeof merge === 'string' ? JSON.stringify(merge.slice(0, 80)) : describe(merge);
  return new TokenizerError(`merge ${index} is ${seen}; expected "left right"`);
}
