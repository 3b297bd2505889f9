import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { HastenError, load } from './index.ts';

const OPTIONS = { planCacheFolder: null, threads: 1 };
const messages = [{ role: 'user', content: 'Hello' }];

test('a model chats, completes, and turns text into tokens and back', async () => {
  await using model = await load('tiny', OPTIONS);
  assert.equal(model.name, 'tiny');
  assert.equal(model.maxModelLen, 256);
  const tokenIds = model.tokenize('hé');
  assert.deepEqual(tokenIds, [107, 198, 172]);
  assert.equal(model.detokenize(tokenIds), 'hé');

  const answer = model.chat(messages, { temperature: 0, maxTokens: 10 });
  let text = '';
  let numTokens = 0;
  for await (const part of answer) {
    text += part.text;
    numTokens += part.tokenIds.length;
  }
  const { finishReason, timings } = await answer.result;
  assert.equal(finishReason, 'length');
  assert.equal(timings.outputTokens, numTokens);
  const again = await model.chat(messages, { temperature: 0, maxTokens: 10 }).text();
  assert.equal(again, text);

  // The same conversation as token ids: BOS and the bytes of the rendered template.
  const ids = [1, ...model.tokenize('user: Hello\nassistant: ')];
  assert.equal(await model.complete(ids, { temperature: 0, maxTokens: 10 }).text(), text);
  const prompt = 'user: Hello\nassistant: ';
  assert.equal(await model.complete(prompt, { temperature: 0, maxTokens: 10 }).text(), text);
});

test('a draft model changes no text, and has to have the same vocabulary', async () => {
  const options = { temperature: 0, maxTokens: 40, ignoreEos: true };
  await using plain = await load('tiny', OPTIONS);
  await using drafting = await load('tiny', { ...OPTIONS, draftModel: 'tiny' });
  const prompt = 'Once upon a time';
  assert.equal(
    await drafting.complete(prompt, options).text(),
    await plain.complete(prompt, options).text(),
  );
  const draftModel = fileURLToPath(new URL('../test/fixtures/tiny/llama-bias', import.meta.url));
  await assert.rejects(load('tiny', { ...OPTIONS, draftModel }), /draft model/);
  await assert.rejects(load('tiny', { ...OPTIONS, draftModel: '' }), { code: 'invalid_option' });
});

test('an answer is stopped by a signal, or by leaving the loop', async () => {
  await using model = await load('tiny', OPTIONS);
  const controller = new AbortController();
  const options = { ignoreEos: true, signal: controller.signal };
  const answer = model.complete('x', options);
  for await (const _ of answer) controller.abort();
  assert.equal((await answer.result).finishReason, 'abort');
  const left = model.complete('x', { ignoreEos: true });
  for await (const _ of left) break;
  assert.equal((await left.result).finishReason, 'abort');
});

test('an answer has the form that is asked for', async () => {
  await using model = await load('tiny', OPTIONS);
  const schema = {
    type: 'object',
    properties: { sure: { type: 'boolean' }, n: { type: 'integer', minimum: 0, maximum: 99 } },
    required: ['sure', 'n'],
  };
  const responseFormat = { type: 'json_schema', schema } as const;
  const answer = JSON.parse(await model.chat(messages, { responseFormat }).text());
  assert.equal(typeof answer.sure, 'boolean');
  assert.ok(answer.n >= 0 && answer.n <= 99);
  const wrong = model.complete('x', { responseFormat: { type: 'regex', regex: '(' } });
  await assert.rejects(wrong.text(), { code: 'invalid_grammar', message: /not closed/ });
});

test('unknown options are refused, with those that there are', async () => {
  const wrong = { maxModelLength: 5 } as object;
  await assert.rejects(
    load('tiny', wrong),
    /unknown option "maxModelLength"; known are maxModelLen,/,
  );
  await assert.rejects(load('tiny', { threads: 0 }), /threads: expected .* got 0/);
  await assert.rejects(
    load('tiny', { target: 'abacus' as 'auto' }),
    /target: expected one of auto,/,
  );
  await using model = await load('tiny', OPTIONS);
  assert.throws(
    () => model.complete('x', { temprature: 1 } as object),
    /unknown sampling parameter "temprature"/,
  );
  assert.throws(() => model.complete('x', { topP: 5 }), /topP: expected a number/);
  assert.throws(() => model.complete('x'.repeat(300)), /301 prompt tokens/);
});

test('what fails says so by a class and a code', async () => {
  await assert.rejects(load('./nothing'), (error: Error) => {
    assert.ok(error instanceof HastenError);
    assert.equal(error.code, 'model_not_found');
    return true;
  });
});

test('loading can be given up', async () => {
  await assert.rejects(
    load('tiny', { ...OPTIONS, signal: AbortSignal.abort(new RangeError('no')) }),
    RangeError,
  );
});
