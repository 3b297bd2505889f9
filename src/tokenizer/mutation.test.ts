/**
 * Sound tokenizer.json files, damaged at random (seeded): values replaced by what breaks arithmetic or patterns, entries left out or put elsewhere.
 * Whatever comes out must load or end in a TokenizerError, and what loads must take text; anything else that is thrown, or a hang, is a bug.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { HastenError } from '../platform/errors.ts';
import { type HfTokenizerFiles, tokenizerFromHfFiles } from './hf-tokenizer.ts';
import { llama2Json } from './testing/small-tokenizers.ts';

const NUM_RUNS = 1500;
const MAX_ELAPSED_MS = 3000;
const TEXTS = ['', 'hi hi 42', ' <s>h漢\ud800i\n\n'];

const vocabOf = (tokens: readonly string[]) =>
  Object.fromEntries(tokens.map((token, id) => [token, id]));

/** In the manner of Llama 2, but that BOS takes the space before it. */
const SPACE_MARKS = {
  ...llama2Json(),
  added_tokens: [
    { id: 0, content: '<unk>', special: true, normalized: false },
    { id: 1, content: '<s>', special: true, normalized: false, lstrip: true },
  ],
};

/** In the manner of GPT-2 and Qwen: a pattern cuts the text, tokens are bytes. */
const BYTE_LEVEL = {
  added_tokens: [{ id: 6, content: '<s>', special: true, normalized: false, single_word: false }],
  normalizer: { type: 'NFC' },
  pre_tokenizer: {
    type: 'Sequence',
    pretokenizers: [
      { type: 'Split', pattern: { Regex: '\\p{N}| ?\\p{L}+|\\s+(?!\\S)' }, behavior: 'Isolated' },
      { type: 'Digits', individual_digits: true },
      { type: 'ByteLevel', add_prefix_space: false, use_regex: false },
    ],
  },
  post_processor: { type: 'ByteLevel', trim_offsets: false },
  decoder: { type: 'ByteLevel' },
  model: {
    type: 'BPE',
    ignore_merges: true,
    vocab: vocabOf(['h', 'i', 'Ġ', 'hi', '4', '2']),
    merges: [['h', 'i']],
  },
};
const CONFIG = {
  bos_token: '<s>',
  eos_token: { content: '<s>' },
  add_bos_token: true,
  chat_template: "{% for m in messages %}{{ m['content'] }}{% endfor %}",
  added_tokens_decoder: { 1: { content: '<s>', special: true } },
};

type Path = readonly (string | number)[];
type Container = Record<string | number, unknown>;

function pathsOf(value: unknown, path: Path = []): Path[] {
  if (typeof value !== 'object' || value === null) return [path];
  // The 256 byte tokens are one case, not most of them.
  const entries = Object.entries(value).filter(([key]) => !/^<0x[1-9A-F]/.test(key));
  return [path, ...entries.flatMap(([key, below]) => pathsOf(below, [...path, key]))];
}

const nastyValue = fc.oneof(
  fc.constantFrom<unknown>(null, true, false, '', '<s>', 'Regex', 'ByteLevel', '\ud800', [], {}),
  fc.constantFrom<unknown>(-1, 0, 0.5, 1, 5, 300, 2 ** 31, 2 ** 32, 2 ** 53, 1e308),
  fc.constantFrom<unknown>('(a+)+$', '(', '\\p{X}', '(?<=h)', '(?i:H)', 'h'.repeat(10_000), '.*'),
  fc.constantFrom<unknown>(
    [0],
    ['h'],
    [['h']],
    ['h i', 'h'],
    { h: 0 },
    { String: '' },
    { Regex: '' },
  ),
);

interface Damage {
  readonly at: number;
  readonly value: unknown;
  readonly from: number;
  readonly kind: 'replace' | 'delete' | 'copy';
}
const damages = fc.array(
  fc.record<Damage>({
    at: fc.nat(500),
    from: fc.nat(500),
    value: nastyValue,
    kind: fc.constantFrom('replace', 'delete', 'copy'),
  }),
  { minLength: 1, maxLength: 3 },
);

function valueAt(root: unknown, path: Path): unknown {
  return path.reduce((value, key) => (value as Container)[key], root);
}

function damage(root: Container, { at, from, value, kind }: Damage): void {
  const paths = pathsOf(root).filter((path) => path.length > 1); // The files themselves stay.
  const path = paths[at % paths.length];
  if (path === undefined) return;
  const parent = valueAt(root, path.slice(0, -1)) as Container;
  const key = path.at(-1)!;
  if (kind === 'delete') delete parent[key];
  else if (kind === 'replace') parent[key] = structuredClone(value);
  else parent[key] = structuredClone(valueAt(root, paths[from % paths.length]!));
}

for (const [name, good] of Object.entries({ SPACE_MARKS, BYTE_LEVEL })) {
  test(`${name}: randomly damaged files load or fail cleanly, and what loads takes text`, () => {
    let numLoaded = 0;
    fc.assert(
      fc.property(damages, (list) => {
        const damaged = structuredClone({ tokenizer: good, config: CONFIG });
        for (const each of list) damage(damaged as unknown as Container, each);
        const files = JSON.parse(JSON.stringify(damaged)) as HfTokenizerFiles;
        const startMs = performance.now();
        try {
          const tokenizer = tokenizerFromHfFiles(files);
          for (const text of TEXTS) tokenizer.decode(tokenizer.encode(text));
          numLoaded++;
        } catch (error) {
          if (!(error instanceof HastenError)) throw error;
          assert.ok(error.message.length < 1500, error.message.slice(0, 200));
        }
        const elapsedMs = performance.now() - startMs;
        assert.ok(elapsedMs < MAX_ELAPSED_MS, `took ${elapsedMs} ms`);
      }),
      { seed: 20261121, numRuns: NUM_RUNS },
    );
    assert.ok(numLoaded > NUM_RUNS / 20 && numLoaded < NUM_RUNS * 0.95, `${numLoaded} loaded`);
  });
}
