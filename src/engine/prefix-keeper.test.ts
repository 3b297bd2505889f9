import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { MessageChannel } from 'node:worker_threads';
import { Engine, type EngineOptions } from './engine.ts';
import { EngineClient } from './engine-client.ts';
import { EngineCore } from './engine-core.ts';
import { EngineServer } from './engine-server.ts';
import { EngineCallError, RequestError } from './errors.ts';
import { KvSessionError } from './kv-session.ts';
import type { EngineRequest } from './request.ts';
import type { RequestResult } from './request-handle.ts';
import { byteTokenizer } from './testing/byte-decoder.ts';
import { MockRunner, type MockRunnerOptions } from './testing/mock-runner.ts';

/** Blocks of 4 tokens. */
const engineOf = (
  numBlocks: number,
  options: Partial<EngineOptions> = {},
  runner: MockRunnerOptions = {},
): Engine =>
  new Engine({
    runner: new MockRunner({ ...runner, limits: { numBlocks, ...runner.limits } }),
    tokenizer: byteTokenizer,
    eosTokenIds: [],
    kvFingerprint: () => 'mock',
    ...options,
  });

const textOf = (seed: number, length: number): number[] =>
  Array.from({ length }, (_, i) => (seed * 11 + i * (seed + 3)) % 40);

const ask = (
  engine: Pick<Engine, 'submit'>,
  promptTokenIds: number[],
  rest: Partial<EngineRequest> = {},
): Promise<RequestResult> =>
  engine
    .submit({ promptTokenIds, samplingParams: { temperature: 0, maxTokens: 6 }, ...rest })
    .collect();

const cachedOf = ({ finish }: RequestResult): number => finish.usage.cachedTokens;

/** Fills the pool with other texts. */
async function press(engine: Engine, numTexts = 20): Promise<void> {
  for (let i = 0; i < numTexts; i++) await ask(engine, textOf(100 + i, 24));
}

