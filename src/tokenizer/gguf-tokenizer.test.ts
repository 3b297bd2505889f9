import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { TokenizerError } from './errors.ts';
import { namedPreTokenizers } from './gguf-pre-tokenizers.ts';
import { tokenizerFromGguf } from './gguf-tokenizer.ts';
import { isolatingSteps, preTokenize } from './pre-tokenizer.ts';
import { BYTE_TOKENS, gpt2Metadata, sentencePieceMetadata } from './testing/small-tokenizers.ts';

const NORMAL = 1;
const UNKNOWN = 2;
const CONTROL = 3;
const USER_DEFINED = 4;
const BYTE = 6;

function llamaMetadata(): Map<string, unknown> {
  return sentencePieceMetadata([
    ['<unk>', 0, UNKNOWN],
    ['<s>', 0, CONTROL],
    ['</s>', 0, CONTROL],
    ...BYTE_TOKENS.map((token): [string, number, number] => [token, 0, BYTE]),
    ['▁', -10, NORMAL],
    ['h', -11, NORMAL],
    ['i', -12, NORMAL],
    ['hi', -1, NORMAL],
    ['▁hi', -2, NORMAL],
  ]);
}

/** `metadata` with some entries replaced, or removed where undefined. */
function changed(
  metadata: Map<string, unknown>,
  changes: Record<string, unknown>,
): Map<string, unknown> {
  const copy = new Map(metadata);
  for (const [name, value] of Object.entries(changes)) {
    const key = name.includes('.') ? name : `tokenizer.ggml.${name}`;
    if (value === undefined) copy.delete(key);
    else copy.set(key, value);
  }
  return copy;
}

test('a SentencePiece file gets llama.cpp defaults: BOS, a space in front, unknown bytes', () => {
  const tokenizer = tokenizerFromGguf(llamaMetadata());
  const ids = Object.fromEntries(
    ['▁', 'h', 'hi', '▁hi', '<0x21>'].map((token) => [token, tokenizer.tokenToId(token)!]),
  );
  assert.deepEqual(tokenizer.encode('hi'), [ids['▁hi']]);
  assert.deepEqual(tokenizer.encode('hi', { addSpecial: true }), [1, ids['▁hi']]);
  assert.deepEqual(tokenizer.encode('hi hi!'), [ids['▁hi'], ids['▁hi'], ids['<0x21>']]);
  assert.deepEqual(tokenizer.encode('<s>hi'), [1, ids['▁hi']]);
  assert.equal(tokenizer.encode('<s>', { parseSpecial: false }).includes(1), false);
  assert.equal(tokenizer.decode(tokenizer.encode('hi hi!')), 'hi hi!');
  assert.equal(tokenizer.decode(tokenizer.encode(' hi')), ' hi');
  assert.deepEqual(tokenizer.eosTokenIds, [2]);
  assert.equal(tokenizer.addsBos, true);
});

test('a continued text keeps the leading space that decoding from the start drops', () => {
  const tokenizer = tokenizerFromGguf(llamaMetadata());
  const id = tokenizer.tokenToId('▁hi')!;
  assert.equal(tokenizer.decode([id, id]), 'hi hi');
  assert.equal(tokenizer.decode([id, id], { isContinuation: true }), ' hi hi');
  const stream = tokenizer.createDecoderStream({ isContinuation: true });
  assert.equal(stream.push(id) + stream.push(id) + stream.end(), ' hi hi');
  const fresh = tokenizer.createDecoderStream();
  assert.equal(fresh.push(id) + fresh.push(id) + fresh.end(), 'hi hi');
});

