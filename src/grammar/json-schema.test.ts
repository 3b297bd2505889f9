import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { enforceableSchema, stringPattern } from './json-schema.ts';

const brought = (schema: unknown): unknown => JSON.parse(enforceableSchema(JSON.stringify(schema)));

describe('a schema for the library', () => {
  it('has patterns for lengths of strings, deep inside too', () => {
    const inner = brought({ properties: { a: { items: { type: 'string', maxLength: 3 } } } }) as {
      properties: { a: { items: { pattern: string; maxLength?: number } } };
    };
    const { pattern, maxLength } = inner.properties.a.items;
    assert.equal(maxLength, undefined);
    for (const text of ['', 'abc', 'é"'.replace('"', '\\"')])
      assert.match(text, new RegExp(pattern));
    for (const text of ['abcd', 'a"', '\n', '\\']) assert.doesNotMatch(text, new RegExp(pattern));
  });

  it('is as it was where nothing of that kind is in it', () => {
    const schema = {
      type: 'object',
      properties: {
        type: { type: 'string' },
        maxLength: { type: 'integer' },
        date: { type: 'string', format: 'date', maxLength: 10 },
      },
      enum: [{ type: 'string', maxLength: 3 }],
      const: { type: 'string', minLength: 1 },
      minLength: 2,
    };
    assert.deepEqual(brought(schema), schema);
    const proto = '{"properties":{"__proto__":{"type":"integer"}}}';
    assert.equal(enforceableSchema(proto), proto);
  });
});

describe('a pattern in a string', () => {
  it('takes what it took, but for what a string does not hold as it is', () => {
    for (const [pattern, fits, not] of [
      ['^.{2}$', ['ab', 'é,'], ['a"', 'a\n', '\\a']],
      ['^[^a-c]$', ['d', '-'], ['a', '"', '\\', '\t']],
      ['^[^-z]$', ['y', 'a'], ['-', 'z', '"']],
      ['^[^\\]x]$', ['a', '['], [']', 'x', '"']],
      ['^\\S\\D\\W$', ['ab.', '-a '], [' a.', 'a"-', 'ab"', 'a1.']],
      ['^[.][\\d]\\.$', ['.5.'], ['a5.', '.5a']],
    ] as const) {
      const regex = new RegExp(stringPattern(pattern));
      for (const text of fits) assert.match(text, regex, pattern);
      for (const text of not) assert.doesNotMatch(text, regex, pattern);
    }
  });
});
