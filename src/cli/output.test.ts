import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatBytes, formatSeconds, formatTable } from './output.ts';

test('bytes are shown in powers of 1000', () => {
  assert.deepEqual([0, 999, 1000, 1536, 98_362_432, 999_999, 2.5e12].map(formatBytes), [
    '0 B',
    '999 B',
    '1.0 kB',
    '1.5 kB',
    '98.4 MB',
    '1.0 MB',
    '2.5 TB',
  ]);
});

test('times are shown in the largest two units', () => {
  assert.deepEqual([0.4, 59, 71.2, 3600, 7380].map(formatSeconds), [
    '0s',
    '59s',
    '1m11s',
    '1h00m',
    '2h03m',
  ]);
});

test('tables line up, numbers to the right', () => {
  const table = formatTable(
    ['NAME', 'N'],
    [
      ['a', '1'],
      ['long name', '100'],
    ],
  );
  assert.deepEqual(table.split('\n').slice(1), ['a            1', 'long name  100']);
});
