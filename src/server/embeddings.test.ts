/** /v1/embeddings, with the real client where that can say it. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import OpenAI from 'openai';
import type { ServerOptions } from './server.ts';
import { EchoModel, type EchoModelOptions } from './testing/echo-model.ts';
import { startTestServer } from './testing/running-server.ts';

async function started(options: Partial<ServerOptions> = {}, echo: EchoModelOptions = {}) {
  const model = new EchoModel(echo);
  const server = await startTestServer(model, options);
  const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0 });
  const post = async (body: object) => {
    const response = await fetch(`${server.url}/v1/embeddings`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    });
    const json = (await response.json()) as {
      data: { embedding: number[] | string; index: number }[];
      error: { param: string | null; message: string; code: string | null };
    };
    return { status: response.status, ...json };
  };
  return {
    model,
    client,
    post,
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}

/** What the echo model embeds (1, mean byte, 0, 0) as, made length 1. */
function unitOf(mean: number): number[] {
  const length = Math.hypot(Math.fround(1), mean);
  return [1 / length, mean / length, 0, 0];
}

function assertClose(seen: readonly number[], expected: readonly number[]): void {
  assert.equal(seen.length, expected.length);
  for (const [i, value] of expected.entries()) assert.ok(Math.abs(seen[i]! - value) < 1e-6);
}

describe('/v1/embeddings', () => {
  test('takes a text, texts, token ids and lists of these, and counts their tokens', async () => {
    await using server = await started();
    const create = (input: OpenAI.EmbeddingCreateParams['input']) =>
      server.client.embeddings.create({ model: 'echo', input });
    const one = await create('ac');
    assert.deepEqual([one.object, one.model, one.data.length], ['list', 'echo', 1]);
    assertClose(one.data[0]!.embedding, unitOf(98));
    assert.deepEqual(one.usage, { prompt_tokens: 2, total_tokens: 2 });
    const many = await create(['a', 'ac', 'c']);
    assert.deepEqual(
      many.data.map(({ index }) => index),
      [0, 1, 2],
    );
    assertClose(many.data[2]!.embedding, unitOf(99));
    assert.equal(many.usage.total_tokens, 4);
    assertClose((await create([97, 99])).data[0]!.embedding, unitOf(98));
    const lists = await create([[97], [99, 99]]);
    assert.deepEqual([lists.data.length, lists.usage.prompt_tokens], [2, 3]);
  });

  test('base64 holds the same numbers as float', async () => {
    await using server = await started();
    const body = { model: 'echo', input: 'hello' };
    const float = await server.post({ ...body, encoding_format: 'float' });
    const base64 = await server.post({ ...body, encoding_format: 'base64' });
    const bytes = Buffer.from(base64.data[0]!.embedding as string, 'base64');
    const values = Array.from({ length: bytes.length / 4 }, (_, i) => bytes.readFloatLE(4 * i));
    assert.deepEqual(values, float.data[0]!.embedding);
    assert.ok(Array.isArray((await server.post(body)).data[0]!.embedding));
  });

  test('dimensions cut a vector, which has length 1 again; more than there are is refused', async () => {
    await using server = await started({ pooling: 'last' });
    const { data } = await server.client.embeddings.create({
      model: 'echo',
      input: 'ab',
      dimensions: 2,
    });
    assertClose(data[0]!.embedding, unitOf(98).slice(0, 2));
    const { status, error } = await server.post({ input: 'ab', dimensions: 5 });
    assert.deepEqual([status, error.param], [400, 'dimensions']);
    assert.match(error.message, /5 .*1 to 4/);
  });

  test('refuses what is no input, by name', async () => {
    await using server = await started();
    const inputs = ['', [], [''], ['a', ''], [[]], [-1], [1.5], 7, null, { a: 1 }];
    for (const input of inputs) {
      const { status, error } = await server.post({ input });
      assert.equal(status, 400, JSON.stringify(input));
      assert.match(error.param ?? '', /^input/);
    }
    assert.equal((await server.post({ input: 'a', encoding_format: 'int8' })).status, 400);
    assert.equal((await server.post({ input: 'a', model: 'other' })).status, 404);
    assert.equal((await server.post({ input: new Array(2049).fill('a') })).status, 400);
  });

  test('of a long list only as many are under way as the engine runs at once', async () => {
    await using server = await started({ admission: { maxQueue: 0 } }, { delayMs: 1 });
    const input = Array.from({ length: 100 }, (_, i) => `text ${i}`);
    const { data } = await server.client.embeddings.create({ model: 'echo', input });
    assert.equal(data.length, 100);
    assert.ok(server.model.mostRunning <= 4);
  });
});
