/** `hasten bench serve` as a command: what it prints, refuses and returns, against a server that does as it is told. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { FakeServer } from '../src/loadgen/testing/fake-server.ts';
import { runHasten, startHasten } from './run-hasten.ts';

const folder = mkdtempSync(join(tmpdir(), 'hasten-bench-serve-'));
after(() => rmSync(folder, { recursive: true }));

type Fields = Readonly<Record<string, unknown>>;

const benchServe = (url: string, ...args: string[]) =>
  runHasten(['bench', 'serve', '--base-url', url, ...args]);

describe('hasten bench serve', () => {
  it('prints the table of vllm bench serve, and JSON last', async () => {
    await using server = await FakeServer.start(() => ({ kind: 'answer', firstMs: 30 }));
    const result = await benchServe(server.url, '--num-prompts', '7', '--max-concurrency', '2');
    assert.equal(result.code, 0, result.stderr);
    assert.match(result.stdout, /Serving Benchmark Result/);
    assert.match(result.stdout, /^Successful requests: +7$/m);
    const json = JSON.parse(result.stdout.trimEnd().split('\n').at(-1)!) as Fields;
    const { completed, sent, model_id: model, max_concurrency: clients, loop } = json;
    assert.deepEqual(
      { completed, sent, model, clients, loop },
      {
        ...{ completed: 7, sent: 7, model: 'fake', clients: 2, loop: 'closed' },
      },
    );
    // The warm-up is not counted.
    assert.equal(server.seen.length, 8);
    assert.equal(server.seen[0]?.path, '/v1/chat/completions');
    assert.equal(server.mostRunning, 2);
  });

  it('prints nothing but JSON with --json, and every request into --result-file', async () => {
    await using server = await FakeServer.start((i) =>
      i === 2 ? { kind: 'status', status: 500 } : { kind: 'answer' },
    );
    const file = join(folder, 'result.json');
    const result = await benchServe(
      ...[server.url, '--json', '--num-prompts', '6', '--endpoint', 'completions'],
      ...['--random-input-len', '20', '--random-output-len', '3', '--shared-prefix-tokens', '12'],
      ...['--request-rate', '50', '--goodput', 'ttft:500', 'e2el:900', '--result-file', file],
      ...['--header', 'x-note: yes', '--api-key', 'sesame', '--priority-mix', 'high'],
    );
    assert.equal(result.code, 0, result.stderr);
    const json = JSON.parse(result.stdout) as Fields;
    assert.deepEqual(json.failures, { server_error: 1 });
    assert.equal(json.total_input_tokens, 100);
    assert.equal(typeof json.request_goodput, 'number');
    assert.match(result.stderr, /1 requests: server_error: told to say 500/);
    const saved = JSON.parse(readFileSync(file, 'utf8')) as { requests: Fields[] };
    assert.equal(saved.requests.length, 6);
    const { headers, body } = server.seen[1]!;
    assert.equal(headers['x-note'], 'yes');
    assert.equal(headers.authorization, 'Bearer sesame');
    assert.equal(headers['x-priority'], 'high');
    assert.equal((body.prompt as number[]).length, 20);
  });

  it('takes prompts from a dataset and lets the model end them', async () => {
    await using server = await FakeServer.start();
    const file = join(folder, 'data.jsonl');
    writeFileSync(file, '{"prompt":"one","output_tokens":2}\n{"prompt":"two"}\n');
    const result = await benchServe(server.url, '--dataset-path', file, '--num-prompts', '4');
    assert.equal(result.code, 0, result.stderr);
    const texts = server.seen.map(({ body }) => body.messages?.[0]?.content);
    assert.deepEqual(new Set(texts), new Set(['one', 'two']));
    assert.ok(server.seen.every(({ body }) => body.ignore_eos === undefined));
  });

  it('refuses another machine, and nonsense, before anything is sent', async () => {
    const remote = await benchServe('http://192.0.2.1:8000');
    assert.equal(remote.code, 1);
    assert.match(remote.stderr, /is not this machine.*--allow-remote/);
    const turns = await benchServe(
      'http://127.0.0.1:1',
      '--endpoint',
      'completions',
      '--turns',
      '2',
    );
    assert.equal(turns.code, 2);
    const goodput = await benchServe('http://127.0.0.1:1', '--goodput', 'speed:1');
    assert.equal(goodput.code, 2);
    assert.match(goodput.stderr, /ttft:500 tpot:50/);
  });

  it('says at once what is wrong with the target', async () => {
    await using server = await FakeServer.start(() => ({ kind: 'status', status: 401 }));
    const refused = await benchServe(server.url);
    assert.equal(refused.code, 1);
    assert.match(refused.stderr, /a first request came to nothing: HTTP 401: told to say 401/);
    const nobody = await benchServe('http://127.0.0.1:1');
    assert.equal(nobody.code, 1);
    assert.match(nobody.stderr, /nothing answers at http:\/\/127\.0\.0\.1:1: .*ECONNREFUSED/);
  });

  it('accounts for what was in flight when interrupted', async () => {
    const inFlight = Promise.withResolvers<void>();
    await using server = await FakeServer.start((i) => {
      if (i === 3) inFlight.resolve();
      return i < 3 ? { kind: 'answer' } : { kind: 'stall', pieces: 1 };
    });
    const args = ['bench', 'serve', '--base-url', server.url, '--max-concurrency', '1', '--json'];
    const child = startHasten(args);
    let stdout = '';
    child.stdout?.on('data', (part: Buffer) => {
      stdout += part;
    });
    await inFlight.promise;
    child.kill('SIGINT');
    const code = await new Promise((resolve) => child.on('close', resolve));
    assert.equal(code, 130);
    const json = JSON.parse(stdout) as Fields;
    const { completed, sent, failures, interrupted } = json;
    assert.deepEqual(
      { completed, sent, failures, interrupted },
      {
        ...{ completed: 2, sent: 3, failures: { cut_off: 1 }, interrupted: true },
      },
    );
  });

  it('fails where nothing was finished', async () => {
    await using server = await FakeServer.start((i) =>
      i === 0 ? { kind: 'answer' } : { kind: 'status', status: 429, retryAfter: '0' },
    );
    const result = await benchServe(server.url, '--num-prompts', '3', '--json');
    assert.equal(result.code, 1);
    assert.equal((JSON.parse(result.stdout) as Fields).refused, 3);
  });
});
