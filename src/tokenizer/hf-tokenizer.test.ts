import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import type { Tokenizer } from './contract.ts';
import { TokenizerError } from './errors.ts';
import { parseNormalizer } from './hf-normalizer.ts';
import { tokenizerFromHfFiles } from './hf-tokenizer.ts';
import { llama2Json } from './testing/small-tokenizers.ts';
import { tokenizerFromHf } from './tokenizer.ts';

function build(changes: Record<string, unknown> = {}, config?: unknown): Tokenizer {
  return tokenizerFromHfFiles({ tokenizer: { ...llama2Json(), ...changes }, config });
}

function withModel(changes: Record<string, unknown>): Record<string, unknown> {
  return { model: { ...(llama2Json().model as object), ...changes } };
}

test('a tokenizer.json in the manner of Llama 2', () => {
  const tokenizer = build();
  const hi = tokenizer.tokenToId('▁hi')!;
  const bang = tokenizer.tokenToId('<0x21>')!;
  assert.deepEqual(tokenizer.encode('hi hi!'), [hi, hi, bang]);
  assert.deepEqual(tokenizer.encode('hi', { addSpecial: true }), [1, hi]);
  assert.deepEqual(
    tokenizer.encode('hi<s>hi'),
    [hi, 1, hi],
    'the prefix is put after special tokens',
  );
  assert.equal(tokenizer.decode([hi, hi, bang]), 'hi hi!');
  assert.equal(tokenizer.decode([1, hi]), '<s> hi');
  assert.equal(tokenizer.decode([1, hi], { skipSpecial: true }), 'hi');
});

test('add_bos_token and add_eos_token overrule the post-processor', () => {
  const config = { bos_token: '<s>', eos_token: { content: '</s>' } };
  const around = (flags: object): number[] =>
    build({}, { ...config, ...flags }).encode('', { addSpecial: true });
  assert.deepEqual(around({}), [1]);
  assert.deepEqual(around({ add_bos_token: false }), []);
  assert.deepEqual(around({ add_bos_token: true, add_eos_token: true }), [1, 2]);
  const tokenizer = build({}, config);
  assert.equal(tokenizer.bosTokenId, 1);
  assert.deepEqual(tokenizer.eosTokenIds, [2]);
});

test('added tokens: white space they take, whole words, normalized ones', () => {
  const base = { normalized: false, special: false };
  const tokenizer = build({
    added_tokens: [
      { ...base, id: 264, content: '<l>', lstrip: true },
      { ...base, id: 265, content: '<r>', rstrip: true },
      { ...base, id: 266, content: 'w', single_word: true },
      { id: 267, content: 'q q', special: false, normalized: true },
    ],
  });
  const hi = tokenizer.tokenToId('▁hi')!;
  assert.deepEqual(tokenizer.encode('hi  <l>'), [hi, 264]);
  assert.deepEqual(tokenizer.encode('<r>  hi'), [265, hi]);
  assert.deepEqual(tokenizer.encode('w'), [266]);
  assert.equal(tokenizer.encode('wh').includes(266), false);
  assert.deepEqual(tokenizer.encode('q q'), [267], 'found in the text after normalizing');
});

test('tokens that only tokenizer_config.json has are added', () => {
  const config = { added_tokens_decoder: { '264': { content: '<x>', special: true } } };
  const tokenizer = build({}, config);
  assert.deepEqual(tokenizer.encode('<x>'), [264]);
  assert.equal(tokenizer.isSpecial(264), true);
});

test('unknown characters become one unknown token where bytes are not used', () => {
  const tokenizer = build(withModel({ byte_fallback: false }));
  assert.deepEqual(tokenizer.encode('hi éé'), [
    tokenizer.tokenToId('▁hi')!,
    tokenizer.tokenToId('▁')!,
    0,
  ]);
});

