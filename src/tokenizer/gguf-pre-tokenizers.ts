/**
 * The pre-tokenizers that `tokenizer.ggml.pre` names, as the regular expressions of the original tokenizer.json files
 * where those are known. Knows nothing else of GGUF. Names and defaults: llama.cpp, `src/llama-vocab.cpp`.
 */

import { GPT2_PATTERN as GPT2 } from './pre-tokenizer.ts';

export interface NamedPreTokenizer {
  /** Oniguruma patterns, applied one after another; each isolates its matches. */
  readonly patterns: readonly string[];
  /** A piece that is a token is taken whole. */
  readonly ignoreMerges?: boolean;
  /** BOS is added unless the file says otherwise. */
  readonly addsBos?: boolean;
  /** The original tokenizer composes characters first (NFC); GGUF does not say so, the Qwen tokenizers do. */
  readonly composes?: boolean;
}

const CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const SPACES = '\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+';
const SYMBOLS = ' ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*';

const LLAMA3 = `${CONTRACTIONS}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|${SYMBOLS}|${SPACES}`;
const QWEN2 = `${CONTRACTIONS}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|${SYMBOLS}|${SPACES}`;
const QWEN35 = `${CONTRACTIONS}|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|${SPACES}`;

const UPPER = '[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]';
const LOWER = '[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]';
const casedWords = (suffix: string): string =>
  `[^\\r\\n\\p{L}\\p{N}]?${UPPER}*${LOWER}+${suffix}|[^\\r\\n\\p{L}\\p{N}]?${UPPER}+${LOWER}*${suffix}`;
const CASED_SYMBOLS = ' ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*';
const TEKKEN = `${casedWords('')}|\\p{N}|${CASED_SYMBOLS}|${SPACES}`;
const GPT4O = `${casedWords(`${CONTRACTIONS}?`)}|\\p{N}{1,3}|${CASED_SYMBOLS}|${SPACES}`;

const ASCII_PUNCTUATION = '[!"#$%&\'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~]';
const CJK_KANA = '[\\u4e00-\\u9fa5\\u3040-\\u309f\\u30a0-\\u30ff]+';
const deepseekWords = (symbolTail: string): string =>
  `${ASCII_PUNCTUATION}[A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+${symbolTail}|\\s+(?!\\S)|\\s+`;
const DEEPSEEK_V3 = ['\\p{N}{1,3}', CJK_KANA, deepseekWords('[\\r\\n]*|\\s*[\\r\\n]+')];
const DEEPSEEK_CJK = '[\\u4e00-\\u9fa5\\u0800-\\u4e00\\uac00-\\ud7ff]+';
/** The cased letters that deepseek-llm's tokenizer.json lists one by one. */
const DEEPSEEK_LETTERS = characterRanges(
  '41-5a 61-7a b5 c0-d6 d8-f6 f8-1ba 1bc-1bf 1c4-293 295-2af 370-373 376 377 37b-37d 37f ' +
    '386 388-38a 38c 38e-3a1 3a3-3f5 3f7-481 48a-52f 531-556 10a0-10c5 13a0-13f5 13f8-13fd ' +
    '1c90-1cba 1cbd-1cbf 1d00-1d2b 1d6b-1d77 1d79-1d9a 1e00-1f15 1f18-1f1d 1f20-1f45 ' +
    '1f48-1f4d 1f50-1f57 1f59 1f5b 1f5d 1f5f-1f7d 1f80-1fb4 1fb6-1fbc 1fbe 1fc2-1fc4 ' +
    '1fc6-1fcc 1fd0-1fd3 1fd6-1fdb 1fe0-1fec 1ff2-1ff4 1ff6-1ffc 2102 2107 210a-2113 2115 ' +
    '2119-211d 2124 2126 2128 212a-212d 212f-2134 2139 213c-213f 2145-2149 214e 2183 2184 ' +
    '2c00-2c7b 2c7e-2ce4 2ceb-2cee 2cf2 2cf3 a640-a66d a680-a69b a722-a76f a771-a787 ' +
    'a78b-a78e ab70-abbf fb00-fb06 fb13-fb17 ff21-ff3a ff41-ff5a 10400-1044f 104b0-104d3 ' +
    '104d8-104fb 10c80-10cb2 10cc0-10cf2 118a0-118df 1e900-1e943',
);

