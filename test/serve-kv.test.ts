/** What `hasten serve` does with keys and values beyond one request: offload, sessions, pinned prompts, who shares them. */
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { load } from '../src/index.ts';
import { runHasten } from './run-hasten.ts';
import { end, type Serving, serve as startServing } from './serve-process.ts';

let folder: string;
before(() => {
  folder = mkdtempSync(join(tmpdir(), 'hasten-kv-'));
});
after(() => rmSync(folder, { recursive: true }));

/** Servers of tests that failed. */
const children: Serving['child'][] = [];
after(() => {
  for (const child of children) child.kill('SIGKILL');
});

async function serve(args: readonly string[]): Promise<Serving> {
  const serving = await startServing(args);
  children.push(serving.child);
  return serving;
}

const textOf = (i: number): string => `Text number ${i}: ${'words and words '.repeat(8)}`;

interface Completed {
  readonly text: string;
  readonly cached: number;
}

async function post(url: string, path: string, body: object, key = ''): Promise<never> {
  const response = await fetch(`${url}${path}`, {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      ...(key !== '' && { authorization: `Bearer ${key}` }),
    },
    body: JSON.stringify(body),
  });
  const json = await response.json();
  assert.equal(response.status, 200, JSON.stringify(json));
  return json as never;
}

async function complete(url: string, body: object, key?: string): Promise<Completed> {
  const { choices, usage } = (await post(
    url,
    '/v1/completions',
    { max_tokens: 8, temperature: 0, ignore_eos: true, ...body },
    key,
  )) as {
    choices: { text: string }[];
    usage: { prompt_tokens_details: { cached_tokens: number } };
  };
  return { text: choices[0]!.text, cached: usage.prompt_tokens_details.cached_tokens };
}

async function figure(url: string, name: string): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text();
  const line = text.split('\n').find((each) => each.startsWith(`hasten:${name}{`));
  return Number(line?.split(' ').at(-1));
}

