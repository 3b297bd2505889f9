import assert from 'node:assert/strict';
import { test } from 'node:test';
import { TokenizerError } from './errors.ts';
import { gpt2Like } from './testing/small-tokenizers.ts';
import { fixtureTokenizer } from './testing/tokenizer-fixtures.ts';

const MEGABYTE = 1_000_000;
/** Measured 0.01 to 0.8 s; a quadratic algorithm would need hours. */
const LIMIT_MS = 20_000;

const texts: Readonly<Record<string, string>> = {
  'one letter': 'a'.repeat(MEGABYTE),
  spaces: ' '.repeat(MEGABYTE),
  'spaces before a digit': `${' '.repeat(MEGABYTE)}1`,
  newlines: '\n'.repeat(MEGABYTE),
  digits: '7'.repeat(MEGABYTE),
  emojis: '😀'.repeat(100_000),
  ideographs: '你'.repeat(333_333),
  'letters without spaces': Array.from({ length: MEGABYTE }, (_, i) =>
    String.fromCharCode(97 + ((i * i * 31 + i * 7) % 26)),
  ).join(''),
  'beginnings of a special token': '<|im_'.repeat(200_000),
};

for (const name of ['smollm2', 'gemma3'] as const) {
  for (const [what, text] of Object.entries(texts)) {
    test(`${name}: a megabyte of ${what} is encoded in seconds and decodes to itself`, () => {
      const tokenizer = fixtureTokenizer(name);
      const start = performance.now();
      const ids = tokenizer.encode(text);
      const elapsedMs = performance.now() - start;
      assert.ok(elapsedMs < LIMIT_MS, `took ${elapsedMs} ms`);
      assert.ok(tokenizer.decode(ids) === text);
    });
  }
}

test('a run too long for the regular expression engine is refused, not a crash', () => {
  const tokenizer = gpt2Like(['a']);
  try {
    assert.equal(tokenizer.encode(' '.repeat(20 * MEGABYTE)).length, 0, 'spaces are no token here');
  } catch (error) {
    assert.ok(error instanceof TokenizerError);
    assert.match(error.message, /too long for the pre-tokenizer/);
  }
});
