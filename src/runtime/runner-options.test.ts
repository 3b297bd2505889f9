import assert from 'node:assert/strict';
import { test } from 'node:test';
import { KV_CACHE_TYPES, kvCacheTypeOf } from './runner-options.ts';

test('cache types go by our names and by those of llama.cpp and vLLM', () => {
  for (const type of KV_CACHE_TYPES) assert.equal(kvCacheTypeOf(type), type);
  const others = { q8_0: 'q8', int8: 'q8', q4_0: 'q4', int4: 'q4', fp16: 'f16', Float32: 'f32' };
  for (const [name, type] of Object.entries(others)) assert.equal(kvCacheTypeOf(name), type);
  // Other formats, not other names.
  for (const name of ['bf16', 'fp8', 'q5_1', '', 'constructor']) {
    assert.equal(kvCacheTypeOf(name), null);
  }
});
