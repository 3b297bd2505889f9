import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { byteTokenizer } from './byte-tokenizer.ts';
import { ChatTemplate } from './chat-template.ts';
import { TokenizerError } from './errors.ts';

test('ids are 3 + byte, control tokens before, nothing behind', () => {
  const tokenizer = byteTokenizer(320);
  assert.deepEqual(tokenizer.encode('Aé'), [3 + 65, 3 + 0xc3, 3 + 0xa9]);
  assert.deepEqual(tokenizer.encode('A', { addSpecial: true }), [1, 68]);
  assert.deepEqual(tokenizer.encode('A<eos>'), [68, 2]);
  assert.equal(tokenizer.encode('<eos>', { parseSpecial: false }).length, 5);
  assert.equal(tokenizer.decode([1, 68, 300, 319, 2], { skipSpecial: true }), 'A');
  assert.deepEqual(tokenizer.eosTokenIds, [2]);
  assert.equal(tokenizer.vocabSize, 320);
});

test('any text comes back', () => {
  const tokenizer = byteTokenizer(259);
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      assert.equal(tokenizer.decode(tokenizer.encode(text, { parseSpecial: false })), text);
    }),
  );
});

test('its chat template names the speakers', () => {
  const template = ChatTemplate.of(byteTokenizer(259))!;
  assert.equal(
    template.render([{ role: 'user', content: 'Hi' }], { addGenerationPrompt: true }),
    '<bos>user: Hi\nassistant: ',
  );
});

test('a vocabulary too small for all bytes is refused', () => {
  for (const size of [258, 0, -1, Number.NaN, 300.5]) {
    assert.throws(() => byteTokenizer(size), TokenizerError);
  }
});
