/** Options of `hasten serve` that guard it, with the process as users start it. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { runHasten } from './run-hasten.ts';
import { end, serve } from './serve-process.ts';

test('does not listen beyond this machine without a key, unless told to', async () => {
  const refused = await runHasten(['serve', 'tiny', '--host', '0.0.0.0', '--port', '0']);
  assert.equal(refused.code, 2);
  assert.match(refused.stderr, /--allow-unauthenticated/);
  const { child, output } = await serve(['tiny', '--host', '0.0.0.0', '--allow-unauthenticated']);
  assert.match(output().stderr, /no key is asked for/);
  assert.equal(await end(child, 'SIGTERM'), 0);
});

test('takes keys from options, environment and a file, and logs their names only', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'hasten-keys-'));
  try {
    const file = join(folder, 'keys');
    writeFileSync(file, '# staff\ncarol:sk-file\n');
    const { child, url, output } = await serve(
      ['tiny', '--host', '0.0.0.0', '--api-key', 'alice:sk-option', '--api-key-file', file],
      { HASTEN_API_KEY: 'sk-environment,bob:sk-environment-2' },
    );
    const statusWith = async (key: string) =>
      (await fetch(`${url}/v1/models`, { headers: { authorization: `Bearer ${key}` } })).status;
    for (const key of ['sk-option', 'sk-file', 'sk-environment', 'sk-environment-2']) {
      assert.equal(await statusWith(key), 200, key);
    }
    assert.equal(await statusWith('sk-other'), 401);
    assert.equal(await end(child, 'SIGTERM'), 0);
    assert.match(output().stderr, /"key":"carol"/);
    assert.doesNotMatch(output().stderr, /sk-/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('serves HTTPS with a certificate', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'hasten-tls-'));
  try {
    const [cert, key] = [join(folder, 'cert.pem'), join(folder, 'key.pem')];
    try {
      const subject = ['-subj', '/CN=localhost', '-days', '2', '-nodes', '-newkey', 'rsa:2048'];
      const files = ['-keyout', key, '-out', cert];
      execFileSync('openssl', ['req', '-x509', ...subject, ...files], { stdio: 'ignore' });
    } catch {
      t.skip('there is no openssl to make a certificate with');
      return;
    }
    const half = await runHasten(['serve', 'tiny', '--ssl-certfile', cert]);
    assert.equal(half.code, 2);
    const { child, url } = await serve(['tiny', '--ssl-certfile', cert, '--ssl-keyfile', key]);
    assert.match(url, /^https:/);
    const status = await new Promise((resolve, reject) => {
      request(`${url}/readyz`, { rejectUnauthorized: false }, ({ statusCode }) =>
        resolve(statusCode),
      )
        .on('error', reject)
        .end();
    });
    assert.equal(status, 200);
    assert.equal(await end(child, 'SIGTERM'), 0);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('computes the prompts of --preload before it is ready', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'hasten-preload-'));
  try {
    const file = join(folder, 'prompts.json');
    const system = { role: 'system', content: 'You answer questions about trains. '.repeat(3) };
    writeFileSync(file, JSON.stringify(['A plain prompt', { messages: [system] }]));
    const { child, url } = await serve(['tiny', '--preload', file]);
    const response = await fetch(`${url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({
        messages: [system, { role: 'user', content: 'Hm?' }],
        max_tokens: 1,
      }),
    });
    const { usage } = (await response.json()) as {
      usage: { prompt_tokens_details: { cached_tokens: number } };
    };
    assert.ok(usage.prompt_tokens_details.cached_tokens > 80);
    assert.equal(await end(child, 'SIGTERM'), 0);
    writeFileSync(file, '[{"messages": []}]');
    const refused = await runHasten(['serve', 'tiny', '--preload', file]);
    assert.equal(refused.code, 1);
    assert.match(refused.stderr, /--preload: expected a JSON list/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('drafts with a second model: the same text; one of another vocabulary is refused', async () => {
  const model = join(import.meta.dirname, 'fixtures/tiny/llama-bias');
  const other = await runHasten(['serve', 'tiny', '--port', '0', '--draft-model', model]);
  assert.equal(other.code, 1);
  assert.match(other.stderr, /draft model .*(\d+ tokens.*\d+|no tokenizer)/);
  const contradiction = ['serve', 'tiny', '--draft-model', 'tiny', '--speculation', 'off'];
  assert.equal((await runHasten(contradiction)).code, 2);
  const body = { prompt: 'Once upon a time', max_tokens: 80, temperature: 0, ignore_eos: true };
  const texts: string[] = [];
  for (const args of [
    ['--speculation', 'off'],
    ['--draft-model', 'tiny', '--num-speculative-tokens', '4'],
  ]) {
    const { child, url } = await serve(['tiny', ...args]);
    const response = await fetch(`${url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    });
    const answer = (await response.json()) as { choices: { text: string }[] };
    texts.push(answer.choices[0]!.text);
    const metrics = await (await fetch(`${url}/metrics`)).text();
    assert.equal(/spec_decode_num_drafts_total/.test(metrics), true);
    assert.equal(await end(child, 'SIGTERM'), 0);
  }
  assert.equal(texts[1], texts[0]);
});
