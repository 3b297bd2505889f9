import assert from 'node:assert/strict';
import { test } from 'node:test';
import { evenChunkSize } from './chunk-size.ts';

test('chunks end together: no thread has a whole chunk more than the others', () => {
  assert.equal(evenChunkSize(36, 2, [5, 10]), 6); // not 8 chunks of 5, whose last has one piece
  assert.equal(evenChunkSize(60, 2, [9, 18]), 10); // not 7 chunks
  assert.equal(evenChunkSize(36, 2, [8, 4]), 6);
  assert.equal(evenChunkSize(60, 4, [8, 4]), 5);
});

test('of equal sizes the first in order counts', () => {
  assert.equal(evenChunkSize(192, 2, [24, 48]), 24);
  assert.equal(evenChunkSize(192, 2, [8, 4]), 8);
  assert.equal(evenChunkSize(36, 1, [9, 18]), 9);
});

test('never more pieces than there are', () => {
  assert.equal(evenChunkSize(1, 2, [9, 18]), 1);
  assert.equal(evenChunkSize(7, 1, [9, 18]), 7);
});
