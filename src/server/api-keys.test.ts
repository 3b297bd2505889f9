import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ApiKeyError, ApiKeys, parseApiKeyFile, parseApiKeys } from './api-keys.ts';

test('keys are found in both headers, by name', () => {
  const keys = new ApiKeys(parseApiKeys(['alice:sk-1', 'sk-2']));
  assert.equal(keys.nameOf({ authorization: 'Bearer sk-1' }), 'alice');
  assert.equal(keys.nameOf({ 'x-api-key': 'sk-2' }), 'key-2');
  for (const headers of [{}, { authorization: 'Basic sk-1' }, { authorization: 'Bearer sk-' }]) {
    assert.throws(() => keys.nameOf(headers), { status: 401 });
  }
});

test('a file holds one key a line', () => {
  assert.deepEqual(parseApiKeyFile('# staff\nalice:one\r\n\n  two  \n'), [
    { name: 'alice', secret: 'one' },
    { name: 'key-2', secret: 'two' },
  ]);
});

test('a key that no header can carry is refused without being shown', () => {
  assert.throws(
    () => parseApiKeys(['ok', 'pass word']),
    (error) => error instanceof ApiKeyError && !error.message.includes('pass word'),
  );
});
