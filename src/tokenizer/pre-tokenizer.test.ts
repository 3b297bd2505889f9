import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parsePreTokenizer } from './hf-pre-tokenizer.ts';
import { preTokenize } from './pre-tokenizer.ts';

const cut = (json: unknown, text: string, isFirst = true): readonly string[] =>
  preTokenize(text, parsePreTokenizer(json).steps, isFirst);

test('Split: all behaviours, as tokenizers documents them', () => {
  const split = (behavior: string, invert = false): readonly string[] =>
    cut({ type: 'Split', pattern: { String: '-' }, behavior, invert }, 'the-final--countdown');
  assert.deepEqual(split('Isolated'), ['the', '-', 'final', '-', '-', 'countdown']);
  assert.deepEqual(split('Removed'), ['the', 'final', 'countdown']);
  assert.deepEqual(split('MergedWithPrevious'), ['the-', 'final-', '-', 'countdown']);
  assert.deepEqual(split('MergedWithNext'), ['the', '-final', '-', '-countdown']);
  assert.deepEqual(split('Contiguous'), ['the', '-', 'final', '--', 'countdown']);
  assert.deepEqual(split('Removed', true), ['-', '-', '-']);
});

test('Digits, Punctuation, Whitespace', () => {
  assert.deepEqual(cut({ type: 'Digits', individual_digits: true }, 'a12b'), ['a', '1', '2', 'b']);
  assert.deepEqual(cut({ type: 'Digits', individual_digits: false }, 'a12b'), ['a', '12', 'b']);
  assert.deepEqual(cut({ type: 'Punctuation' }, 'a,!b'), ['a', ',', '!', 'b']);
  assert.deepEqual(cut({ type: 'Whitespace' }, 'Hi  there!?'), ['Hi', 'there', '!?']);
  assert.deepEqual(cut({ type: 'WhitespaceSplit' }, 'Hi  there!'), ['Hi', 'there!']);
});

test('ByteLevel adds a space in front where told, and cuts as GPT-2 does', () => {
  const json = { type: 'ByteLevel', add_prefix_space: true, use_regex: true };
  assert.deepEqual(cut(json, 'a b'), [' a', ' b']);
  assert.deepEqual(cut(json, ' a'), [' a']);
  assert.deepEqual(cut({ ...json, use_regex: false, add_prefix_space: false }, 'a b'), ['a b']);
});

test('Metaspace marks spaces, prepends by its scheme, cuts before marks', () => {
  const json = { type: 'Metaspace', replacement: '▁', prepend_scheme: 'first', split: true };
  assert.deepEqual(cut(json, 'a b'), ['▁a', '▁b']);
  assert.deepEqual(cut(json, 'a b', false), ['a', '▁b']);
  assert.deepEqual(cut({ ...json, split: false }, 'a b'), ['▁a▁b']);
  assert.deepEqual(cut({ ...json, prepend_scheme: 'never' }, 'a b'), ['a', '▁b']);
  assert.deepEqual(cut({ type: 'Metaspace', add_prefix_space: false }, 'a b'), ['a', '▁b']);
});

test('a Sequence applies one after another', () => {
  const json = {
    type: 'Sequence',
    pretokenizers: [
      { type: 'Digits', individual_digits: true },
      { type: 'ByteLevel', add_prefix_space: false, use_regex: true },
    ],
  };
  assert.deepEqual(cut(json, 'a  12 b'), ['a', '  ', '1', '2', ' b']);
});