describe('hasten serve', () => {
  for (const [type, size] of [
    ['f16', '200kB'],
    ['q4', '70kB'],
  ] as const)
    test(`what a small KV cache of ${type} has no room for comes back from memory and disk, with the same text`, () =>
      offloads(type, size));

  async function offloads(type: string, size: string): Promise<void> {
    // A cache of some 24 blocks, six texts of 10, and memory for a few blocks more.
    const { child, url } = await serve([
      'tiny',
      ...['--kv-cache-memory', size, '--max-model-len', '256', '--kv-cache-type', type],
      ...['--kv-offload-memory', '70kB', '--kv-offload-disk', '2MB'],
      ...['--kv-offload-folder', join(folder, 'tiers')],
    ]);
    const ids = [0, 1, 2, 3, 4, 5];
    const first = [];
    for (const i of ids) first.push(await complete(url, { prompt: textOf(i) }));
    assert.ok(first.every(({ cached }) => cached < 16));
    for (const i of ids) {
      const again = await complete(url, { prompt: textOf(i) });
      assert.equal(again.text, first[i]!.text);
      assert.ok(again.cached > 100, `${again.cached} tokens of text ${i}`);
    }
    assert.ok((await figure(url, 'kv_offload_restored_blocks_total')) > 20);
    assert.equal(await figure(url, 'kv_offload_disk_fault'), 0);
    assert.deepEqual(readdirSync(join(folder, 'tiers')), [], 'no file is left behind');
    assert.equal(await end(child, 'SIGTERM'), 0);
  }

  test('a session saved by one server goes on in another, and in the library', async () => {
    const args = ['tiny', '--slot-save-path', join(folder, 'sessions'), '--no-warmup'];
    const prompt = textOf(7);
    const first = await serve(args);
    const expected = await complete(first.url, { prompt: `${prompt}Go on` });
    const saved = (await post(first.url, '/slots/0?action=save', {
      filename: 'a.bin',
      prompt,
    })) as {
      n_saved: number;
    };
    assert.ok(saved.n_saved > 100);
    assert.equal(await end(first.child, 'SIGTERM'), 0);

    const second = await serve(args);
    const restored = await post(second.url, '/slots/0?action=restore', { filename: 'a.bin' });
    assert.equal((restored as { n_restored: number }).n_restored, saved.n_saved);
    const after = await complete(second.url, { prompt: `${prompt}Go on` });
    assert.equal(after.text, expected.text);
    assert.ok(after.cached >= saved.n_saved);
    assert.equal(await end(second.child, 'SIGTERM'), 0);

    await using model = await load('tiny', { offline: true });
    const path = join(folder, 'sessions', 'a.bin');
    assert.equal(await model.restoreSession(path), saved.n_saved);
    const answer = model.complete(`${prompt}Go on`, {
      maxTokens: 8,
      temperature: 0,
      ignoreEos: true,
    });
    assert.equal(await answer.text(), expected.text);
    assert.ok((await answer.result).cachedTokens >= saved.n_saved);
    const own = join(folder, 'own.session');
    const messages = [{ role: 'user', content: prompt }];
    assert.ok((await model.saveSession(own, messages)) > 100);
    await assert.rejects(model.restoreSession(join(folder, 'none')), { code: 'invalid_session' });
    await using other = await load('tiny', { offline: true, precision: 'f32' });
    await assert.rejects(other.restoreSession(own), /saved with fingerprint/);
  });

  test('prompts of --preload are pinned, and pinned again when the engine was killed', async () => {
    const file = join(folder, 'prompts.json');
    writeFileSync(file, JSON.stringify([textOf(8)]));
    const { child, url, enginePid } = await serve(['tiny', '--preload', file]);
    const numPinned = await figure(url, 'kv_cache_pinned_blocks');
    assert.ok(numPinned > 6);
    process.kill(enginePid(), 'SIGKILL');
    for (let tries = 0; (await figure(url, 'engine_restarts_total')) !== 1; tries++) {
      assert.ok(tries < 2000, 'the engine was not started again');
      await setTimeout(10);
    }
    for (let tries = 0; (await figure(url, 'kv_cache_pinned_blocks')) !== numPinned; tries++) {
      assert.ok(tries < 2000, 'nothing was pinned again');
      await setTimeout(10);
    }
    assert.ok((await complete(url, { prompt: textOf(8) })).cached > 100);
    assert.equal(await end(child, 'SIGTERM'), 0);
  });

  test('with --prefix-cache-scope tenant keys share nothing; salts share nothing in any scope', async () => {
    const { child, url } = await serve([
      ...['tiny', '--prefix-cache-scope', 'tenant', '--no-warmup'],
      ...['--api-key', 'a:sk-a', '--api-key', 'b:sk-b'],
    ]);
    const found = async (key: string, rest: object = {}): Promise<boolean> =>
      (await complete(url, { prompt: textOf(9), ...rest }, key)).cached > 0;
    assert.equal(await found('sk-a'), false);
    assert.equal(await found('sk-b'), false);
    assert.equal(await found('sk-a'), true);
    assert.equal(await found('sk-a', { cache_salt: 'x' }), false);
    assert.equal(await found('sk-a', { cache_salt: 'x' }), true);
    assert.equal(await end(child, 'SIGTERM'), 0);
  });

  test('options that cannot be are refused with what is accepted', async () => {
    const file = join(folder, 'prompts.json');
    writeFileSync(file, '["a prompt"]');
    const refuse = async (...args: string[]) => {
      const { code, stderr } = await runHasten(['serve', 'tiny', '--port', '0', ...args]);
      assert.notEqual(code, 0);
      return stderr;
    };
    assert.match(
      await refuse('--preload', file, '--prefix-cache-scope', 'tenant'),
      /leave out one of them/,
    );
    assert.match(
      await refuse('--kv-offload-memory', '10'),
      /do not hold one KV block of \d+ bytes/,
    );
    assert.match(
      await refuse('--kv-offload-disk', '1MB', '--kv-offload-folder', join(file, 'x')),
      /no file can be made/,
    );
    assert.match(await refuse('--kv-offload-disk', 'much'), /Expected a size/);
    assert.match(await refuse('--kv-offload-memory', '900000GB'), /and \d+ are free/);
  });
});