const BLOOM = ' ?[^(\\s|.,!?…。，、।۔،)]+';
const gpt2: NamedPreTokenizer = { patterns: [GPT2] };
const digitsThenGpt2: NamedPreTokenizer = { patterns: ['\\p{N}', GPT2] };
const llama3: NamedPreTokenizer = { patterns: [LLAMA3] };
const llama3WithBos: NamedPreTokenizer = { patterns: [LLAMA3], ignoreMerges: true, addsBos: true };
const qwen2: NamedPreTokenizer = { patterns: [QWEN2] };
const composingQwen2: NamedPreTokenizer = { patterns: [QWEN2], composes: true };
const deepseekV3: NamedPreTokenizer = { patterns: DEEPSEEK_V3 };
const gpt4o: NamedPreTokenizer = { patterns: [GPT4O] };
const bloom: NamedPreTokenizer = { patterns: [BLOOM] };
const bailing: NamedPreTokenizer = {
  patterns: [
    `'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+`,
  ],
};

/** By the name in `tokenizer.ggml.pre`. */
export const namedPreTokenizers: ReadonlyMap<string, NamedPreTokenizer> = new Map<
  string,
  NamedPreTokenizer
>([
  // What llama.cpp does with files that were made before pre-tokenizers had names.
  ['default', { patterns: ['[\\p{P}$+<=>^~|]+', GPT2, '\\p{N}+', '[0-9][0-9][0-9]'] }],
  ...named(gpt2, 'gpt-2 phi-2 mpt olmo jais trillion granite-docling exaone4 gigachat a.x-4.0'),
  ...named(gpt2, 'mellum modern-bert jina-es jina-de jina-v2-es jina-v2-de jina-v1-en'),
  ...named(gpt2, 'jina-v2-code roberta-bpe'),
  ...named(digitsThenGpt2, 'smollm starcoder refact command-r codeshell exaone minerva-7b mellum2'),
  ...named(llama3WithBos, 'llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2'),
  ...named(llama3WithBos, 'jina-v5-nano'),
  ...named(llama3, 'dbrx smaug-bpe glm4 chatglm-bpe'),
  ...named(composingQwen2, 'qwen2 deepseek-r1-qwen'),
  ...named(qwen2, 'stablelm2 hunyuan solar-open megrez kormo f2llmv2 grok-2'),
  ['qwen35', { patterns: [QWEN35], composes: true }],
  ['minicpm5', { patterns: ['\\p{N}{1,3}', LLAMA3.replace('{1,3}', '+')], ignoreMerges: true }],
  ['laguna', { patterns: ['[^\\n]+|[\\n]+', QWEN2] }],
  ['ufakzeka', { patterns: [QWEN2.slice(CONTRACTIONS.length + 1)] }],
  [
    'seed-coder',
    {
      patterns: [
        `${CONTRACTIONS}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|${SPACES}`,
      ],
    },
  ],
  ...named(bailing, 'bailingmoe bailingmoe2 llada-moe'),
  ['tekken', { patterns: [TEKKEN], ignoreMerges: true, addsBos: true }],
  ...named(gpt4o, 'gpt-4o llama4 kanana2 talkie minimax-m2'),
  [
    'deepseek-llm',
    {
      patterns: [
        '[\\r\\n]',
        `\\s?[${DEEPSEEK_LETTERS}]+`,
        '\\s?[!-/:-~！-／：-～‘-‟\\u3000-。]+',
        // `\s+$`, written so that a long run of spaces is tried once and not from each of its positions
        '(?<!\\s)\\s+$',
        DEEPSEEK_CJK,
        '\\p{N}+',
      ],
    },
  ],
  [
    'deepseek-coder',
    { patterns: ['[\\r\\n]', '\\s?\\p{L}+', '\\s?\\p{P}+', DEEPSEEK_CJK, '\\p{N}'] },
  ],
  ...named(deepseekV3, 'deepseek-v3 hunyuan-dense joyai-llm hy_v4'),
  ['spark2_5', { patterns: ['\\p{N}{1,3}', CJK_KANA, deepseekWords('|[\\r\\n]'), '\\p{N}'] }],
  ['falcon', { patterns: ['[\\p{P}$+<=>^~|`]+', GPT2, '[0-9][0-9][0-9]'] }],
  ...named(bloom, 'bloom poro-chat gpt3-finnish'),
  ['viking', { patterns: [BLOOM, '\\p{N}'] }],
  [
    'chameleon',
    {
      patterns: [
        '<sentinel:[0-9]+>',
        '(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z',
        '([\\t\\n]|    |  )',
        '\\p{N}',
        '[\\p{P}!-/:-@\\[-`{-~]',
        GPT2,
      ],
      addsBos: true,
    },
  ],
]);

function named(pre: NamedPreTokenizer, names: string): [string, NamedPreTokenizer][] {
  return names.split(' ').map((name) => [name, pre]);
}

/** `"41-5a aa"` to the content of a class. */
function characterRanges(hexRanges: string): string {
  return hexRanges.replace(/[0-9a-f]+/g, (hex) => `\\x{${hex}}`).replaceAll(' ', '');
}
