/** Which tokens a model was trained with to fill in what stands between two texts. */
import type { Tokenizer } from '../tokenizer/tokenizer.ts';

export interface InfillMarks {
  readonly prefix: number;
  readonly suffix: number;
  readonly middle: number;
}

/** As vocabularies spell them: prefix, suffix, middle. The prompt is prefix mark, text, suffix mark, text, middle mark in all of them. */
const SPELLINGS: readonly (readonly [string, string, string])[] = [
  ['<|fim_prefix|>', '<|fim_suffix|>', '<|fim_middle|>'], // Qwen2.5-Coder, Granite
  ['<fim_prefix>', '<fim_suffix>', '<fim_middle>'], // StarCoder
  ['<fim-prefix>', '<fim-suffix>', '<fim-middle>'], // SantaCoder
  ['▁<PRE>', '▁<SUF>', '▁<MID>'], // CodeLlama
  ['<|code_prefix|>', '<|code_suffix|>', '<|code_middle|>'], // GLM
  ['<PRE>', '<SUF>', '<MID>'],
  ['<｜fim▁begin｜>', '<｜fim▁hole｜>', '<｜fim▁end｜>'], // DeepSeek-Coder
];

/** null: the vocabulary has no such tokens. */
export function infillMarks(tokenizer: Pick<Tokenizer, 'tokenToId'>): InfillMarks | null {
  for (const spelling of SPELLINGS) {
    const [prefix, suffix, middle] = spelling.map((text) => tokenizer.tokenToId(text));
    if (prefix !== undefined && suffix !== undefined && middle !== undefined) {
      return { prefix, suffix, middle };
    }
  }
  return null;
}