test('added tokens: user-defined ones always, control ones where allowed, the longest first', () => {
  const metadata = gpt2Metadata(['a', '<', '>', '<a>', '<a><a>', '<c>']);
  const types = Int32Array.of(NORMAL, NORMAL, NORMAL, USER_DEFINED, USER_DEFINED, CONTROL);
  const tokenizer = tokenizerFromGguf(changed(metadata, { token_type: types }));
  assert.deepEqual(tokenizer.encode('<a>a<a><a><a>'), [3, 0, 4, 3]);
  assert.deepEqual(tokenizer.encode('<a>', { parseSpecial: false }), [3]);
  assert.deepEqual(tokenizer.encode('<c>a'), [5, 0]);
  assert.equal(tokenizer.encode('<c>a', { parseSpecial: false }).includes(5), false);
  assert.deepEqual(tokenizer.encode('<\ufdd0c>a', { breakMark: '\ufdd0' }), [1, 2, 0]);
  assert.equal(tokenizer.decode([5, 0, 3], { skipSpecial: true }), 'a<a>');
});

test('every id that ends a turn is found: declared ones first, then by their text', () => {
  const tokens = ['a', '<|endoftext|>', '<|im_end|>', '<|user|>'];
  const metadata = changed(gpt2Metadata(tokens), {
    token_type: Int32Array.of(NORMAL, CONTROL, CONTROL, CONTROL),
    eos_token_id: 2,
    eot_token_id: 3n,
  });
  assert.deepEqual(tokenizerFromGguf(metadata).eosTokenIds, [2, 3, 1]);
  const harmony = ['<|end|>', '<|return|>', '<|call|>'];
  const ids = tokenizerFromGguf(
    changed(gpt2Metadata(harmony), { token_type: Int32Array.of(CONTROL, CONTROL, CONTROL) }),
  ).eosTokenIds;
  assert.deepEqual(ids, [1, 2], '<|end|> does not end a turn in the harmony format');
});

test('chat templates: the default one and named ones', () => {
  const tokenizer = tokenizerFromGguf(
    changed(gpt2Metadata(['a']), {
      'tokenizer.chat_template': 'D',
      'tokenizer.chat_template.tool_use': 'T',
      'tokenizer.chat_templates': ['tool_use'],
    }),
  );
  assert.equal(tokenizer.chatTemplate, 'D');
  assert.deepEqual(
    [...tokenizer.chatTemplates!],
    [
      ['default', 'D'],
      ['tool_use', 'T'],
    ],
  );
});

test('Phi-3 control tokens take the white space after them', () => {
  const metadata = changed(llamaMetadata(), { 'general.name': 'Phi-3-mini' });
  const tokenizer = tokenizerFromGguf(metadata);
  const hi = tokenizer.tokenToId('▁hi')!;
  assert.deepEqual(tokenizer.encode('</s> \n hi'), [2, hi]);
  assert.notDeepEqual(tokenizer.encode('<s> hi'), [1, hi]);
});

