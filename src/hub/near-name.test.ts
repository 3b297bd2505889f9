import assert from 'node:assert/strict';
import { test } from 'node:test';
import { nearName } from './near-name.ts';

const NAMES = ['smollm2', 'gemma3-270m', 'tiny'];

test('finds what was meant in spite of slips, case and tags', () => {
  for (const [typed, meant] of [
    ['smolm2', 'smollm2'],
    ['SmolLM2', 'smollm2'],
    ['smollm2:135m', 'smollm2'],
    ['gemma3:270m', 'gemma3-270m'],
    ['tinny', 'tiny'],
  ] as const) {
    assert.equal(nearName(typed, NAMES), meant, typed);
  }
});

test('finds nothing where all are far, and nothing in nothing', () => {
  for (const typed of ['llama3', 'qwen2.5:0.5b', '', 'x'.repeat(1000)]) {
    assert.equal(nearName(typed, NAMES), undefined, typed);
  }
  assert.equal(nearName('smollm2', []), undefined);
});
