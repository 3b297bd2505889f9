import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type PythonValue, pythonRepr, pythonStr, strftime } from './python-text.ts';

const text = (value: string): PythonValue => ({ kind: 'string', value });

test('repr quotes and escapes as Python does', () => {
  assert.equal(pythonRepr(text("it's")), '"it\'s"');
  assert.equal(pythonRepr(text('a"b')), "'a\"b'");
  assert.equal(pythonRepr(text('\'"')), "'\\'\"'");
  assert.equal(pythonRepr(text('\n\t\\\x00\x7f')), "'\\n\\t\\\\\\x00\\x7f'");
  assert.equal(pythonRepr(text('é 你 😀')), "'é 你 😀'");
  assert.equal(pythonRepr(text('\u00a0\u200b\u2028\ud800')), "'\\xa0\\u200b\\u2028\\ud800'");
  assert.equal(pythonStr(text('a\n')), 'a\n');
});

test('numbers, constants and containers', () => {
  const float = (value: number): string => pythonRepr({ kind: 'float', value });
  assert.deepEqual([1, 0.5, -0, 1e16, 1e15, 1.5e-5, 1e-4, 1e100].map(float), [
    '1.0',
    '0.5',
    '-0.0',
    '1e+16',
    '1000000000000000.0',
    '1.5e-05',
    '0.0001',
    '1e+100',
  ]);
  assert.deepEqual([Number.NaN, Number.POSITIVE_INFINITY].map(float), ['nan', 'inf']);
  const one: PythonValue = { kind: 'integer', value: 1 };
  assert.equal(
    pythonStr({
      kind: 'dict',
      entries: [
        ['a', { kind: 'list', items: [one, { kind: 'none' }, { kind: 'boolean', value: true }] }],
        ['b', { kind: 'tuple', items: [one] }],
      ],
    }),
    "{'a': [1, None, True], 'b': (1,)}",
  );
});

test('strftime knows the directives that templates use', () => {
  const date = new Date(2024, 6, 5, 15, 4, 9, 7);
  assert.equal(strftime(date, '%d %b %Y'), '05 Jul 2024');
  assert.equal(strftime(date, '%A, %B %-d, %Y'), 'Friday, July 5, 2024');
  assert.equal(strftime(date, '%Y-%m-%d %H:%M:%S.%f'), '2024-07-05 15:04:09.007000');
  assert.equal(
    strftime(date, '%I:%M %p %j %y %a %e %F %T %D'),
    '03:04 PM 187 24 Fri  5 2024-07-05 15:04:09 07/05/24',
  );
  assert.equal(strftime(date, '100%% %Q'), '100% %Q');
});