test('broken metadata is refused with the key and the values', () => {
  const bpe = gpt2Metadata(['a', 'b', 'ab']);
  const spm = llamaMetadata();
  const cases: [string, Map<string, unknown>, RegExp][] = [
    ['no model', changed(bpe, { model: undefined }), /tokenizer\.ggml\.model/],
    ['model of another type', changed(bpe, { model: 7 }), /number 7; expected a string/],
    ['unknown model', changed(bpe, { model: 'bert' }), /"bert"; accepted: "gpt2"/],
    ['unknown pre-tokenizer', changed(bpe, { pre: 'klingon' }), /"klingon"; accepted: default/],
    ['no tokens', changed(bpe, { tokens: undefined }), /tokenizer\.ggml\.tokens/],
    ['empty tokens', changed(bpe, { tokens: [], token_type: [] }), /vocabulary is empty/],
    ['tokens of another type', changed(bpe, { tokens: 'abc' }), /expected an array of strings/],
    [
      'a token that is a number',
      changed(bpe, { tokens: ['a', 5, 'ab'] }),
      /tokens\[1\] is number 5/,
    ],
    [
      'a hole in the tokens',
      changed(bpe, { tokens: ['a', undefined, 'ab'] }),
      /tokens\[1\] is undefined/,
    ],
    ['types: too few', changed(bpe, { token_type: Int32Array.of(1) }), /has 1 elements; .* 3/],
    ['types: too many', changed(bpe, { token_type: new Int32Array(4).fill(1) }), /has 4 elements/],
    ['types: out of range', changed(bpe, { token_type: Int32Array.of(1, 99, 1) }), /\[1\] is 99/],
    ['types: negative', changed(bpe, { token_type: [1, -1, 1] }), /\[1\] is -1; accepted: 0 to 6/],
    [
      'types: bigints',
      changed(bpe, { token_type: BigInt64Array.of(1n, 1n, 1n) }),
      /expected a number/,
    ],
    ['types: not an array', changed(bpe, { token_type: 3 }), /expected an array of numbers/],
    [
      'types: a DataView',
      changed(bpe, { token_type: new DataView(new ArrayBuffer(3)) }),
      /DataView/,
    ],
    ['merges: not an array', changed(bpe, { merges: 'a b' }), /expected an array of strings/],
    ['merges: a number', changed(bpe, { merges: [5] }), /merges\[0\] is number 5/],
    [
      'merges: one part',
      changed(bpe, { merges: ['ab'] }),
      /merge 0 is "ab"; expected "left right"/,
    ],
    ['merges: empty right', changed(bpe, { merges: ['a b', 'a '] }), /merge 1 is "a "/],
    ['merges: empty left', changed(bpe, { merges: [' a'] }), /merge 0 is " a"/],
    ['merges: empty', changed(bpe, { merges: [''] }), /merge 0 is ""/],
    [
      'BOS beyond the vocabulary',
      changed(bpe, { bos_token_id: 3 }),
      /bos_token_id is 3; .* 0 to 2/,
    ],
    ['EOS that is no integer', changed(bpe, { eos_token_id: 1.5 }), /eos_token_id is 1\.5/],
    ['EOS that is a text', changed(bpe, { eos_token_id: 'x' }), /eos_token_id is string x/],
    ['EOT as a huge bigint', changed(bpe, { eot_token_id: 1n << 60n }), /eot_token_id is 115/],
    ['add_bos_token as a number', changed(bpe, { add_bos_token: 1 }), /expected a boolean/],
    ['template as a number', changed(bpe, { 'tokenizer.chat_template': 1 }), /expected a string/],
    ['no scores', changed(spm, { scores: undefined }), /no "tokenizer\.ggml\.scores"/],
    ['scores: too few', changed(spm, { scores: new Float32Array(3) }), /has 3 elements/],
    [
      'a byte token with another name',
      changed(spm, { token_type: new Int32Array(264).fill(6) }),
      /type byte/,
    ],
    [
      'a score that is not a number',
      changed(spm, { scores: new Float32Array(264).fill(Number.NaN) }),
      /score of token 0/,
    ],
    [
      'an added token of a megabyte',
      changed(gpt2Metadata(['x'.repeat(1 << 20)]), { token_type: Int32Array.of(CONTROL) }),
      /1048576 characters; at most 1024/,
    ],
  ];
  for (const [what, metadata, message] of cases) {
    assert.throws(
      () => tokenizerFromGguf(metadata).prepareEncoding(),
      (error: unknown) => {
        assert.ok(error instanceof TokenizerError, `${what}: ${String(error)}`);
        assert.match(error.message, message, what);
        return true;
      },
      what,
    );
  }
});

test('what llama.cpp also accepts is accepted: absent ids, merges of removed tokens, duplicates', () => {
  const tokenizer = tokenizerFromGguf(
    changed(gpt2Metadata(['a', 'b', 'ab', 'a', '']), {
      bos_token_id: 0xffffffff,
      padding_token_id: 12345,
      merges: ['a b', 'ab zz'],
    }),
  );
  assert.equal(tokenizer.bosTokenId, null);
  assert.deepEqual(tokenizer.encode('aba'), [2, 0]);
  assert.equal(tokenizer.decode([3, 4]), 'a');
});

