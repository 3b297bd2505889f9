import assert from 'node:assert/strict';
import { once } from 'node:events';
import { request as httpRequest } from 'node:http';
import { connect } from 'node:net';
import { describe, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';
import OpenAI from 'openai';
import type { ErrorBody } from './errors.ts';
import { ListenError } from './server.ts';
import { EchoModel } from './testing/echo-model.ts';
import { startTestServer } from './testing/running-server.ts';

function clientOf(url: string): OpenAI {
  return new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0 });
}

function post(url: string, path: string, body: unknown, headers = {}): Promise<Response> {
  return fetch(`${url}${path}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  });
}

/** The `error` of an answer that must be one, with its status. */
async function errorOf(response: Response) {
  const { error } = (await response.json()) as ErrorBody;
  assert.deepEqual(Object.keys(error), ['message', 'type', 'param', 'code']);
  return { ...error, status: response.status };
}

/** Sends bytes as they are and gives everything that came back. */
async function rawExchange(port: number, bytes: string): Promise<string> {
  const socket = connect(port, '127.0.0.1');
  socket.write(bytes);
  let answer = '';
  socket.on('data', (data) => {
    answer += data.toString();
  });
  await once(socket, 'close');
  return answer;
}

async function until(condition: () => boolean): Promise<void> {
  for (let i = 0; i < 300 && !condition(); i++) await setTimeout(10);
  assert.ok(condition(), 'waited 3 s in vain');
}

const HELLO = [{ role: 'user' as const, content: 'hello' }];

describe('the openai client', () => {
  test('gets a whole chat answer with usage', async () => {
    await using server = await startTestServer(new EchoModel());
    const answer = await clientOf(server.url).chat.completions.create({
      model: 'echo',
      messages: HELLO,
      max_tokens: 11,
    });
    assert.equal(answer.object, 'chat.completion');
    assert.match(answer.id, /^chatcmpl-[0-9a-f]{32}$/);
    assert.equal(answer.choices[0]?.message.content, 'user: hello');
    assert.equal(answer.choices[0]?.finish_reason, 'length');
    assert.deepEqual(answer.usage, {
      prompt_tokens: 11,
      completion_tokens: 11,
      total_tokens: 22,
      prompt_tokens_details: { cached_tokens: 0 },
    });
  });

  test('streams a chat answer, usage last where it was asked for', async () => {
    await using server = await startTestServer(new EchoModel());
    const stream = await clientOf(server.url).chat.completions.create({
      model: 'alias',
      messages: HELLO,
      max_tokens: 5,
      stream: true,
      stream_options: { include_usage: true },
    });
    const chunks = [];
    for await (const chunk of stream) chunks.push(chunk);
    assert.equal(chunks[0]?.choices[0]?.delta.role, 'assistant');
    assert.equal(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join(''), 'user:');
    assert.equal(chunks.at(-2)?.choices[0]?.finish_reason, 'length');
    assert.deepEqual(chunks.at(-1)?.choices, []);
    assert.equal(chunks.at(-1)?.usage?.completion_tokens, 5);
    assert.ok(chunks.every((chunk) => chunk.model === 'alias'));
  });

  test('gets several choices, each with a seed of its own', async () => {
    const model = new EchoModel();
    await using server = await startTestServer(model);
    const answer = await clientOf(server.url).chat.completions.create({
      model: 'echo',
      messages: HELLO,
      max_tokens: 4,
      n: 3,
      seed: 7,
    });
    assert.deepEqual(
      answer.choices.map(({ index }) => index),
      [0, 1, 2],
    );
    assert.deepEqual(
      model.samplings.map(({ seed }) => seed),
      [7, 8, 9],
    );
    assert.equal(answer.usage?.prompt_tokens, 11);
    assert.equal(answer.usage?.completion_tokens, 12);
  });

  test('gets logprobs of chat answers', async () => {
    await using server = await startTestServer(new EchoModel());
    const answer = await clientOf(server.url).chat.completions.create({
      model: 'echo',
      messages: HELLO,
      max_tokens: 2,
      logprobs: true,
      top_logprobs: 3,
    });
    const content = answer.choices[0]?.logprobs?.content;
    assert.deepEqual(
      content?.map(({ token, bytes, logprob, top_logprobs }) => [
        token,
        bytes,
        logprob,
        top_logprobs.length,
      ]),
      [
        ['u', [117], -0.5, 3],
        ['s', [115], -0.5, 3],
      ],
    );
  });

  test('completes one text, several texts and token ids', async () => {
    await using server = await startTestServer(new EchoModel());
    const { completions } = clientOf(server.url);
    const one = await completions.create({ model: 'echo', prompt: 'abc', max_tokens: 2 });
    assert.equal(one.object, 'text_completion');
    assert.equal(one.choices[0]?.text, 'ab');
    const several = await completions.create({
      model: 'echo',
      prompt: ['abc', 'xyz'],
      max_tokens: 2,
      n: 2,
    });
    assert.deepEqual(
      several.choices.map(({ text }) => text),
      ['ab', 'ab', 'xy', 'xy'],
    );
    assert.equal(several.usage?.prompt_tokens, 6);
    const ids = await completions.create({
      model: 'echo',
      prompt: [65, 66],
      max_tokens: 2,
      echo: true,
    });
    assert.equal(ids.choices[0]?.text, 'ABAB');
    const idLists = await completions.create({
      model: 'echo',
      prompt: [[65], [66]],
      max_tokens: 1,
    });
    assert.deepEqual(
      idLists.choices.map(({ text }) => text),
      ['A', 'B'],
    );
  });

  test('generates 16 tokens of a completion by default, and streams them', async () => {
    await using server = await startTestServer(new EchoModel());
    const stream = await clientOf(server.url).completions.create({
      model: 'echo',
      prompt: 'abc',
      stream: true,
      logprobs: 1,
    });
    let text = '';
    const offsets: number[] = [];
    for await (const chunk of stream) {
      text += chunk.choices[0]?.text ?? '';
      offsets.push(...(chunk.choices[0]?.logprobs?.text_offset ?? []));
    }
    assert.equal(text, 'abcabcabcabcabca');
    assert.deepEqual(
      offsets,
      Array.from({ length: 16 }, (_, index) => index),
    );
  });

  test('aborts a stream, and the model stops at once', async () => {
    const model = new EchoModel({ delayMs: 5 });
    await using server = await startTestServer(model);
    const stream = await clientOf(server.url).chat.completions.create({
      model: 'echo',
      messages: HELLO,
      stream: true,
    });
    let numChunks = 0;
    for await (const _ of stream) {
      if (++numChunks === 3) break;
    }
    await until(() => model.numRunning === 0);
    assert.equal(model.numAborted, 1);
  });

  test('aborts a plain request, and the model stops at once', async () => {
    const model = new EchoModel({ delayMs: 5 });
    await using server = await startTestServer(model);
    const controller = new AbortController();
    const pending = clientOf(server.url).chat.completions.create(
      { model: 'echo', messages: HELLO },
      { signal: controller.signal },
    );
    await until(() => model.numRunning === 1);
    controller.abort();
    await assert.rejects(pending, OpenAI.APIUserAbortError);
    await until(() => model.numRunning === 0);
    assert.equal(model.numAborted, 1);
  });

  test('is told of a fault in the middle of a stream', async () => {
    await using server = await startTestServer(new EchoModel({ failAfter: 2 }));
    const stream = await clientOf(server.url).chat.completions.create({
      model: 'echo',
      messages: HELLO,
      stream: true,
    });
    await assert.rejects(async () => {
      for await (const _ of stream);
    }, OpenAI.APIError);
    assert.match(server.logLines.join(''), /the echo broke/);
  });

  test('gets one error when one of several choices fails, and the others stop', async () => {
    const model = new EchoModel({ failAfter: 2, failingSeed: 1, delayMs: 5 });
    await using server = await startTestServer(model);
    const stream = await clientOf(server.url).chat.completions.create({
      model: 'echo',
      messages: HELLO,
      stream: true,
      n: 3,
      seed: 0,
    });
    await assert.rejects(async () => {
      for await (const _ of stream);
    }, OpenAI.APIError);
    await until(() => model.numRunning === 0);
    assert.equal(model.numAborted, 2);
  });

  test('leaves nothing running when a later prompt is refused', async () => {
    const model = new EchoModel({ delayMs: 5 });
    await using server = await startTestServer(model);
    const { completions } = clientOf(server.url);
    const prompts = ['x', 'y'.repeat(5000)];
    await assert.rejects(
      completions.create({ model: 'echo', prompt: prompts, max_tokens: 4000 }),
      OpenAI.BadRequestError,
    );
    await until(() => model.numRunning === 0);
  });

  test('lists the models and asks for one', async () => {
    await using server = await startTestServer(new EchoModel());
    const client = clientOf(server.url);
    const names = [];
    for await (const { id } of client.models.list()) names.push(id);
    assert.deepEqual(names, ['echo', 'alias']);
    assert.equal((await client.models.retrieve('alias')).owned_by, 'hasten');
    await assert.rejects(client.models.retrieve('no/such'), OpenAI.NotFoundError);
  });

  test('gets the errors as classes of its own', async () => {
    await using server = await startTestServer(new EchoModel());
    const { chat } = clientOf(server.url);
    const wrongModel = chat.completions.create({ model: 'gpt-4', messages: HELLO });
    await assert.rejects(wrongModel, (error: InstanceType<typeof OpenAI.NotFoundError>) => {
      assert.ok(error instanceof OpenAI.NotFoundError);
      assert.equal(error.code, 'model_not_found');
      assert.equal(error.param, 'model');
      return true;
    });
    const hot = chat.completions.create({ model: 'echo', messages: HELLO, temperature: 101 });
    await assert.rejects(hot, OpenAI.BadRequestError);
  });
});

describe('a bad body', () => {
  const chat = (fields: object) => ({ model: 'echo', messages: HELLO, ...fields });
  const cases: [what: string, body: unknown, param: string | null, message: RegExp][] = [
    ['no JSON', '{"model": "echo", ', null, /not JSON/],
    ['an empty body', '', null, /JSON/],
    ['a list', [], null, /JSON object/],
    ['no messages', { model: 'echo' }, 'messages', /missing/],
    ['messages of the wrong type', chat({ messages: 'hi' }), 'messages', /array.*got "hi"/],
    ['an empty conversation', chat({ messages: [] }), 'messages', /messages/],
    [
      'an unknown role',
      chat({ messages: [{ role: 'king', content: '' }] }),
      'messages[0].role',
      /king/,
    ],
    [
      'a question without content',
      chat({ messages: [{ role: 'user' }] }),
      'messages[0].content',
      /missing/,
    ],
    [
      'a number as content',
      chat({ messages: [{ role: 'user', content: 5 }] }),
      'messages[0].content',
      /number/,
    ],
    [
      'an image',
      chat({
        messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: '' } }] }],
      }),
      'messages[0].content[0].type',
      /image_url/,
    ],
    [
      'a temperature out of range',
      chat({ temperature: -1 }),
      'temperature',
      /from 0 to 100, got -1/,
    ],
    ['a temperature of the wrong type', chat({ temperature: 'hot' }), 'temperature', /hot/],
    ['top_p out of range', chat({ top_p: 0 }), 'top_p', /^top_p: .*got 0/],
    ['n out of range', chat({ n: 0 }), 'n', /got 0/],
    ['a negative max_tokens', chat({ max_tokens: -4 }), 'max_tokens', /-4/],
    ['too many max_tokens', chat({ max_tokens: 5000 }), 'max_tokens', /4096/],
    ['a bad logit_bias', chat({ logit_bias: { 999: 1 } }), 'logit_bias', /256/],
    ['top_logprobs alone', chat({ top_logprobs: 2 }), 'top_logprobs', /logprobs/],
    [
      'a tool without a function',
      chat({ tools: [{ type: 'function' }] }),
      'tools[0].function',
      /object/,
    ],
    ['functions', chat({ functions: [{}] }), 'functions', /not supported/],
    [
      'an unknown response format',
      chat({ response_format: { type: 'yaml' } }),
      'response_format.type',
      /yaml/,
    ],
    [
      'a response format without its schema',
      chat({ response_format: { type: 'json_schema' } }),
      'response_format.json_schema',
      /missing/,
    ],
    ['a schema that is no JSON', chat({ guided_json: '{' }), 'guided_json', /not JSON/],
    ['an empty grammar', chat({ guided_grammar: '' }), 'guided_grammar', /at least one/],
    ['no choices', chat({ structured_outputs: { choice: [] } }), 'structured_outputs.choice', /./],
    [
      'two forms of the answer',
      chat({ guided_regex: 'a', response_format: { type: 'json_object' } }),
      'guided_regex',
      /response_format/,
    ],
    [
      'a schema of a megabyte',
      chat({ guided_json: { description: 'x'.repeat(2 ** 20) } }),
      'guided_json',
      /at most 262144/,
    ],
    [
      'a schema nested a thousand deep',
      chat({ guided_json: `${'{"items":'.repeat(1000)}{}${'}'.repeat(1000)}` }),
      'guided_json',
      /at most 64/,
    ],
    [
      'messages nested a hundred thousand deep',
      `{"messages": ${'['.repeat(1e5)}${']'.repeat(1e5)}}`,
      'messages',
      /more than 256 deep/,
    ],
    [
      'a million messages that are none',
      `{"messages": [${'1,'.repeat(1e6)}1]}`,
      'messages',
      /1000001 items/,
    ],
    [
      'a hundred thousand fields',
      `{${Array.from({ length: 1e5 }, (_, i) => `"f${i}":1`).join()}}`,
      null,
      /100000 items/,
    ],
    [
      'a tool nested twenty thousand deep',
      `{"messages": [{"role": "user"}], "tools": [{"type": "function", "function": {"name": "f", "parameters": ${'{"a":'.repeat(2e4)}1${'}'.repeat(2e4)}}}]}`,
      'tools',
      /more than 256 deep/,
    ],
    [
      'arguments of a call nested twenty thousand deep',
      chat({
        messages: [
          {
            role: 'assistant',
            tool_calls: [
              { function: { name: 'f', arguments: `${'['.repeat(2e4)}${']'.repeat(2e4)}` } },
            ],
          },
        ],
      }),
      'messages[0].tool_calls[0].function.arguments',
      /more than 256 deep/,
    ],
    [
      'a bias for more tokens than are taken',
      chat({ logit_bias: Object.fromEntries(Array.from({ length: 5000 }, (_, i) => [i, 1])) }),
      'logit_bias',
      /up to 4096/,
    ],
    [
      'more stop tokens than are taken',
      chat({ stop_token_ids: Array.from({ length: 5000 }, () => 1) }),
      'stop_token_ids',
      /up to 4096/,
    ],
    ['a wrong stop', chat({ stop: 5 }), 'stop', /string/],
    ['an attack on prototypes', '{"__proto__": {"x": 1}}', null, /./],
  ];
  for (const [what, body, param, message] of cases) {
    test(`with ${what} is answered with 400`, async () => {
      await using server = await startTestServer(new EchoModel());
      const error = await errorOf(await post(server.url, '/v1/chat/completions', body));
      assert.equal(error.status, 400, error.message);
      assert.equal(error.param, param, error.message);
      assert.match(error.message, message);
      assert.equal(error.type, 'invalid_request_error');
    });
  }

  test('with long lists of token ids is taken, with a wrong one among them refused', async () => {
    await using server = await startTestServer(new EchoModel());
    const ids = Array.from({ length: 20_000 }, () => 65);
    const long = await errorOf(await post(server.url, '/v1/completions', { prompt: [ids] }));
    assert.match(long.message, /20000.*4096/);
    const wrong = { prompt: [...ids, 'x'] };
    const error = await errorOf(await post(server.url, '/v1/completions', wrong));
    assert.deepEqual([error.status, error.param], [400, 'prompt']);
  });

  test('with a prompt that is too long says the numbers', async () => {
    await using server = await startTestServer(new EchoModel());
    const error = await errorOf(
      await post(server.url, '/v1/completions', { prompt: 'x'.repeat(5000) }),
    );
    assert.equal(error.status, 400);
    assert.equal(error.code, 'context_length_exceeded');
    assert.match(error.message, /5000.*4096/);
    assert.equal(error.param, null);
  });

  test('whose prompt leaves no room is not said to ask for too many tokens', async () => {
    await using server = await startTestServer(new EchoModel());
    const body = { prompt: 'x'.repeat(5000), max_tokens: 4 };
    const error = await errorOf(await post(server.url, '/v1/completions', body));
    assert.deepEqual([error.code, error.param], ['context_length_exceeded', null]);
  });

  test('that goes on from an earlier response is refused: none is kept', async () => {
    await using server = await startTestServer(new EchoModel());
    const body = { input: 'a', previous_response_id: 'resp_1', max_output_tokens: 2 };
    const error = await errorOf(await post(server.url, '/v1/responses', body));
    assert.deepEqual([error.status, error.param], [400, 'previous_response_id']);
    const first = await post(server.url, '/v1/responses', { ...body, previous_response_id: null });
    assert.equal(first.status, 200);
  });

  test('that is not declared as JSON is answered with 415', async () => {
    await using server = await startTestServer(new EchoModel());
    const headers = { 'content-type': 'text/plain' };
    const error = await errorOf(await post(server.url, '/v1/chat/completions', '{}', headers));
    assert.equal(error.status, 415);
  });

  test('that is compressed is answered with 415', async () => {
    await using server = await startTestServer(new EchoModel());
    const body = gzipSync('{"prompt": "a"}');
    const headers = { 'content-type': 'application/json', 'content-encoding': 'gzip' };
    const response = await fetch(`${server.url}/v1/completions`, { method: 'POST', headers, body });
    assert.equal(response.headers.get('accept-encoding'), 'identity');
    const error = await errorOf(response);
    assert.deepEqual([error.status, error.code], [415, 'unsupported_content_encoding']);
  });

  test('of more than 32 MiB is answered with 413', async () => {
    await using server = await startTestServer(new EchoModel());
    const body = JSON.stringify({ prompt: 'x'.repeat(33 * 2 ** 20) });
    const error = await errorOf(await post(server.url, '/v1/completions', body));
    assert.equal(error.status, 413);
  });
});

test('null counts as absent, text parts are joined, harmless values of refused fields pass', async () => {
  const model = new EchoModel();
  await using server = await startTestServer(model);
  const content = [
    { type: 'text', text: 'a' },
    { type: 'text', text: 'b' },
  ];
  const response = await post(server.url, '/v1/chat/completions', {
    messages: [{ role: 'developer', content }],
    temperature: null,
    stop: null,
    tools: [],
    response_format: { type: 'text' },
    max_completion_tokens: 10,
  });
  assert.equal(response.status, 200);
  const { choices } = (await response.json()) as OpenAI.ChatCompletion;
  assert.equal(choices[0]?.message.content, 'system: ab');
  assert.equal(model.samplings[0]?.temperature, 1);
  assert.deepEqual(server.logLines, []);
});

test('the vLLM extras reach the engine, unknown fields only the log', async () => {
  const model = new EchoModel();
  await using server = await startTestServer(model);
  const response = await post(server.url, '/v1/chat/completions', {
    messages: HELLO,
    max_tokens: 1,
    ignore_eos: true,
    top_k: 5,
    min_p: 0.25,
    repetition_penalty: 1.5,
    stop_token_ids: [3],
    frobnicate: 1,
  });
  assert.equal(response.status, 200);
  const { ignoreEos, topK, minP, repetitionPenalty, stopTokenIds } = model.samplings[0]!;
  assert.deepEqual(
    [ignoreEos, topK, minP, repetitionPenalty, stopTokenIds],
    [true, 5, 0.25, 1.5, [3]],
  );
  assert.equal(server.logLines.length, 1);
  assert.match(server.logLines[0]!, /"fields":\["frobnicate"\]/);
});

describe('routes', () => {
  test('that are nearly right are answered with the right one', async () => {
    await using server = await startTestServer(new EchoModel());
    for (const [path, meant] of [
      ['/chat/completions', '/v1/chat/completions'],
      ['/v1/v1/chat/completions', '/v1/chat/completions'],
      ['//v1/completions/', '/v1/completions'],
      ['/api/chat', '/v1/chat/completions'],
      ['/health', '/readyz'],
    ] as const) {
      const { status, message } = await errorOf(await post(server.url, path, {}));
      assert.equal(status, 404);
      assert.match(message, new RegExp(`did you mean ${meant}\\?$`));
    }
    const { message } = await errorOf(await post(server.url, '/v2/nothing', {}));
    assert.equal(message, 'there is nothing at /v2/nothing');
  });

  test('that do not exist are 404, wrong methods 405', async () => {
    await using server = await startTestServer(new EchoModel());
    assert.equal((await errorOf(await fetch(`${server.url}/nothing?x`))).status, 404);
    const wrong = await fetch(`${server.url}/v1/chat/completions`);
    assert.equal(wrong.headers.get('allow'), 'POST');
    assert.equal((await errorOf(wrong)).status, 405);
    assert.equal((await errorOf(await post(server.url, '/v1/models', {}))).status, 405);
  });

  test('of the page are there, with a strict content policy', async () => {
    await using server = await startTestServer(new EchoModel());
    for (const path of ['/', '/page/style.css', '/page/chat.js']) {
      const response = await fetch(server.url + path);
      assert.equal(response.status, 200);
      assert.match(response.headers.get('content-security-policy') ?? '', /default-src 'none'/);
      const text = await response.text();
      assert.doesNotMatch(text, /innerHTML|https?:\/\//);
    }
  });

  test('say that the model is loading', async () => {
    await using server = await startTestServer();
    server.server.served.setState({ kind: 'loading', phase: 'packing weights' });
    assert.equal((await fetch(`${server.url}/healthz`)).status, 200);
    const ready = await fetch(`${server.url}/readyz`);
    assert.equal(ready.status, 503);
    assert.deepEqual(await ready.json(), { status: 'packing weights' });
    const error = await errorOf(
      await post(server.url, '/v1/chat/completions', { messages: HELLO }),
    );
    assert.equal(error.status, 503);
    assert.match(error.message, /packing weights/);
  });

  test('say that the engine is gone', async () => {
    await using server = await startTestServer();
    server.server.served.setState({ kind: 'failed', reason: 'out of memory' });
    assert.equal((await fetch(`${server.url}/healthz`)).status, 503);
    assert.equal((await fetch(`${server.url}/readyz`)).status, 503);
  });
});

describe('on loopback', () => {
  /** fetch sets Host by itself, so this one is made by hand. */
  async function statusWith(port: number, headers: Record<string, string>): Promise<number> {
    const request = httpRequest({ port, host: '127.0.0.1', path: '/v1/models', headers });
    request.end();
    const [response] = await once(request, 'response');
    response.resume();
    return response.statusCode;
  }

  test('only names of this machine are accepted as Host', async () => {
    await using server = await startTestServer(new EchoModel());
    const { port } = server;
    for (const host of [`localhost:${port}`, `127.0.0.1:${port}`, `[::1]:${port}`, 'localhost']) {
      assert.equal(await statusWith(port, { host }), 200, host);
    }
    for (const host of [
      'evil.example',
      `evil.example:${port}`,
      '127.0.0.1.evil.example',
      '192.168.1.2',
    ]) {
      assert.equal(await statusWith(port, { host }), 403, host);
    }
  });

  test('requests from pages of other sites are refused, and no CORS header is sent', async () => {
    await using server = await startTestServer(new EchoModel());
    const { port, url } = server;
    const host = `127.0.0.1:${port}`;
    assert.equal(await statusWith(port, { host, origin: url }), 200);
    assert.equal(await statusWith(port, { host, origin: 'https://evil.example' }), 403);
    assert.equal(await statusWith(port, { host, origin: 'null' }), 403);
    assert.equal(await statusWith(port, { host, 'sec-fetch-site': 'cross-site' }), 403);
    assert.equal(await statusWith(port, { host, 'sec-fetch-site': 'same-origin' }), 200);
    const response = await fetch(`${url}/v1/models`);
    assert.equal(response.headers.get('access-control-allow-origin'), null);
  });
});

describe('on a bare socket', () => {
  test('what is no HTTP gets an answer in the usual shape', async () => {
    await using server = await startTestServer(new EchoModel());
    const answer = await rawExchange(server.port, 'nonsense\r\n\r\n');
    assert.match(answer, /^HTTP\/1\.1 400 Bad Request\r\n/);
    const { error } = JSON.parse(answer.slice(answer.indexOf('\r\n\r\n')));
    assert.equal(error.code, 'bad_http');
  });

  test('headers without end are cut off', async () => {
    await using server = await startTestServer(new EchoModel());
    const answer = await rawExchange(server.port, `GET / HTTP/1.1\r\nx: ${'y'.repeat(40_000)}`);
    assert.match(answer, /^HTTP\/1\.1 431 /);
  });

  test('a length that is no number, and two lengths, are refused', async () => {
    await using server = await startTestServer(new EchoModel());
    const head = 'POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n';
    assert.match(
      await rawExchange(server.port, `${head}content-length: x\r\n\r\n`),
      /^HTTP\/1\.1 400 /,
    );
    const smuggled = `${head}content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n`;
    assert.match(await rawExchange(server.port, smuggled), /^HTTP\/1\.1 400 /);
  });

  test('a bad percent escape in the path is a 4xx in the usual shape', async () => {
    await using server = await startTestServer(new EchoModel());
    const answer = await rawExchange(
      server.port,
      'GET /%zz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n',
    );
    assert.match(answer, /^HTTP\/1\.1 4\d\d /);
    assert.match(answer, /"error":\{"message"/);
  });

  test('a client that hangs up in the middle of its body does no harm', async () => {
    await using server = await startTestServer(new EchoModel());
    const socket = connect(server.port, '127.0.0.1');
    socket.write(
      'POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{"pro',
    );
    await setTimeout(30);
    socket.destroy();
    assert.equal((await fetch(`${server.url}/healthz`)).status, 200);
  });

  test('a slow reader holds back its own stream', async () => {
    const model = new EchoModel();
    await using server = await startTestServer(model);
    const body = JSON.stringify({ prompt: 'x', max_tokens: 4000, stream: true, logprobs: 20 });
    const socket = connect(server.port, '127.0.0.1');
    socket.pause();
    socket.write(
      `POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
    );
    const quick = await post(server.url, '/v1/completions', { prompt: 'x', max_tokens: 5 });
    assert.equal(quick.status, 200);
    socket.destroy();
    await until(() => model.numRunning === 0);
  });
});

