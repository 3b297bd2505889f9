import assert from 'node:assert/strict';
import test from 'node:test';
import { RequestError } from './errors.ts';
import { DEFAULT_SAMPLING_PARAMS, parseSamplingParams } from './sampling-params.ts';

const VOCAB = 100;

test('an empty request means the defaults', () => {
  assert.deepEqual(parseSamplingParams({}, VOCAB), DEFAULT_SAMPLING_PARAMS);
});

test('given defaults hold where the request says nothing', () => {
  const defaults = { ...DEFAULT_SAMPLING_PARAMS, temperature: 0.6, topK: 20 };
  const params = parseSamplingParams({ topK: 5, temperature: undefined }, VOCAB, defaults);
  assert.equal(params.temperature, 0.6);
  assert.equal(params.topK, 5);
});

test('checked parameters pass the check again unchanged', () => {
  const params = parseSamplingParams(
    { stop: 'end', logitBias: { 3: -100, 7: 2.5 }, stopTokenIds: [4], topK: -1, logprobs: 0 },
    VOCAB,
  );
  assert.deepEqual(params.stop, ['end']);
  assert.equal(params.topK, 0);
  assert.deepEqual(parseSamplingParams(structuredClone(params), VOCAB), params);
});

const REFUSED: [string, unknown][] = [
  ['temperature', -0.1],
  ['temperature', Number.NaN],
  ['temperature', '1'],
  ['temperature', null],
  ['topK', -2],
  ['topK', 1.5],
  ['topP', 0],
  ['topP', 1.01],
  ['minP', -0.01],
  ['repetitionPenalty', 0],
  ['repetitionPenalty', Number.POSITIVE_INFINITY],
  ['frequencyPenalty', 2.1],
  ['presencePenalty', -2.1],
  ['seed', 0.5],
  ['seed', 2 ** 53],
  ['logitBias', { 100: 1 }],
  ['logitBias', { x: 1 }],
  ['logitBias', { 1: 101 }],
  ['logitBias', [1]],
  ['stop', ''],
  ['stop', ['a', 3]],
  ['stop', '\ud800'],
  ['stop', Array.from({ length: 65 }, (_, i) => `s${i}`)],
  ['stopTokenIds', [100]],
  ['stopTokenIds', Array.from({ length: 4097 }, () => 1)],
  ['stopTokenIds', 5],
  ['maxTokens', 0],
  ['ignoreEos', 1],
  ['logprobs', 21],
  ['logprobs', true],
];

for (const [param, value] of REFUSED) {
  test(`${param} ${JSON.stringify(value)?.slice(0, 40)} is refused by name and value`, () => {
    assert.throws(
      () => parseSamplingParams({ [param]: value }, VOCAB),
      (error: unknown) =>
        error instanceof RequestError &&
        error.param === param &&
        error.message.includes('expected') &&
        error.message.includes('got'),
    );
  });
}

test('an unknown key is refused with the known ones', () => {
  assert.throws(() => parseSamplingParams({ top_k: 4 }, VOCAB), /unknown .*"top_k".*topK/);
  assert.throws(() => parseSamplingParams({ toString: 1 }, VOCAB), RequestError);
  assert.throws(() => parseSamplingParams(null, VOCAB), RequestError);
});
