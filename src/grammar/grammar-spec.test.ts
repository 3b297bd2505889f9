import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { GrammarError } from './errors.ts';
import { MAX_GRAMMAR_CHARS, MAX_SCHEMA_DEPTH, parseGrammarSpec } from './grammar-spec.ts';

const nested = (depth: number): string =>
  `${'{"items":'.repeat(depth - 1)}{}${'}'.repeat(depth - 1)}`;

describe('a grammar as its caller wrote it', () => {
  it('becomes plain data with the schema as text', () => {
    const schema = { type: 'integer' };
    const expected = { type: 'json_schema', schema: '{"type":"integer"}' };
    assert.deepEqual(parseGrammarSpec({ type: 'json_schema', schema }), expected);
    assert.deepEqual(parseGrammarSpec(expected), expected);
    assert.deepEqual(parseGrammarSpec({ type: 'json_object', more: 1 }), { type: 'json_object' });
    assert.deepEqual(parseGrammarSpec({ type: 'choice', choice: ['a'] }), {
      type: 'choice',
      choice: ['a'],
    });
  });

  it('may be as deep and as long as it may, brackets in texts not counted', () => {
    parseGrammarSpec({ type: 'json_schema', schema: nested(MAX_SCHEMA_DEPTH) });
    const enumerated = { enum: ['[{'.repeat(MAX_SCHEMA_DEPTH), '"', '\\"['] };
    parseGrammarSpec({ type: 'json_schema', schema: enumerated });
    parseGrammarSpec({ type: 'regex', regex: 'a'.repeat(MAX_GRAMMAR_CHARS - 100) });
  });

  const circular: Record<string, unknown> = {};
  circular.self = circular;
  const wrong: readonly [string, unknown, RegExp][] = [
    ['nothing', undefined, /expected an object/],
    ['an unknown type', { type: 'yaml' }, /expected one of json_object, .* got "yaml"/],
    ['a schema that is no JSON', { type: 'json_schema', schema: '{' }, /not JSON/],
    ['a schema that is a list', { type: 'json_schema', schema: [] }, /expected a JSON schema/],
    ['no schema', { type: 'json_schema' }, /not JSON/],
    ['a schema in a circle', { type: 'json_schema', schema: circular }, /circular/],
    ['a deep schema', { type: 'json_schema', schema: nested(MAX_SCHEMA_DEPTH + 1) }, /65 deep/],
    ['a very deep schema', { type: 'json_schema', schema: nested(20_000) }, /20000 deep/],
    [
      'a long schema',
      { type: 'json_schema', schema: { title: 'x'.repeat(2 ** 20) } },
      /at most 262144/,
    ],
    ['a long text', { type: 'grammar', grammar: 'x'.repeat(2 ** 20) }, /at most 262144/],
    ['quotes without end', { type: 'json_schema', schema: '{"\\"'.repeat(50_000) }, /not JSON/],
    ['an empty pattern', { type: 'regex', regex: '' }, /at least one character/],
    ['half a character', { type: 'regex', regex: '\ud800' }, /at least one character/],
    ['no choices', { type: 'choice', choice: [] }, /1 to 10000/],
    ['a choice that is no text', { type: 'choice', choice: ['a', 1] }, /choice\[1\]/],
  ];
  for (const [what, input, message] of wrong) {
    it(`is refused: ${what}`, () => {
      assert.throws(
        () => parseGrammarSpec(input),
        (error: unknown) => error instanceof GrammarError && message.test(error.message),
      );
    });
  }
});
