/** Real tokenizers written as GGUF metadata and read back: the same ids for every reference text, specials and chat template included. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { TokenizerError } from './errors.ts';
import { metadataOf } from './gguf-metadata.ts';
import { tokenizerFromGguf } from './gguf-tokenizer.ts';
import { fixtureTokenizer, readFixture, referenceRows } from './testing/tokenizer-fixtures.ts';

describe('tokenizers as GGUF metadata', () => {
  for (const [name, pre] of [
    ['qwen3', 'qwen2'],
    ['llama3_1', 'llama-bpe'],
  ] as const) {
    it(`${name} is read back with the same ids`, () => {
      const tokenizer = fixtureTokenizer(name);
      const json = readFixture(`${name}.tokenizer`);
      const metadata = metadataOf(json, tokenizer, tokenizer.vocabSize + 10);
      assert.equal(metadata.get('tokenizer.ggml.pre'), pre);
      assert.equal(
        (metadata.get('tokenizer.ggml.tokens') as string[]).length,
        tokenizer.vocabSize + 10,
      );
      const read = tokenizerFromGguf(metadata);
      for (const { text, ids } of referenceRows(name)) {
        assert.deepEqual(read.encode(text), ids, JSON.stringify(text));
      }
      if (tokenizer.bosTokenId !== null) assert.equal(read.bosTokenId, tokenizer.bosTokenId);
      assert.equal(read.addsBos, tokenizer.addsBos);
      assert.equal(read.eosTokenIds[0], tokenizer.eosTokenIds[0]);
      assert.equal(read.chatTemplate, tokenizer.chatTemplate);
      for (let id = 0; id < tokenizer.vocabSize; id += 997) {
        assert.equal(read.isSpecial(id), tokenizer.isSpecial(id), `${id}`);
      }
      const special = tokenizer.eosTokenIds[0]!;
      assert.ok(read.isSpecial(special) && tokenizer.isSpecial(special));
    });
  }

  it('refuses a pre-tokenizer that llama.cpp has no name for', () => {
    const json = structuredClone(readFixture('qwen3.tokenizer')) as Record<string, unknown>;
    json.pre_tokenizer = {
      type: 'Sequence',
      pretokenizers: [
        { type: 'Split', pattern: { Regex: '[abc]+' }, behavior: 'Isolated' },
        { type: 'ByteLevel', use_regex: false },
      ],
    };
    assert.throws(
      () => metadataOf(json, fixtureTokenizer('qwen3'), 10),
      (error: unknown) => error instanceof TokenizerError && /\[abc\].*no name/.test(error.message),
    );
  });
});