test('broken or unsupported files are refused with the place', () => {
  const cases: [string, Record<string, unknown>, RegExp][] = [
    ['no model', { model: undefined }, /model is undefined/],
    ['Unigram', { model: { type: 'Unigram' } }, /"Unigram"; accepted: "BPE"/],
    ['word suffixes', withModel({ end_of_word_suffix: '</w>' }), /end_of_word_suffix/],
    ['vocab of another type', withModel({ vocab: [] }), /model\.vocab is an array/],
    ['a negative id', withModel({ vocab: { a: -1 } }), /\["a"\] is number -1/],
    [
      'an id that asks for gigabytes',
      withModel({ vocab: { a: 2 ** 31 } }),
      /expected an id from 0/,
    ],
    ['one id twice', withModel({ vocab: { a: 0, b: 0 } }), /id 0 to both "a" and "b"/],
    ['no merges', withModel({ merges: undefined }), /model\.merges is undefined/],
    ['a merge of strangers', withModel({ merges: [['h', '▁']] }), /not in the vocabulary/],
    ['a merge of three', withModel({ merges: [['h', 'i', 'i']] }), /merge 0 is an array of 3/],
    ['an added token without text', { added_tokens: [{ id: 1 }] }, /added_tokens\[0\]\.content/],
    ['an added id out of range', { added_tokens: [{ id: 1e9, content: 'x' }] }, /1000000000/],
    ['an unknown normalizer', { normalizer: { type: 'Precompiled' } }, /"Precompiled"; accepted/],
    ['an unknown pre-tokenizer', { pre_tokenizer: { type: 'BertPreTokenizer' } }, /accepted: Seq/],
    ['an unknown decoder', { decoder: { type: 'CTC' } }, /decoder is of type "CTC"/],
    ['an unknown post-processor', { post_processor: { type: 'Magic' } }, /string Magic; accepted/],
    [
      'a template with an id out of range',
      {
        post_processor: {
          type: 'TemplateProcessing',
          single: [{ SpecialToken: { id: 'x' } }],
          special_tokens: { x: { ids: [99999] } },
        },
      },
      /token id 99999/,
    ],
    [
      'a split without behaviour',
      { pre_tokenizer: { type: 'Split', pattern: { String: 'x' } } },
      /behavior is not one of/,
    ],
  ];
  for (const [what, changes, message] of cases) {
    assert.throws(
      () => build(changes),
      (error: unknown) => {
        assert.ok(error instanceof TokenizerError, `${what}: ${String(error)}`);
        assert.match(error.message, message, what);
        return true;
      },
      what,
    );
  }
});

test('normalizers', () => {
  const normalize = (json: unknown, text: string): string => parseNormalizer(json)!(text);
  assert.equal(normalize({ type: 'NFKC' }, 'ﬁ'), 'fi');
  assert.equal(normalize({ type: 'Lowercase' }, 'ÄB'), 'äb');
  assert.equal(
    normalize({ type: 'Sequence', normalizers: [{ type: 'NFD' }, { type: 'StripAccents' }] }, 'é'),
    'e',
  );
  assert.equal(
    normalize({ type: 'Strip', strip_left: true, strip_right: true }, ' \n a b  '),
    'a b',
  );
  assert.equal(
    normalize({ type: 'Replace', pattern: { Regex: ' {2,}' }, content: '$1' }, 'a   b'),
    'a$1b',
  );
  assert.equal(normalize({ type: 'Prepend', prepend: '▁' }, ''), '');
});

test('a folder: templates from files win, missing and broken files are named', () => {
  const folder = mkdtempSync(join(tmpdir(), 'hasten-tokenizer-'));
  try {
    assert.throws(() => tokenizerFromHf(folder), /no tokenizer\.json/);
    writeFileSync(join(folder, 'tokenizer.json'), '{ "model": ');
    assert.throws(() => tokenizerFromHf(folder), /tokenizer\.json is not valid JSON/);
    writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(llama2Json()));
    assert.equal(tokenizerFromHf(folder).chatTemplate, null);

    const config = {
      eos_token: '</s>',
      chat_template: [
        { name: 'default', template: 'from config' },
        { name: 'tool_use', template: 'tools' },
      ],
    };
    writeFileSync(join(folder, 'tokenizer_config.json'), JSON.stringify(config));
    writeFileSync(join(folder, 'special_tokens_map.json'), '{ "bos_token": "<s>" }');
    const tokenizer = tokenizerFromHf(folder);
    assert.equal(tokenizer.chatTemplate, 'from config');
    assert.equal(tokenizer.bosTokenId, 1);
    assert.deepEqual(tokenizer.eosTokenIds, [2]);

    writeFileSync(join(folder, 'chat_template.json'), '{ "chat_template": "from json" }');
    assert.equal(tokenizerFromHf(folder).chatTemplate, 'from json');
    writeFileSync(join(folder, 'chat_template.jinja'), 'from jinja');
    mkdirSync(join(folder, 'additional_chat_templates'));
    writeFileSync(join(folder, 'additional_chat_templates', 'rag.jinja'), 'rag');
    assert.deepEqual(
      [...tokenizerFromHf(folder).chatTemplates!],
      [
        ['default', 'from jinja'],
        ['tool_use', 'tools'],
        ['rag', 'rag'],
      ],
    );
  } finally {
    rmSync(folder, { recursive: true });
  }
});
