/** `hasten serve` among bad clients, many clients, and more work than it takes. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { after, before, describe, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { end, type Serving, serve } from './serve-process.ts';
import { enginePidOf, soak, startSoakServer } from './soak.ts';

const SKIP_NO_PROC = process.platform !== 'linux' && 'memory is read from /proc';
const NUM_CONNECTIONS = 1000;
const SOAK_SECONDS = 60;
/** What a soak may add in its second half: heaps still grow to their size then (315 to 330 MB from half a minute on). */
const MAX_GROWTH_BYTES = 90e6;

describe('hasten serve among many', () => {
  let serving: Serving;
  before(async () => {
    serving = await serve(['tiny', '--log-level', 'warn', '--max-queue', '1000']);
  });
  after(async () => {
    assert.equal(await end(serving.child, 'SIGTERM'), 0);
  });

  test('answers 1,000 requests on 1,000 connections at once, each with its own text', async () => {
    const port = Number(new URL(serving.url).port);
    const texts = await Promise.all(
      Array.from({ length: NUM_CONNECTIONS }, async (_, i) => {
        const socket = connect(port, '127.0.0.1');
        const body = JSON.stringify({
          prompt: `${i % 7}`,
          max_tokens: 4,
          temperature: 0,
          ignore_eos: true,
        });
        socket.write(
          'POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n' +
            `Content-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
        );
        const answer = await readAll(socket);
        assert.match(answer, /^HTTP\/1\.1 200 /);
        return JSON.parse(answer.slice(answer.indexOf('\r\n\r\n'))).choices[0].text as string;
      }),
    );
    assert.equal(texts.length, NUM_CONNECTIONS);
    texts.forEach((text, i) => {
      assert.equal(text, texts[i % 7]);
    });
  });

  test('keeps 1,000 connections that send nothing, and answers beside them', async () => {
    const port = Number(new URL(serving.url).port);
    const idle = Array.from({ length: NUM_CONNECTIONS }, () => connect(port, '127.0.0.1'));
    await Promise.all(idle.map((socket) => once(socket, 'connect')));
    assert.equal((await fetch(`${serving.url}/readyz`)).status, 200);
    for (const socket of idle) socket.destroy();
  });

  test('outlives what is no HTTP, no JSON, or half of it', async () => {
    const port = Number(new URL(serving.url).port);
    const head =
      'POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n';
    const cases = [
      'nonsense\r\n\r\n',
      '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03',
      `${head}Content-Length: 5\r\n\r\n{"a":`,
      `${head}Content-Length: -1\r\n\r\n{}`,
      `${head}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}`,
      `${head}Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n`,
      `GET /readyz HTTP/1.1\r\nHost: localhost\r\nX: ${'x'.repeat(20_000)}\r\n\r\n`,
    ];
    for (const bytes of cases) {
      const socket = connect(port, '127.0.0.1');
      socket.write(Buffer.from(bytes, 'latin1'));
      assert.match(await readAll(socket), /^HTTP\/1\.1 4\d\d /, JSON.stringify(bytes.slice(0, 40)));
    }
    // Half a body, and then gone.
    for (let i = 0; i < 20; i++) {
      const socket = connect(port, '127.0.0.1');
      socket.write(`${head}Content-Length: 500\r\n\r\n{"prompt": "`);
      await setTimeout(5);
      socket.destroy();
    }
    for (const body of [
      '',
      '[]',
      'null',
      '"x"',
      '{"prompt": NaN}',
      '{"prompt": "a", "stream": "yes"}',
      '{'.repeat(5000),
    ]) {
      const response = await fetch(`${serving.url}/v1/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body,
      });
      assert.equal(response.status, 400, body.slice(0, 40));
    }
    assert.equal((await fetch(`${serving.url}/readyz`)).status, 200);
  });
});

test('at twice its capacity for a while: every request is accounted for, and memory stays', {
  skip: SKIP_NO_PROC,
}, async (t) => {
  const serving = await startSoakServer();
  try {
    const result = await soak(serving, enginePidOf(serving), SOAK_SECONDS);
    const { sent, finished, refused, rejected, left, failed } = result.counts;
    t.diagnostic(JSON.stringify({ ...result, failures: result.failures.slice(0, 3) }));
    assert.equal(failed, 0, result.failures.join('\n'));
    assert.equal(sent, finished + refused + rejected + left);
    for (const count of [finished, refused, rejected, left]) assert.ok(count > 20, `${count}`);
    assert.equal(result.numLeftRunning, 0);
    const growth = result.finalBytes - result.settledBytes;
    assert.ok(growth < MAX_GROWTH_BYTES, `memory grew by ${growth} bytes`);
    assert.equal((await fetch(`${serving.url}/readyz`)).status, 200);
  } finally {
    assert.equal(await end(serving.child, 'SIGTERM'), 0);
  }
});

async function readAll(socket: Socket): Promise<string> {
  let answer = '';
  socket.on('data', (data) => {
    answer += data.toString();
  });
  socket.setTimeout(30_000, () => socket.destroy());
  await once(socket, 'close');
  return answer;
}
