import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { TokenizerError } from './errors.ts';
import { fixtureNames, fixtureTokenizer } from './testing/tokenizer-fixtures.ts';

const anyText = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 60 }),
  fc.string({ unit: 'grapheme', maxLength: 60 }),
  fc
    .array(
      fc.constantFrom(
        ' ',
        '  ',
        '\n',
        '\t',
        'a',
        'word',
        '12345',
        "'s",
        '。',
        '你好',
        'é',
        '😀',
        '▁',
        '<|im_end|>',
      ),
      { maxLength: 30 },
    )
    .map((parts) => parts.join('')),
);
/** Lone surrogates included. */
const anyCodeUnits = fc
  .array(fc.integer({ min: 0, max: 0xffff }), { maxLength: 40 })
  .map((units) => String.fromCharCode(...units));

test('a byte-level tokenizer without normalizer gives back any text', () => {
  const tokenizer = fixtureTokenizer('llama3_1');
  fc.assert(
    fc.property(fc.oneof(anyText, anyCodeUnits), (text) => {
      assert.equal(tokenizer.decode(tokenizer.encode(text)), text.toWellFormed());
    }),
    { numRuns: 2000 },
  );
});

test('a SentencePiece tokenizer with byte fallback gives back any text, marks as spaces', () => {
  const tokenizer = fixtureTokenizer('gemma3');
  fc.assert(
    fc.property(fc.oneof(anyText, anyCodeUnits), (text) => {
      const expected = text.toWellFormed().replaceAll('▁', ' ');
      assert.equal(tokenizer.decode(tokenizer.encode(text)), expected);
    }),
    { numRuns: 2000 },
  );
});

test('an NFC tokenizer gives back the composed text', () => {
  const tokenizer = fixtureTokenizer('qwen3');
  fc.assert(
    fc.property(anyText, (text) => {
      assert.equal(tokenizer.decode(tokenizer.encode(text)), text.toWellFormed().normalize('NFC'));
    }),
    { numRuns: 1000 },
  );
});

test('streamed text is the decoded text, for any ids, and holds back incomplete characters', () => {
  for (const name of fixtureNames) {
    const tokenizer = fixtureTokenizer(name);
    const someIds = fc.oneof(
      fc.array(fc.integer({ min: 0, max: tokenizer.vocabSize - 1 }), { maxLength: 40 }),
      fc.array(fc.integer({ min: 0, max: 400 }), { maxLength: 40 }),
      anyText.map((text) => tokenizer.encode(text)),
    );
    fc.assert(
      fc.property(someIds, fc.boolean(), (ids, skipSpecial) => {
        const stream = tokenizer.createDecoderStream({ skipSpecial });
        const parts = ids.map((id) => stream.push(id));
        assert.equal(parts.join('') + stream.end(), tokenizer.decode(ids, { skipSpecial }));
      }),
      { numRuns: 500 },
    );
  }
});

test('a character of several tokens comes out whole, with its last token', () => {
  const tokenizer = fixtureTokenizer('smollm2');
  const ids = tokenizer.encode('a𐍈b');
  assert.ok(ids.length > 4, 'the character must be cut into bytes for this test');
  const stream = tokenizer.createDecoderStream();
  const parts = ids.map((id) => stream.push(id));
  assert.deepEqual(
    parts.filter((part) => part !== ''),
    ['a', '𐍈', 'b'],
  );
  assert.equal(stream.end(), '');
  stream.push(ids[1]!);
  assert.equal(stream.end(), '\ufffd', 'what was never completed is shown at the end');
  assert.equal(stream.push(ids[0]!), 'a', 'and the stream starts anew');
});

test('tokenBytes put together are the bytes of the text', () => {
  for (const name of ['llama3_1', 'gemma3'] as const) {
    const tokenizer = fixtureTokenizer(name);
    const text = 'naïve 你好 😀\n\n  x';
    const bytes = tokenizer.encode(text).flatMap((id) => [...tokenizer.tokenBytes(id)]);
    assert.deepEqual(bytes, [...new TextEncoder().encode(text)]);
  }
});

test('ids outside the vocabulary are refused, with the range', () => {
  const tokenizer = fixtureTokenizer('smollm2');
  for (const id of [-1, 49152, 1.5, Number.NaN, 2 ** 40]) {
    const isError = (error: unknown): boolean =>
      error instanceof TokenizerError && error.message.includes('0 to 49151');
    assert.throws(() => tokenizer.decode([id]), isError);
    assert.throws(() => tokenizer.tokenBytes(id), isError);
    assert.throws(() => tokenizer.createDecoderStream({ skipSpecial: true }).push(id), isError);
  }
});

test('encoding does not depend on what was encoded before', () => {
  fc.assert(
    fc.property(anyText, anyText, (first, second) => {
      const tokenizer = fixtureTokenizer('smollm2');
      const before = tokenizer.encode(second);
      tokenizer.encode(first + second);
      assert.deepEqual(tokenizer.encode(second), before);
    }),
    { numRuns: 300 },
  );
});
