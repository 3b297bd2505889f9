/** Keys, limits, timeouts, origins and readers, over HTTP. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import { describe, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import type { ErrorBody } from './errors.ts';
import { EchoModel } from './testing/echo-model.ts';
import { startTestServer } from './testing/running-server.ts';

const BODY = { prompt: 'abc', max_tokens: 3 };

function complete(url: string, body: object = BODY, headers = {}): Promise<Response> {
  return fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: JSON.stringify(body),
  });
}

async function errorOf(response: Response) {
  return { status: response.status, ...((await response.json()) as ErrorBody).error };
}

async function until(condition: () => boolean): Promise<void> {
  for (let i = 0; i < 500 && !condition(); i++) await setTimeout(10);
  assert.ok(condition(), 'waited 5 s in vain');
}

describe('API keys', () => {
  const apiKeys = [
    { name: 'alice', secret: 'sk-alice' },
    { name: 'bob', secret: 'sk-bob' },
  ];

  test('are asked for everywhere but at probes and bare pages', async () => {
    await using server = await startTestServer(new EchoModel(), { apiKeys });
    const refused = await errorOf(await complete(server.url));
    assert.equal(refused.status, 401);
    assert.equal(refused.type, 'authentication_error');
    for (const path of [
      '/metrics',
      '/dashboard/data',
      '/v1/models',
      '/nowhere',
      '/page/../metrics',
    ]) {
      assert.equal((await fetch(server.url + path)).status, 401, path);
    }
    for (const path of ['/', '/healthz', '/readyz', '/page/chat.js']) {
      assert.equal((await fetch(server.url + path)).status, 200, path);
    }
    const headers = { authorization: 'Bearer sk-bob' };
    assert.equal((await complete(server.url, BODY, headers)).status, 200);
    assert.equal((await complete(server.url, BODY, { 'x-api-key': 'sk-alice' })).status, 200);
  });

  test('leave /metrics open where that is wanted', async () => {
    await using server = await startTestServer(new EchoModel(), { apiKeys, hasOpenMetrics: true });
    const response = await fetch(`${server.url}/metrics`);
    assert.equal(response.status, 200);
    assert.match(await response.text(), /^hasten:num_preemptions_total 3$/m);
  });

  test('have limits of their own', async () => {
    await using server = await startTestServer(new EchoModel(), {
      apiKeys,
      admission: { requestsPerMinutePerKey: 1 },
    });
    const as = (secret: string) =>
      complete(server.url, BODY, { authorization: `Bearer ${secret}` });
    assert.equal((await as('sk-alice')).status, 200);
    const second = await as('sk-alice');
    assert.equal(second.headers.get('retry-after'), '60');
    assert.equal((await errorOf(second)).code, 'key_rate');
    assert.equal((await as('sk-bob')).status, 200);
  });
});

describe('a full queue', () => {
  test('answers 429 with the time to wait, counts it, and has room again afterwards', async () => {
    const model = new EchoModel({ delayMs: 20 });
    await using server = await startTestServer(model, { admission: { maxQueue: 1 } });
    const running = Array.from({ length: 5 }, () =>
      complete(server.url, { ...BODY, max_tokens: 20 }),
    );
    await until(() => model.numRunning === 5);
    const refused = await complete(server.url);
    assert.equal(refused.status, 429);
    assert.ok(Number(refused.headers.get('retry-after')) >= 1);
    assert.equal((await errorOf(refused)).code, 'queue_full');
    for (const response of await Promise.all(running)) assert.equal(response.status, 200);
    assert.equal((await complete(server.url)).status, 200);
    const metrics = await (await fetch(`${server.url}/metrics`)).text();
    assert.match(metrics, /^hasten:admission_rejections_total\{reason="queue_full"\} 1$/m);
    assert.match(metrics, /handler="\/v1\/completions",status="4xx"\} 1$/m);
  });

  test('is no matter for requests with a fault: they leave no place taken', async () => {
    await using server = await startTestServer(new EchoModel(), { admission: { maxQueue: 0 } });
    for (let i = 0; i < 10; i++) {
      const bad = { ...BODY, temperature: -1 };
      assert.equal((await complete(server.url, bad)).status, 400);
      assert.equal((await complete(server.url, { ...BODY, max_tokens: 5000 })).status, 400);
    }
    assert.equal((await complete(server.url, { ...BODY, n: 4 })).status, 200);
    assert.equal((await complete(server.url, { ...BODY, n: 5 })).status, 400);
  });
});

describe('time', () => {
  test('that is up ends a request, whole or streamed', async () => {
    const model = new EchoModel({ delayMs: 10 });
    await using server = await startTestServer(model, { requestTimeoutMs: 150 });
    const long = { ...BODY, max_tokens: 1000 };
    const refused = await errorOf(await complete(server.url, long));
    assert.equal(refused.status, 408);
    assert.equal(refused.code, 'request_timeout');
    const streamed = await (await complete(server.url, { ...long, stream: true })).text();
    assert.match(streamed, /"code":"request_timeout"\}\}\n\n$/);
    await until(() => model.numRunning === 0);
    assert.equal(model.numAborted, 2);
  });

  test('that a client spends without reading is bounded', async () => {
    const model = new EchoModel();
    await using server = await startTestServer(model, { slowReaderMs: 200 });
    const socket = connect(server.port, '127.0.0.1');
    socket.on('error', () => {});
    socket.pause();
    const body = JSON.stringify({
      ...BODY,
      prompt: 'x'.repeat(50),
      max_tokens: 4000,
      n: 64,
      stream: true,
    });
    // Sixty-four answers, so that the system's buffers are full before they end.
    await once(socket, 'connect');
    socket.write(
      `POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
    );
    await until(() => model.numRunning > 0);
    await until(() => model.numRunning === 0);
    assert.ok(server.logLines.some((line) => line.includes('read nothing')));
    socket.destroy();
  });
});

describe('other origins', () => {
  const origin = 'https://app.example';

  test('are refused, or allowed by name with what browsers want to hear', async () => {
    await using closed = await startTestServer(new EchoModel());
    assert.equal((await complete(closed.url, BODY, { origin })).status, 403);
    await using server = await startTestServer(new EchoModel(), { corsOrigins: [origin] });
    const asked = await fetch(`${server.url}/v1/completions`, {
      method: 'OPTIONS',
      headers: {
        origin,
        'access-control-request-method': 'POST',
        'access-control-request-headers': 'content-type',
      },
    });
    assert.equal(asked.status, 204);
    assert.equal(asked.headers.get('access-control-allow-origin'), origin);
    assert.equal(asked.headers.get('access-control-allow-headers'), 'content-type');
    for (const stream of [false, true]) {
      const answer = await complete(server.url, { ...BODY, stream }, { origin });
      assert.equal(answer.status, 200);
      assert.equal(answer.headers.get('access-control-allow-origin'), origin);
      await answer.text();
    }
    const other = await complete(server.url, BODY, { origin: 'https://other.example' });
    assert.equal(other.status, 403);
  });

  test('do not get past a missing key', async () => {
    const apiKeys = [{ name: 'a', secret: 's' }];
    await using server = await startTestServer(new EchoModel(), { corsOrigins: ['*'], apiKeys });
    const refused = await complete(server.url, BODY, { origin });
    assert.equal(refused.status, 401);
    assert.equal(refused.headers.get('access-control-allow-origin'), '*');
  });
});

test('an answer carries the id of its request', async () => {
  await using server = await startTestServer(new EchoModel());
  const given = await complete(server.url, BODY, { 'x-request-id': 'my-id.1' });
  assert.equal(given.headers.get('x-request-id'), 'my-id.1');
  const made = await complete(server.url, BODY, { 'x-request-id': 'a b' });
  assert.match(made.headers.get('x-request-id') ?? '', /^[0-9a-f-]{36}$/);
});
