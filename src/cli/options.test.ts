import assert from 'node:assert/strict';
import { test } from 'node:test';
import { InvalidArgumentError } from 'commander';
import {
  parseBytes,
  parseCount,
  parseCounts,
  parseInteger,
  parseNumber,
  parseTokenIds,
} from './options.ts';

function refuses(parse: (text: string) => unknown, ...texts: string[]): void {
  for (const text of texts) assert.throws(() => parse(text), InvalidArgumentError, text);
}

test('sizes take decimal and binary units', () => {
  assert.equal(parseBytes('512MB'), 512e6);
  assert.equal(parseBytes('512MiB'), 2 ** 29);
  assert.equal(parseBytes('512m'), 2 ** 29);
  assert.equal(parseBytes('1.5 GB'), 1.5e9);
  assert.equal(parseBytes('4096'), 4096);
  refuses(parseBytes, '', 'MB', '-1MB', '1XB', '1e9');
});

test('counts take k for 1024', () => {
  assert.equal(parseCount('4k'), 4096);
  assert.equal(parseCount('100'), 100);
  refuses(parseCount, '0', '-1', '4m', '1.5k', '', '9'.repeat(20));
  assert.deepEqual(parseCounts('1,2, 4'), [1, 2, 4]);
  refuses(parseCounts, '1,,2', '0', 'a');
});

test('numbers are held to their range', () => {
  assert.equal(parseNumber(0, 2)('0.5'), 0.5);
  refuses(parseNumber(0, 2), '2.1', '-1', 'x', '', ' ', 'NaN');
  assert.equal(parseInteger(0)('7'), 7);
  refuses(parseInteger(0), '-1', '1.5', '1e3', '');
});

test('token ids are whole numbers separated by commas', () => {
  assert.deepEqual(parseTokenIds('1, 2,3'), [1, 2, 3]);
  refuses(parseTokenIds, '', '1,', '1 2', '-1', '1.5', '99999999999');
});