test('random metadata gives a tokenizer that works, or a TokenizerError', () => {
  const junk = fc.oneof(
    fc.constant(undefined),
    fc.string(),
    fc.integer(),
    fc.boolean(),
    fc.bigInt(),
    fc.double(),
    fc.array(fc.string({ unit: 'binary', maxLength: 4 }), { maxLength: 12 }),
    fc.array(fc.anything(), { maxLength: 4 }),
    fc.int32Array({ min: -1, max: 7, maxLength: 12 }),
    fc.float32Array({ maxLength: 12 }),
    fc.bigInt64Array({ maxLength: 3 }),
    fc.constantFrom('gpt2', 'llama', 'default', 'qwen2', 'tekken'),
  );
  const keys =
    'model pre tokens token_type merges scores bos_token_id eos_token_id unknown_token_id add_bos_token add_space_prefix'.split(
      ' ',
    );
  const base = fc.constantFrom(
    gpt2Metadata(['a', 'b', 'ab', '<x>']),
    changed(llamaMetadata(), { add_space_prefix: false }),
  );
  const changes = fc.dictionary(fc.constantFrom(...keys), junk, { maxKeys: 3 });
  fc.assert(
    fc.property(base, changes, fc.string({ unit: 'binary' }), (metadata, change, text) => {
      try {
        const tokenizer = tokenizerFromGguf(changed(metadata, change));
        const ids = tokenizer.encode(text, { addSpecial: true });
        for (const id of ids) assert.ok(id >= 0 && id < tokenizer.vocabSize);
        assert.equal(typeof tokenizer.decode(ids), 'string');
      } catch (error) {
        assert.ok(error instanceof TokenizerError, String((error as Error).stack));
      }
    }),
    { numRuns: 3000 },
  );
});

const TEXT = "Hello I'm 12345 wörld's  \n\n  x=3;\t你好世界! HELLOWorld don'T  ";

test('named pre-tokenizers cut as their models do', () => {
  const cut = (name: string, text = TEXT): string =>
    preTokenize(text, isolatingSteps(namedPreTokenizers.get(name)!.patterns), true).join('|');
  assert.equal(
    cut('gpt-2'),
    "Hello| I|'m| 12345| wörld|'s|  \n\n | x|=|3|;|\t|你好世界|!| HELLOWorld| don|'|T|  ",
  );
  assert.equal(
    cut('smollm'),
    "Hello| I|'m| |1|2|3|4|5| wörld|'s|  \n\n | x|=|3|;|\t|你好世界|!| HELLOWorld| don|'|T|  ",
  );
  assert.equal(
    cut('llama-bpe'),
    "Hello| I|'m| |123|45| wörld|'s|  \n\n| | x|=|3|;|\t你好世界|!| HELLOWorld| don|'T|  ",
  );
  assert.equal(cut('glm4'), cut('llama-bpe'));
  assert.equal(
    cut('qwen2'),
    "Hello| I|'m| |1|2|3|4|5| wörld|'s|  \n\n| | x|=|3|;|\t你好世界|!| HELLOWorld| don|'T|  ",
  );
  assert.equal(cut('gpt-4o', "HELLOWorld don'T 1234"), "HELLOWorld| don'T| |123|4");
  assert.equal(cut('tekken', 'helloWorld 12'), 'hello|World| |1|2');
  assert.equal(cut('falcon', 'a, b 1234 $x'), 'a|,| b| |123|4| |$|x');
  assert.equal(cut('deepseek-coder', 'a 12 b,c\nd'), 'a| |1|2| b|,|c|\n|d');
  assert.equal(cut('deepseek-llm', 'a  b 12 你x   '), 'a| | b| |12| |你|x|   ');
  assert.equal(cut('bloom', 'a b, c'), 'a| b|,| c');
});

test('a named pre-tokenizer loses no character of any text', () => {
  for (const [name, { patterns }] of namedPreTokenizers) {
    const steps = isolatingSteps(patterns);
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string({ unit: 'binary', maxLength: 30 }),
          fc.string({
            unit: fc.constantFrom(' ', '\n', '\t', 'a', 'B', "'", '1', '你', '!'),
            maxLength: 20,
          }),
        ),
        (text) => {
          assert.equal(preTokenize(text, steps, true).join(''), text, name);
        },
      ),
      { numRuns: 60 },
    );
  }
});
