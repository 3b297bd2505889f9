import assert from 'node:assert/strict';
import { Buffer } from 'node:buffer';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  describeJson,
  JsonSyntaxError,
  type JsonValue,
  parseStrictJson,
  unsignedInteger,
} from './strict-json.ts';

const parse = (text: string) => parseStrictJson(Buffer.from(text));

/** As JSON.parse would have it. */
function plain(value: JsonValue): unknown {
  if (typeof value !== 'object' || value === null) return value;
  if (value instanceof Map) {
    return Object.fromEntries([...value].map(([key, item]) => [key, plain(item)]));
  }
  if ('number' in value) return Number(value.number);
  return (value as readonly JsonValue[]).map(plain);
}

test('it reads what JSON.parse reads', () => {
  fc.assert(
    fc.property(fc.json({ maxDepth: 8 }), fc.nat(3), (text, indent) => {
      // Object.fromEntries would set the prototype.
      fc.pre(!text.includes('__proto__'));
      const spaced = JSON.stringify(JSON.parse(text), null, indent);
      for (const variant of [text, spaced, ` \n\t\r${spaced} `]) {
        assert.deepEqual(plain(parse(variant)), JSON.parse(variant));
      }
    }),
    { seed: 5, numRuns: 400 },
  );
});

test('it refuses what JSON.parse refuses', () => {
  fc.assert(
    fc.property(
      fc.string({ unit: fc.constantFrom(...'{}[]",:0123456789.-+eEtrufalsn\\ \n'), maxLength: 12 }),
      (text) => {
        let expected: unknown;
        try {
          expected = JSON.parse(text);
        } catch {
          assert.throws(() => parse(text), JsonSyntaxError);
          return;
        }
        assert.deepEqual(plain(parse(text)), expected);
      },
    ),
    { seed: 6, numRuns: 3000 },
  );
});

test('duplicate keys, also when spelled differently, are refused', () => {
  assert.throws(() => parse('{"a":1,"\\u0061":2}'), /duplicate key "a" at byte 15 of the JSON/);
});

test('only integer literals without sign are integers', () => {
  const cases: [string, number | null][] = [
    ['0', 0],
    ['9007199254740991', 9007199254740991],
    ['9007199254740992', null],
    ['-0', null],
    ['1.0', null],
    ['1e3', null],
    ['"1"', null],
    ['null', null],
    ['[1]', null],
  ];
  for (const [text, expected] of cases) assert.equal(unsignedInteger(parse(text)), expected, text);
  assert.equal(unsignedInteger(undefined), null);
});

test('values are shown in bounded length', () => {
  assert.equal(describeJson(parse(`"${'x'.repeat(500)}"`)).length, 62);
  assert.equal(
    describeJson(parse('[1,[2.50],{"a":1},null,"s"]')),
    '[1, [2.50], an object, null, "s"]',
  );
  assert.ok(describeJson(parse(`[${'1,'.repeat(500)}1]`)).length < 50);
  assert.equal(describeJson(undefined), 'missing');
});
