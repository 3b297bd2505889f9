/** POST /slots: sessions saved and restored. */
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import type { ServerOptions } from './server.ts';
import { EchoModel } from './testing/echo-model.ts';
import { startTestServer } from './testing/running-server.ts';

interface SlotAnswer {
  readonly id_slot: number;
  readonly filename: string;
  readonly n_saved?: number;
  readonly n_written?: number;
  readonly n_restored?: number;
  readonly n_read?: number;
  readonly n_erased?: number;
  readonly timings: { readonly save_ms?: number; readonly restore_ms?: number };
  readonly error: {
    readonly param: string | null;
    readonly message: string;
    readonly code: string | null;
  };
}

async function started(options: Partial<ServerOptions> = {}) {
  const folder = mkdtempSync(join(tmpdir(), 'hasten-slots-'));
  const model = new EchoModel();
  const server = await startTestServer(model, { slotSavePath: folder, ...options });
  const post = async (path: string, body: object, headers: Record<string, string> = {}) => {
    const response = await fetch(`${server.url}${path}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: JSON.stringify(body),
    });
    return { status: response.status, ...((await response.json()) as SlotAnswer) };
  };
  return {
    folder,
    model,
    server,
    post,
    async [Symbol.asyncDispose]() {
      await server[Symbol.asyncDispose]();
      rmSync(folder, { recursive: true });
    },
  };
}

describe('/slots', () => {
  test('saves a prompt, token ids or a conversation, and restores it, with the figures of llama.cpp', async () => {
    await using server = await started();
    const saved = await server.post('/slots/3?action=save', { filename: 'a.bin', prompt: 'hello' });
    assert.equal(saved.status, 200);
    assert.deepEqual(
      [saved.id_slot, saved.filename, saved.n_saved, saved.n_written],
      [3, 'a.bin', 5, 5],
    );
    assert.ok(saved.timings.save_ms! >= 0);
    const restored = await server.post('/slots/0?action=restore', { filename: 'a.bin' });
    assert.deepEqual([restored.id_slot, restored.n_restored, restored.n_read], [0, 5, 5]);
    assert.ok(restored.timings.restore_ms! >= 0);
    await server.post('/slots/0?action=save', { filename: 'b', prompt: [104, 105] });
    assert.equal(readFileSync(join(server.folder, 'b'), 'utf8'), 'hi');
    const messages = [{ role: 'developer', content: [{ type: 'text', text: 'Be brief.' }] }];
    await server.post('/slots/0?action=save', { filename: 'c', messages, cache_salt: 'x' });
    assert.equal(readFileSync(join(server.folder, 'c'), 'utf8'), 'system: Be brief.');
    const call = server.model.engineCalls.at(-1)!;
    assert.equal(call.name === 'saveSession' && call.text.cacheSalt, 'x');
  });

  test('forgets a text, of the caller alone and without a folder for sessions', async () => {
    await using server = await started({
      slotSavePath: undefined,
      apiKeys: [{ name: 'alice', secret: 'sk-a' }],
    });
    const answer = await server.post(
      '/slots/2?action=erase',
      { prompt: 'hello', cache_salt: 'x' },
      { authorization: 'Bearer sk-a' },
    );
    const { status, id_slot, n_erased } = answer;
    assert.deepEqual([status, id_slot, n_erased], [200, 2, 5]);
    assert.deepEqual(server.model.engineCalls, [
      {
        name: 'forgetPrefix',
        text: { tenant: 'alice', cacheSalt: 'x', tokenIds: Int32Array.from(Buffer.from('hello')) },
      },
    ]);
  });

  test('no name leaves the folder', async () => {
    await using server = await started();
    for (const filename of [
      '../x',
      '..',
      '.',
      '',
      'a/b',
      'a\\b',
      '/etc/passwd',
      '.hidden',
      'a\0b',
      'a\nb',
      '-key',
      'ä',
      'x'.repeat(129),
      7,
    ]) {
      for (const action of ['save', 'restore']) {
        const answer = await server.post(`/slots/0?action=${action}`, { filename, prompt: 'a' });
        assert.deepEqual([answer.status, answer.error.param], [400, 'filename'], String(filename));
      }
    }
    assert.deepEqual(server.model.engineCalls, []);
    assert.deepEqual(readdirSync(server.folder), []);
  });

  test('wrong actions, slots and bodies are refused by name, and files that are not there', async () => {
    await using server = await started();
    const body = { filename: 'a', prompt: 'x' };
    const paramOf = async (path: string, sent: object = body) => {
      const { status, error } = await server.post(path, sent);
      assert.equal(status, 400, path);
      return error.param;
    };
    assert.equal(await paramOf('/slots/0'), 'action');
    assert.equal(await paramOf('/slots/0?action=forget'), 'action');
    assert.equal(await paramOf('/slots/0?action=erase', { filename: 'a' }), 'prompt');
    assert.equal(await paramOf('/slots/0?action=save', { prompt: 'a' }), 'filename');
    assert.equal(await paramOf('/slots/0?action=save&action=save'), 'action');
    assert.equal(await paramOf('/slots/x?action=save'), 'id_slot');
    assert.equal(await paramOf('/slots/-1?action=save'), 'id_slot');
    assert.equal(await paramOf('/slots/?action=save'), 'id_slot');
    assert.equal(await paramOf('/slots/0?action=save', { filename: 'a' }), 'prompt');
    const both = { ...body, messages: [{ role: 'user', content: 'x' }] };
    assert.equal(await paramOf('/slots/0?action=save', both), 'prompt');
    assert.equal(await paramOf('/slots/0?action=save', { ...body, cache_salt: '' }), 'cache_salt');
    const missing = await server.post('/slots/0?action=restore', { filename: 'none' });
    assert.deepEqual([missing.status, missing.error.code], [400, 'invalid_session']);
    assert.equal(missing.error.message, 'none: no such file', 'the path is nobody’s business');
    const get = await fetch(`${server.server.url}/slots/0?action=save`);
    assert.equal(get.status, 405);
  });

  test('without a folder it says what to do', async () => {
    await using server = await started({ slotSavePath: undefined });
    const { status, error } = await server.post('/slots/0?action=save', { filename: 'a' });
    assert.equal(status, 501);
    assert.match(error.message, /--slot-save-path/);
  });

  test('each API key has sessions of its own', async () => {
    const apiKeys = [
      { name: 'alice', secret: 'sk-a' },
      { name: '..', secret: 'sk-b' },
    ];
    await using server = await started({ apiKeys });
    const as = (secret: string) => ({ authorization: `Bearer ${secret}` });
    const body = { filename: 'a', prompt: 'x' };
    assert.equal((await server.post('/slots/0?action=save', body)).status, 401);
    assert.equal((await server.post('/slots/0?action=save', body, as('sk-a'))).status, 200);
    const call = server.model.engineCalls.at(-1)!;
    assert.equal(call.name === 'saveSession' && call.text.tenant, 'alice');
    const other = await server.post('/slots/0?action=restore', { filename: 'a' }, as('sk-b'));
    assert.equal(other.status, 400);
    const own = await server.post('/slots/0?action=restore', { filename: 'a' }, as('sk-a'));
    assert.equal(own.n_restored, 1);
  });
});

test('cache_salt goes with the request, and an empty one is refused', async () => {
  await using server = await started();
  const ask = (path: string, body: object) =>
    server.post(path, { model: 'echo', max_tokens: 1, ...body });
  const messages = [{ role: 'user', content: 'x' }];
  await ask('/v1/completions', { prompt: 'x', cache_salt: 'one' });
  await ask('/v1/chat/completions', { messages, cache_salt: 'two' });
  await ask('/v1/responses', { input: 'x', cache_salt: 'three' });
  await ask('/v1/completions', { prompt: 'x' });
  assert.deepEqual(
    server.model.requests.map(({ cacheSalt }) => cacheSalt),
    ['one', 'two', 'three', undefined],
  );
  const refused = await ask('/v1/completions', { prompt: 'x', cache_salt: '' });
  assert.deepEqual([refused.status, refused.error.param], [400, 'cache_salt']);
});