async function withFolder(run: (folder: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'hasten-keeper-'));
  try {
    await run(folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test('what had to leave a small pool comes back with the same text', async () => {
  const texts = Array.from({ length: 12 }, (_, i) => textOf(i, 30));
  const large = engineOf(1000);
  const expected = await Promise.all(texts.map((text) => ask(large, text)));
  for (const [memory, disk] of [
    [1000, 0],
    [0, 1000],
    [30, 1000],
  ] as const) {
    const engine = engineOf(20, {
      offload: {
        memoryBytes: memory * 32,
        ...(disk > 0 && { disk: { folder: tmpdir(), maxBytes: disk * 32 } }),
      },
    });
    for (const text of texts) await ask(engine, text);
    const again = await Promise.all(texts.map((text) => ask(engine, text)));
    assert.deepEqual(
      again.map(({ text }) => text),
      expected.map(({ text }) => text),
    );
    for (const result of again) assert.ok(cachedOf(result) >= 28, `${cachedOf(result)} cached`);
    await engine.close();
  }
  // Without it the same traffic finds nothing again: the test does test something.
  const plain = engineOf(20);
  for (const text of texts) await ask(plain, text);
  assert.equal(cachedOf(await ask(plain, texts[0]!)), 0);
});

test('a text is forgotten wherever it is, but for what is pinned', async () => {
  for (const offload of [
    undefined,
    { memoryBytes: 1000 * 32 },
    { memoryBytes: 0, disk: { folder: tmpdir(), maxBytes: 1000 * 32 } },
  ]) {
    const engine = engineOf(20, offload === undefined ? {} : { offload });
    const text = textOf(1, 30);
    const other = textOf(2, 30);
    const expected = (await ask(engine, text)).text;
    await ask(engine, other);
    if (offload !== undefined) await press(engine);
    assert.equal(await engine.calls.forgetPrefix({ tokenIds: text }), 28);
    assert.equal(await engine.calls.forgetPrefix({ tokenIds: text }), 0);
    const again = await ask(engine, text);
    assert.equal(cachedOf(again), 0);
    assert.equal(again.text, expected);
    assert.equal(cachedOf(await ask(engine, other)), 28, 'others are still there');
    await engine.calls.pinPrefix({ tokenIds: text.slice(0, 12) });
    assert.equal(await engine.calls.forgetPrefix({ tokenIds: text }), 16);
    assert.equal(cachedOf(await ask(engine, text)), 12);
    await engine.close();
  }
});

test('a pinned text survives pressure, and is refused where pins would take more than half', async () => {
  const engine = engineOf(20);
  const text = textOf(1, 34);
  assert.equal(await engine.calls.pinPrefix({ tokenIds: text }), 32);
  await press(engine);
  assert.equal((await engine.stats()).numPinnedBlocks, 8);
  assert.equal(cachedOf(await ask(engine, text)), 32);
  await assert.rejects(engine.calls.pinPrefix({ tokenIds: textOf(2, 16) }), RequestError);
  await assert.rejects(engine.calls.pinPrefix({ tokenIds: textOf(2, 100) }), RequestError);
  assert.equal(await engine.calls.pinPrefix({ tokenIds: [...text.slice(0, 32), 1, 2, 3, 4] }), 36);
  assert.equal((await engine.stats()).numPinnedBlocks, 9, 'what they share counts once');
  await assert.rejects(engine.calls.pinPrefix({ tokenIds: [99] }), RequestError);
});

test('pins give way to a request that would not fit otherwise, and to no other', async () => {
  const engine = engineOf(20);
  const text = textOf(1, 40);
  await engine.calls.pinPrefix({ tokenIds: text });
  // Together these need the whole pool twice: they wait for each other, not for the pins.
  await Promise.all(Array.from({ length: 8 }, (_, i) => ask(engine, textOf(10 + i, 24))));
  assert.equal((await engine.stats()).numPinnedBlocks, 10);
  const alone = engineOf(200);
  const large = textOf(5, 70);
  assert.equal((await ask(engine, large)).text, (await ask(alone, large)).text);
  assert.equal((await engine.stats()).numPinnedBlocks, 0);
  // One that grows beyond what the pins leave.
  await engine.calls.pinPrefix({ tokenIds: text });
  const long = { samplingParams: { temperature: 0, maxTokens: 60 } };
  assert.equal(
    (await ask(engine, textOf(6, 16), long)).text,
    (await ask(alone, textOf(6, 16), long)).text,
  );
  assert.equal((await engine.stats()).numPinnedBlocks, 0);
});

test('a saved session goes on in another engine as if it had never stopped', () =>
  withFolder(async (folder) => {
    const path = join(folder, 'a.session');
    const text = textOf(3, 41);
    const first = engineOf(50);
    const expected = await ask(first, [...text, 7, 8]);
    assert.equal(await first.calls.saveSession(path, { tokenIds: text }), 40);
    assert.deepEqual(readdirSync(folder), ['a.session']);
    assert.equal((await first.stats()).numFreeBlocks, 50);

    const second = engineOf(50);
    assert.deepEqual([...(await second.calls.restoreSession(path))], text.slice(0, 40));
    const result = await ask(second, [...text, 7, 8]);
    assert.equal(cachedOf(result), 40);
    assert.equal(result.text, expected.text);
    assert.equal((await second.stats()).numFreeBlocks, 50);

    // Into a pool that has less room, beside a text of its own, and twice.
    const small = engineOf(12);
    await ask(small, textOf(9, 20));
    assert.equal((await small.calls.restoreSession(path)).length, 40);
    assert.equal((await small.calls.restoreSession(path)).length, 40);
    assert.equal((await ask(small, [...text, 7, 8])).text, expected.text);
    const smallest = engineOf(6);
    assert.equal((await smallest.calls.restoreSession(path)).length, 24);

    // What is in nobody's cache is computed for the file.
    const cold = engineOf(50);
    const other = join(folder, 'b.session');
    assert.equal(await cold.calls.saveSession(other, { tokenIds: text }), 40);
    assert.equal((await engineOf(50).calls.restoreSession(other)).length, 40);
  }));

test('sessions of other models, of none, and too short ones are refused', () =>
  withFolder(async (folder) => {
    const path = join(folder, 'a.session');
    const engine = engineOf(50);
    await engine.calls.saveSession(path, { tokenIds: textOf(3, 20) });
    const other = engineOf(50, { kvFingerprint: () => 'another' });
    await assert.rejects(other.calls.restoreSession(path), KvSessionError);
    const nameless = engineOf(50, { kvFingerprint: undefined as never });
    await assert.rejects(nameless.calls.restoreSession(path), /sessions are off/);
    await assert.rejects(engine.calls.saveSession(path, { tokenIds: [1, 2] }), KvSessionError);
    await assert.rejects(engine.calls.saveSession(path, { tokenIds: [99, 2, 3, 4] }), RequestError);
    await assert.rejects(engine.calls.restoreSession(join(folder, 'none')), /no such file|ENOENT/);
    assert.equal((await engine.stats()).numFreeBlocks, 50);
  }));

test('requests that need the whole pool wait for a session that is being saved or restored', () =>
  withFolder(async (folder) => {
    const path = join(folder, 'a.session');
    const engine = engineOf(20);
    const text = textOf(3, 70);
    const expected = await ask(engineOf(200), textOf(4, 72));
    const saved = engine.calls.saveSession(path, { tokenIds: text });
    const during = ask(engine, textOf(4, 72));
    assert.equal(await saved, 68);
    assert.equal((await during).text, expected.text);
    const [restored, after] = await Promise.all([
      engine.calls.restoreSession(path),
      ask(engine, textOf(4, 72)),
    ]);
    assert.ok(restored.length <= 68);
    assert.equal(after.text, expected.text);
    assert.equal((await engine.stats()).numFreeBlocks, 20);
  }));

test('an engine that closes lets go of its runner only when nothing is read or written any more', () =>
  withFolder(async (folder) => {
    const path = join(folder, 'a.session');
    const runner = new MockRunner();
    const engine = engineOf(128, { runner });
    const text = textOf(3, 200);
    await ask(engine, text);
    const saved = engine.calls.saveSession(path, { tokenIds: text });
    while (runner.numReadBlocks === 0) await new Promise((resolve) => setImmediate(resolve));
    assert.ok(runner.numReadBlocks < 50, 'it was meant to be under way');
    await engine.close();
    const numRead = runner.numReadBlocks;
    assert.equal(await saved, 200);
    assert.equal(runner.numReadBlocks, numRead);
    const again = engineOf(128);
    const restored = again.calls.restoreSession(path);
    await again.close();
    assert.equal((await restored).length, 200);
    await assert.rejects(again.calls.restoreSession(path), { code: 'engine_closed' });
  }));

test('with a scope of tenants nobody finds what another has asked; with salts in any scope', async () => {
  const text = textOf(2, 30);
  const found = async (engine: Engine, rest: Partial<EngineRequest>): Promise<boolean> =>
    cachedOf(await ask(engine, text, rest)) > 0;
  const all = engineOf(200);
  await ask(all, text, { tenant: 'a' });
  assert.equal(await found(all, { tenant: 'b' }), true);
  assert.equal(await found(all, { tenant: 'b', cacheSalt: 'x' }), false);
  assert.equal(await found(all, { tenant: 'c', cacheSalt: 'x' }), true);
  assert.equal(await found(all, { cacheSalt: 'y' }), false);

  // A pool so small that what is found comes from the store, too.
  const own = engineOf(12, { prefixCacheScope: 'tenant', offload: { memoryBytes: 100_000 } });
  await ask(own, text, { tenant: 'a' });
  await press(own, 4);
  assert.equal(await found(own, { tenant: 'b' }), false);
  assert.equal(await found(own, { tenant: '' }), false);
  assert.equal(await found(own, { tenant: 'a', cacheSalt: 'x' }), false);
  assert.equal(await found(own, { tenant: 'b', cacheSalt: 'x' }), false);
  assert.equal(await found(own, { tenant: 'a' }), true);
  assert.equal(await found(own, { tenant: 'b', cacheSalt: 'x' }), true);
  // Names that would be equal if they were just put together.
  assert.equal(await found(own, { tenant: 'b","x' }), false);
});

test('calls cross a port with their errors, and a new engine pins again what the old one had', () =>
  withFolder(async (folder) => {
    const serve = () => {
      const { port1, port2 } = new MessageChannel();
      const runner = new MockRunner();
      const core = new EngineCore({
        runner,
        tokenizer: byteTokenizer,
        eosTokenIds: [],
        kvFingerprint: () => 'mock',
      });
      new EngineServer(core, runner.limits, port1);
      return { port: port2, kill: () => port1.close() };
    };
    const attached = Promise.withResolvers<void>();
    let current = serve();
    const client = await EngineClient.connect(current.port, {
      onDisconnect: () => {
        current = serve();
        client.attach(current.port).then(attached.resolve);
      },
    });
    const text = textOf(1, 34);
    assert.equal(await client.calls.pinPrefix({ tokenIds: text }), 32);
    const path = join(folder, 'a.session');
    assert.equal(await client.calls.saveSession(path, { tokenIds: text }), 32);
    assert.deepEqual([...(await client.calls.restoreSession(path))], text.slice(0, 32));
    await assert.rejects(client.calls.pinPrefix({ tokenIds: [] }), RequestError);
    await assert.rejects(
      client.calls.restoreSession(join(folder, 'none')),
      (error) => error instanceof EngineCallError && error.code === 'invalid_session',
    );
    const open = client.calls.pinPrefix({ tokenIds: textOf(2, 200) });
    current.kill();
    await assert.rejects(open, /went away/);
    await attached.promise;
    for (let tries = 0; (await client.stats()).numPinnedBlocks === 0; tries++) {
      assert.ok(tries < 1000, 'nothing was pinned again');
    }
    assert.equal((await client.stats()).numPinnedBlocks, 8);
    await client.close();
  }));
