/** Texts on their way to the engine. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { EngineApi } from '../engine/engine.ts';
import { RequestTooLongError } from '../engine/errors.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import { EngineTextModel } from './engine-text-model.ts';

/** Its longest token has 4 bytes; `encoded` gets the length of each text that it was given. */
function tokenizerOf(encoded: number[]): Tokenizer {
  const tokenizer: Partial<Tokenizer> = {
    ...{ vocabSize: 3, bosTokenId: null, eosTokenIds: [], addsBos: false },
    chatTemplate: '{% for message in messages %}{{ message.content }}{% endfor %}',
    tokenTable: {
      offsets: Uint32Array.of(0, 1, 5, 7),
      bytes: new Uint8Array(7),
      specials: new Uint8Array(3),
    },
    isSpecial: () => false,
    idToToken: () => undefined,
    encode(text) {
      encoded.push(text.length);
      return [0];
    },
  };
  return tokenizer as Tokenizer;
}

test('a text that no tokens of the vocabulary could fit into the context is refused before it is tokenized', () => {
  const encoded: number[] = [];
  const model = new EngineTextModel({
    ...{ name: 'a', path: 'a' },
    engine: { limits: { maxModelLen: 10 } } as EngineApi,
    tokenizer: tokenizerOf(encoded),
  });
  const chat = (text: string) => model.encodeChat([{ role: 'user', content: text }]);
  for (const encode of [(text: string) => model.encodePrompt(text), chat]) {
    assert.deepEqual(encode('x'.repeat(36)), [0]);
    assert.throws(() => encode('x'.repeat(37)), RequestTooLongError);
    assert.throws(() => encode(' '.repeat(1e6)), /1000000 characters, so 250000 tokens at least/);
  }
  assert.deepEqual(encoded, [36, 36]);
});