test('closing lets a running stream finish within the grace time', async () => {
  const model = new EchoModel({ delayMs: 10 });
  const server = await startTestServer(model);
  const response = await post(server.url, '/v1/completions', {
    prompt: 'x',
    max_tokens: 20,
    stream: true,
  });
  const closing = server.server.close(5000);
  const text = await response.text();
  assert.match(text, /\[DONE\]\n\n$/);
  await closing;
  await assert.rejects(fetch(`${server.url}/healthz`));
});

test('closing cuts a stream off when the grace time is over', async () => {
  const model = new EchoModel({ delayMs: 10 });
  const server = await startTestServer(model);
  const response = await post(server.url, '/v1/completions', {
    prompt: 'x',
    max_tokens: 4000,
    stream: true,
  });
  await server.server.close(50);
  assert.match(await response.text(), /shutting down/);
  assert.equal(model.numRunning, 0);
});

test('a port in use is a clear error', async () => {
  await using first = await startTestServer();
  const { HttpServer } = await import('./server.ts');
  const { pino } = await import('pino');
  const second = new HttpServer({
    host: '127.0.0.1',
    port: first.port,
    logger: pino({ level: 'silent' }),
  });
  await assert.rejects(second.listen(), (error: Error) => {
    assert.ok(error instanceof ListenError);
    assert.match(error.message, /another program uses this port/);
    return true;
  });
});
