import assert from 'node:assert/strict';
import { test } from 'node:test';
import { TokenizerError } from './errors.ts';
import { translateRegex } from './regex.ts';

const matches = (pattern: string, text: string): string[] =>
  text.match(translateRegex(pattern)) ?? [];

test('white space is that of Unicode, not of JavaScript', () => {
  assert.deepEqual(matches('\\s', ' \u0085\ufeff\u3000a'), [' ', '\u0085', '\u3000']);
  assert.deepEqual(matches('[^\\s]', ' \u0085\ufeffa'), ['\ufeff', 'a']);
  assert.deepEqual(matches('[\\S]', ' \u0085\ufeffa'), ['\ufeff', 'a']);
});

test('digits, words and boundaries are those of Unicode', () => {
  assert.deepEqual(matches('\\d+', '12٣x'), ['12٣']);
  assert.deepEqual(matches('\\w+', 'né_1 x'), ['né_1', 'x']);
  assert.deepEqual(matches('\\bé\\b', 'né é'), ['é']);
  assert.deepEqual(matches('\\Bé', 'né é'), ['é']);
  assert.deepEqual(matches('\\h+', 'xFf0g'), ['Ff0']);
});

test('anchors are those of lines, a dot stops at a newline only', () => {
  assert.deepEqual(matches('^a', 'a\na'), ['a', 'a']);
  assert.deepEqual(matches('a$', 'a\na'), ['a', 'a']);
  assert.deepEqual(matches('\\Aa', 'a\na'), ['a']);
  assert.deepEqual(matches('a\\z', 'a\na'), ['a']);
  assert.deepEqual(matches('a\\Z', 'a\na\n'), ['a']);
  assert.deepEqual(matches('.+', 'a\rb\nc'), ['a\rb', 'c']);
});

test('possessive and atomic groups do not give back', () => {
  assert.deepEqual(matches('a++a', 'aaa'), []);
  assert.deepEqual(matches('(?>a+)a', 'aaa'), []);
  assert.deepEqual(matches('a?+a', 'a'), []);
  assert.deepEqual(matches('[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+', ' ab'), [' ab']);
  assert.deepEqual(matches('\\p{N}{1,3}+', '12345'), ['12345'], 'Ruby: a second quantifier');
  assert.deepEqual(matches('a{,2}b', 'aaab'), ['aab']);
  assert.deepEqual(matches('a+?', 'aa'), ['a', 'a']);
});

test('classes: ranges, nesting, intersection, literals that JavaScript reserves', () => {
  assert.deepEqual(matches('[a-c\\-x]', 'abd-x'), ['a', 'b', '-', 'x']);
  assert.deepEqual(matches('[a&&[^b]]|[\\p{L}&&[^a-y]]', 'abz'), ['a', 'z']);
  assert.deepEqual(matches('[()|{}/^!]', '(|}^!'), ['(', '|', '}', '^', '!']);
  assert.deepEqual(matches('[]a]', ']a'), [']', 'a']);
  assert.deepEqual(matches('[a-]', 'a-'), ['a', '-']);
  assert.deepEqual(matches('[^[ab]c]', 'abcd'), ['d']);
});

test('properties and escapes of both dialects', () => {
  assert.deepEqual(matches('\\p{Han}', 'a你'), ['你']);
  assert.deepEqual(matches('\\p{^L}|\\P{N}', '1'), ['1']);
  assert.deepEqual(matches('\\x{1F600}|\\x41|\\u0042', '😀AB'), ['😀', 'A', 'B']);
  assert.deepEqual(matches("(?i:'s|'t)", "'S't"), ["'S", "'t"]);
  assert.deepEqual(matches('(?<name>a)(b)', 'ab'), ['ab']);
});

test('what is not understood is refused', () => {
  const patterns = [
    '(',
    ')',
    '[',
    'a\\',
    '*a',
    '\\p{Nonsense}',
    '\\p',
    '[[:alpha:]]',
    '(?x:a)',
    '\\1',
  ];
  for (const pattern of [
    ...patterns,
    '(?#c)',
    '[b-a]',
    '\\x{110000}',
    '('.repeat(5000),
    '\\k<a>',
    '\\R',
  ]) {
    assert.throws(() => translateRegex(pattern), TokenizerError, pattern.slice(0, 40));
  }
});
