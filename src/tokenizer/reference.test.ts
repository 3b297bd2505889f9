import assert from 'node:assert/strict';
import { test } from 'node:test';
import { tokenizerFromGguf } from './gguf-tokenizer.ts';
import {
  fixtureNames,
  fixtureTokenizer,
  readFixture,
  referenceRows,
} from './testing/tokenizer-fixtures.ts';

/** The GGUF metadata that a converter writes for a tokenizer.json. */
function convertedMetadata(name: 'qwen3' | 'llama3_1', pre: string): Map<string, unknown> {
  const json = readFixture(`${name}.tokenizer`) as {
    added_tokens: { id: number; content: string; special: boolean }[];
    model: { vocab: Record<string, number>; merges: (string | string[])[] };
  };
  const tokens: string[] = [];
  for (const [token, id] of Object.entries(json.model.vocab)) tokens[id] = token;
  const types = new Int32Array(tokens.length + json.added_tokens.length).fill(1);
  for (const { id, content, special } of json.added_tokens) {
    tokens[id] = content;
    types[id] = special ? 3 : 4;
  }
  return new Map<string, unknown>([
    ['tokenizer.ggml.model', 'gpt2'],
    ['tokenizer.ggml.pre', pre],
    ['tokenizer.ggml.tokens', tokens],
    ['tokenizer.ggml.token_type', types],
    [
      'tokenizer.ggml.merges',
      json.model.merges.map((merge) => (typeof merge === 'string' ? merge : merge.join(' '))),
    ],
  ]);
}

for (const [name, pre] of [
  ['qwen3', 'qwen2'],
  ['llama3_1', 'llama-bpe'],
] as const) {
  test(`${name} as GGUF (${pre}) gives the same ids`, () => {
    const tokenizer = tokenizerFromGguf(convertedMetadata(name, pre));
    for (const row of referenceRows(name)) {
      assert.deepEqual(tokenizer.encode(row.text), row.ids, JSON.stringify(row.text));
    }
  });
}

for (const name of fixtureNames) {
  test(`${name}: ids and texts of all 224 reference strings are those of tokenizers`, () => {
    const tokenizer = fixtureTokenizer(name);
    const rows = referenceRows(name);
    assert.equal(rows.length, 224);
    for (const row of rows) {
      const decoded = row.decoded ?? row.text;
      assert.deepEqual(tokenizer.encode(row.text), row.ids, JSON.stringify(row.text));
      assert.deepEqual(
        tokenizer.encode(row.text, { parseSpecial: false }),
        row.ids_special_as_text ?? row.ids,
        `special tokens as text: ${JSON.stringify(row.text)}`,
      );
      assert.equal(tokenizer.decode(row.ids), decoded);
      assert.equal(
        tokenizer.decode(row.ids, { skipSpecial: true }),
        row.decoded_skip_special ?? decoded,
      );
    }
  });
}

test('BOS, EOS and what is added are those of the models', () => {
  const facts = fixtureNames.map((name) => {
    const { vocabSize, bosTokenId, eosTokenIds, addsBos, addsEos } = fixtureTokenizer(name);
    return { name, vocabSize, bosTokenId, eosTokenIds, addsBos, addsEos };
  });
  assert.deepEqual(facts, [
    {
      name: 'smollm2',
      vocabSize: 49152,
      bosTokenId: 1,
      eosTokenIds: [2, 0],
      addsBos: false,
      addsEos: false,
    },
    {
      name: 'gemma3',
      vocabSize: 262144,
      bosTokenId: 2,
      eosTokenIds: [1, 106],
      addsBos: true,
      addsEos: false,
    },
    {
      name: 'qwen3',
      vocabSize: 151669,
      bosTokenId: null,
      eosTokenIds: [151645, 151643],
      addsBos: false,
      addsEos: false,
    },
    {
      name: 'llama3_1',
      vocabSize: 128256,
      bosTokenId: 128000,
      eosTokenIds: [128009, 128001],
      addsBos: true,
      addsEos: false,
    },
  ]);
  assert.deepEqual(fixtureTokenizer('gemma3').encode('hi', { addSpecial: true }), [2, 2202]);
  assert.deepEqual(fixtureTokenizer('smollm2').encode('', { addSpecial: true }), []);
});

test('a token is found by its spelling and spelled as in the file', () => {
  for (const name of fixtureNames) {
    const tokenizer = fixtureTokenizer(name);
    for (let id = 0; id < tokenizer.vocabSize; id += 97) {
      const token = tokenizer.idToToken(id)!;
      assert.equal(tokenizer.tokenToId(token), id, `${name} ${id} ${JSON.stringify(token)}`);
    }
    assert.equal(tokenizer.tokenToId('no such token at all'), undefined);
    assert.equal(tokenizer.idToToken(tokenizer.vocabSize), undefined);
    assert.equal(tokenizer.idToToken(-1), undefined);
  }
});

test('special tokens are known as such, text tokens are not', () => {
  const tokenizer = fixtureTokenizer('smollm2');
  assert.equal(tokenizer.isSpecial(2), true);
  assert.equal(tokenizer.isSpecial(19556), false);
  assert.equal(tokenizer.isSpecial(1e9), false);
});
