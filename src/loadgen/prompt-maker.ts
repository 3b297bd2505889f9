/**
 * Makes prompts of a wanted length: exact as token ids, about right as words. Knows nothing of tokenizers: the words are short common English
 * ones, each a single token in the usual vocabularies; how many tokens a server counted is in its `usage`.
 */
import { SeededRandom } from './random.ts';

/** Vocabularies begin (and some end) with special tokens; ids from the middle are ordinary in all of them. */
export interface TokenIdRange {
  readonly lowest: number;
  readonly highest: number;
}

const WORDS = (
  'the of and to in is that for it as was with be by on not he his but at are this have from or had an they which one you were her all she ' +
  'there would their we him been has when who will more no if out so said what up its about into than them can only other new some could ' +
  'time these two may then do first any my now such like our over man me even most made after also did many before must through back years ' +
  'where much your way well down should because each just those people how too little state good very make world still own see men work ' +
  'long get here between both life being under never day same another know while last might us great old year off come since against go ' +
  'came right used take three'
).split(' ');

export class PromptMaker {
  readonly #seed: number;
  readonly #ids: TokenIdRange;

  constructor(seed: number, ids: TokenIdRange) {
    this.#seed = seed;
    this.#ids = ids;
  }

  /** @param name prompts of one name are equal, those of different names differ from their first token on */
  tokenIds(name: string, numTokens: number): number[] {
    const random = new SeededRandom(this.#seed, `ids/${name}`);
    const { lowest, highest } = this.#ids;
    return Array.from({ length: numTokens }, () => random.integer(lowest, highest));
  }

  words(name: string, numTokens: number): string {
    const random = new SeededRandom(this.#seed, `words/${name}`);
    const list = Array.from(
      { length: numTokens },
      () => WORDS[random.integer(0, WORDS.length - 1)],
    );
    return list.join(' ');
  }
}
