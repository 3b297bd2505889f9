/** Real tokenizers written as GGUF metadata and read back: the same ids for every reference text, specials and chat template included. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { TokenizerError } from './errors.ts';
import { metadataOf } from './gguf-metadata.ts';
import { tokenizerFromGguf } from './gguf-tokenizer.ts';
import { tokenizerFromHfFiles } from './hf-tokenizer.ts';
import { BYTE_TOKENS } from './testing/small-tokenizers.ts';
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

  it('of SentencePiece get scores from the order of merges', () => {
    const { json, tokenizer } = sentencePiece();
    const metadata = metadataOf(json, tokenizer, tokenizer.vocabSize - 1);
    assert.equal(metadata.get('tokenizer.ggml.model'), 'llama');
    assert.equal(metadata.get('tokenizer.ggml.add_space_prefix'), false);
    const tokens = metadata.get('tokenizer.ggml.tokens') as string[];
    // One row of embeddings fewer than tokens: the last token is left out.
    assert.equal(tokens.length, tokenizer.vocabSize - 1);
    const scores = metadata.get('tokenizer.ggml.scores') as Float32Array;
    const scoreOf = (token: string): number => scores[tokens.indexOf(token)]!;
    assert.ok(scoreOf('he') > scoreOf('\u2581the') && scoreOf('\u2581the') > scoreOf('x'));
    const types = metadata.get('tokenizer.ggml.token_type') as Int32Array;
    const typeOf = (token: string): number => types[tokens.indexOf(token)]!;
    assert.deepEqual(['<unk>', '<bos>', '<0x41>', '<mark>', 'he'].map(typeOf), [2, 3, 6, 4, 1]);
    const read = tokenizerFromGguf(metadata);
    for (const text of ['the then he', ' the', 'x é 😀 the', '<mark>the<bos>', 'thethe  he', '']) {
      assert.deepEqual(read.encode(text), tokenizer.encode(text), text);
      assert.equal(read.decode(read.encode(text)), tokenizer.decode(tokenizer.encode(text)));
    }
    assert.equal(read.addsBos, tokenizer.addsBos);
  });

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

/** A tokenizer.json as it is made of a SentencePiece BPE model, and the tokenizer of it. */
function sentencePiece() {
  const pieces = [
    'h',
    'e',
    't',
    'n',
    'x',
    '\u2581',
    'he',
    'th',
    'the',
    '\u2581the',
    '\u2581h',
    'en',
    'hen',
  ];
  const specials = ['<pad>', '<eos>', '<bos>', '<unk>', '<mark>'];
  const all = [...specials, ...BYTE_TOKENS, ...pieces, '<past>'];
  const json = {
    added_tokens: [...specials, '<past>'].map((content) => ({
      ...{ id: all.indexOf(content), content, special: content !== '<mark>', normalized: false },
      ...{ single_word: false, lstrip: false, rstrip: false },
    })),
    normalizer: { type: 'Replace', pattern: { String: ' ' }, content: '\u2581' },
    pre_tokenizer: {
      ...{ type: 'Split', pattern: { String: ' ' }, behavior: 'MergedWithPrevious' },
      invert: false,
    },
    post_processor: {
      type: 'TemplateProcessing',
      single: [
        { SpecialToken: { id: '<bos>', type_id: 0 } },
        { Sequence: { id: 'A', type_id: 0 } },
      ],
      pair: [],
      special_tokens: { '<bos>': { id: '<bos>', ids: [2], tokens: ['<bos>'] } },
    },
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: '\u2581' }, content: ' ' },
        { type: 'ByteFallback' },
        { type: 'Fuse' },
      ],
    },
    model: {
      ...{ type: 'BPE', unk_token: '<unk>', fuse_unk: true, byte_fallback: true },
      vocab: Object.fromEntries(all.map((token, id) => [token, id])),
      merges: [
        ...[
          ['h', 'e'],
          ['t', 'he'],
          ['t', 'h'],
          ['th', 'e'],
          ['\u2581', 'the'],
          ['\u2581', 'h'],
        ],
        ...[
          ['e', 'n'],
          ['he', 'n'],
          ['h', 'en'],
        ],
      ],
    },
  };
  const config = { bos_token: '<bos>', eos_token: '<eos>' };
  return { json, tokenizer: tokenizerFromHfFiles({ tokenizer: json, config }) };
}
