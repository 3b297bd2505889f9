import assert from 'node:assert/strict';
import { it } from 'node:test';
import { jsonFloat, parseKeepingNumbers } from './json-numbers.ts';

it('writes numbers as they were, and whole floats with a point', () => {
  const text = '{"theta":10000.0,"eps":1e-05,"of":[1,{"big":12345678901234567890}],"name":"1.0"}';
  assert.equal(JSON.stringify(parseKeepingNumbers(text)), text);
  assert.equal(JSON.stringify({ a: jsonFloat(6), b: jsonFloat(0.5) }), '{"a":6.0,"b":0.5}');
  assert.throws(() => parseKeepingNumbers('{'), SyntaxError);
});
