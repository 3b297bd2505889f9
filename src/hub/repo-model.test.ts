import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { FakeHub, fakeGguf, gitSha1, sha256 } from '../../test/fixtures/hub/fake-hub.ts';
import { NOBODY, QUICK, Workspace } from '../../test/fixtures/hub/workspace.ts';
import {
  AccessError,
  DigestError,
  ModelNotFoundError,
  ModelUnavailableError,
  NetworkError,
} from './errors.ts';
import type { ProgressEvent } from './progress.ts';
import { type ResolveOptions, resolveModel } from './resolve.ts';

const q4 = fakeGguf(300_000, 1);
const q8 = fakeGguf(200_000, 2);
const ggufRepo = {
  files: { 'README.md': Buffer.from('hello'), 'm-Q4_K_M.gguf': q4, 'm-Q8_0.gguf': q8 },
  small: ['README.md'],
};

async function withHub(
  work: (hub: FakeHub, options: ResolveOptions, space: Workspace) => Promise<void>,
): Promise<void> {
  await using hub = await FakeHub.start();
  using space = new Workspace();
  hub.repos.set('user/repo', ggufRepo);
  await work(hub, { env: space.env(hub.url), network: QUICK }, space);
}

const STORAGE = /^\/storage\//;
const cacheFiles = (space: Workspace) =>
  space.tree('hf/hub').filter((path) => !path.startsWith('.locks'));

test('pulls the default quantization into the layout of the hub cache', () =>
  withHub(async (hub, options, space) => {
    const events: ProgressEvent[] = [];
    const model = await resolveModel('hf:user/repo', {
      ...options,
      onProgress: (event) => events.push(event),
    });
    const commit = hub.commitOf('user/repo');
    assert.equal(
      model.path,
      space.path('hf/hub/models--user--repo/snapshots', commit, 'm-Q4_K_M.gguf'),
    );
    assert.deepEqual(
      [model.name, model.source, model.sizeBytes, model.digest],
      ['user/repo', 'hf', q4.length, sha256(q4)],
    );
    assert.deepEqual(cacheFiles(space), [
      `models--user--repo/blobs/${sha256(q4)}`,
      'models--user--repo/refs/main',
      `models--user--repo/snapshots/${commit}/m-Q4_K_M.gguf`,
    ]);
    assert.equal(fs.readlinkSync(model.path), `../../blobs/${sha256(q4)}`);
    assert.equal(
      fs.readFileSync(space.path('hf/hub/models--user--repo/refs/main'), 'utf8'),
      commit,
    );
    assert.deepEqual(fs.readFileSync(model.path), Buffer.from(q4));
    assert.equal(events[0]!.phase, 'resolving');
    assert.equal(events.at(-1)!.phase, 'done');
    assert(events.some((event) => event.phase === 'downloading' && event.totalBytes === q4.length));
  }));

test('answers from the cache without a request; refresh finds a new revision', () =>
  withHub(async (hub, options) => {
    const first = await resolveModel('hf:user/repo:Q8_0', options);
    const seen = hub.requests.length;
    assert.deepEqual(await resolveModel('hf:user/repo:Q8_0', options), first);
    assert.equal(hub.requests.length, seen);

    hub.repos.set('user/repo', { files: { 'm-Q8_0.gguf': q4 } });
    assert.deepEqual(await resolveModel('hf:user/repo:Q8_0', options), first);
    const newer = await resolveModel('hf:user/repo:Q8_0', { ...options, refresh: true });
    assert.equal(newer.digest, sha256(q4));
    assert.notEqual(newer.path, first.path);
  }));

test('an unchanged file of a new revision is linked, not fetched again', () =>
  withHub(async (hub, options) => {
    await resolveModel('hf:user/repo', options);
    hub.repos.set('user/repo', { files: { ...ggufRepo.files, 'NEWS.md': Buffer.from('x') } });
    const model = await resolveModel('hf:user/repo', { ...options, refresh: true });
    assert.equal(hub.requestsFor(STORAGE).length, 1);
    assert(model.path.includes(hub.commitOf('user/repo')));
  }));

test('finds what huggingface_hub has downloaded, by branch, tag and commit, offline', () =>
  withHub(async (_hub, options, space) => {
    const commit = 'c'.repeat(40);
    const repo = 'hf/hub/models--other--model';
    space.write(`${repo}/blobs/${sha256(q4)}`, q4);
    space.write(`${repo}/refs/main`, commit);
    space.write(`${repo}/refs/v2`, commit);
    fs.mkdirSync(space.path(repo, 'snapshots', commit), { recursive: true });
    const link = space.path(repo, 'snapshots', commit, 'x.Q5_K_M.gguf');
    fs.symlinkSync(`../../blobs/${sha256(q4)}`, link);
    const offline = { ...options, env: space.env(NOBODY), offline: true };
    for (const spec of [
      'other/model',
      'hf:other/model:Q5_K_M',
      'hf:other/model@v2',
      `hf:other/model@${commit}`,
    ]) {
      assert.equal((await resolveModel(spec, offline)).path, link, spec);
    }
    await assert.rejects(resolveModel('hf:other/model:Q4_0', offline), ModelUnavailableError);
  }));

test('a dangling link or a missing part does not count as cached', () =>
  withHub(async (_hub, options, space) => {
    const model = await resolveModel('hf:user/repo', options);
    fs.rmSync(fs.realpathSync(model.path));
    await assert.rejects(
      resolveModel('hf:user/repo', { ...options, offline: true }),
      (error: unknown) =>
        error instanceof ModelUnavailableError && /offline/.test(error.attempts[0]!.reason),
    );
    await resolveModel('hf:user/repo', options);
    assert.deepEqual(fs.readFileSync(model.path), Buffer.from(q4));
    assert(space.tree().length > 0);
  }));

test('with the hub out of reach a quantization that is there is used', () =>
  withHub(async (_hub, options, space) => {
    await resolveModel('hf:user/repo:Q8_0', options);
    const noNetwork = { ...options, env: space.env(NOBODY) };
    assert.equal((await resolveModel('hf:user/repo', noNetwork)).digest, sha256(q8));
    await assert.rejects(
      resolveModel('hf:user/repo', { ...noNetwork, refresh: true }),
      (error: unknown) => error instanceof NetworkError && error.fault === 'unreachable',
    );
  }));

test('fetches all parts of a split model', () =>
  withHub(async (hub, options) => {
    const parts = [1, 2, 3].map((n) => `sub/big-Q4_0-0000${n}-of-00003.gguf`);
    hub.repos.set('user/big', {
      files: Object.fromEntries(parts.map((name, index) => [name, fakeGguf(50_000, index)])),
    });
    const model = await resolveModel('hf:user/big:Q4_0', options);
    assert(model.path.endsWith(parts[0]!));
    assert.equal(model.sizeBytes, 150_000);
    assert.equal(model.digest, undefined);
    for (const part of parts) assert(fs.existsSync(join(model.path, '../..', part)), part);

    fs.rmSync(model.path.replace('00001-of', '00002-of'));
    await assert.rejects(
      resolveModel('hf:user/big:Q4_0', { ...options, offline: true }),
      ModelUnavailableError,
    );
  }));

test('fetches a sharded safetensors repository, git files checked by their git digest', () =>
  withHub(async (hub, options) => {
    const index = {
      weight_map: { a: 'model-00001-of-00002.safetensors', b: 'model-00002-of-00002.safetensors' },
    };
    const files = {
      'config.json': Buffer.from('{}'),
      'flax_model.msgpack': Buffer.from('never fetched'),
      'model-00001-of-00002.safetensors': fakeGguf(70_000, 5),
      'model-00002-of-00002.safetensors': fakeGguf(80_000, 6),
      'model.safetensors.index.json': Buffer.from(JSON.stringify(index)),
      'tokenizer.json': Buffer.from('{"a":1}'),
    };
    const small = ['config.json', 'model.safetensors.index.json', 'tokenizer.json'];
    hub.repos.set('user/st', { files, small });
    const model = await resolveModel('user/st', options);
    assert.deepEqual(
      fs.readdirSync(model.path).sort(),
      Object.keys(files).filter((name) => !name.startsWith('flax')),
    );
    assert.equal(
      fs.readlinkSync(join(model.path, 'config.json')),
      `../../blobs/${gitSha1(files['config.json'])}`,
    );
    assert.equal((await resolveModel('user/st', { ...options, offline: true })).path, model.path);

    hub.repos.set('user/bad', { files, small });
    hub.fault(/tokenizer.json/, { corrupt: true }, 9);
    await assert.rejects(resolveModel('user/bad', options), DigestError);
  }));

test('an index that names a file outside the repository is refused', () =>
  withHub(async (hub, options, space) => {
    const index = { weight_map: { a: '../../../../../evil' } };
    const files = {
      'config.json': Buffer.from('{}'),
      'model.safetensors.index.json': Buffer.from(JSON.stringify(index)),
    };
    hub.repos.set('user/evil', { files: { ...files, '../evil.gguf': q4 } });
    await assert.rejects(resolveModel('user/evil', options), ModelNotFoundError);
    assert.deepEqual(
      space.tree().filter((path) => path.includes('evil.') || path.endsWith('/evil')),
      [],
    );
  }));

test('unknown repository, revision, quantization and file say what there is', () =>
  withHub(async (_hub, options) => {
    const rejected = async (spec: string, pattern: RegExp) =>
      await assert.rejects(
        resolveModel(spec, options),
        (error: unknown) => error instanceof ModelNotFoundError && pattern.test(error.message),
        spec,
      );
    await rejected('hf:user/none', /no repository "user\/none"/);
    await rejected('hf:user/repo@v9', /revision "v9"/);
    await rejected('hf:user/repo:Q2_K', /Q2_K; available:\s+- m-Q4_K_M.gguf\s+- m-Q8_0.gguf/);
    await rejected('hf:user/repo/none.gguf', /no file "none.gguf"/);
  }));

test('a token goes to the hub and never to the host it redirects to', () =>
  withHub(async (hub, options, space) => {
    hub.token = 'hf_secret';
    await assert.rejects(
      resolveModel('hf:user/repo', options),
      (error: unknown) => error instanceof AccessError && /HF_TOKEN/.test(error.message),
    );
    const env = space.env(hub.url, { HF_TOKEN: 'hf_secret' });
    await resolveModel('hf:user/repo', { ...options, env });
    const stored = hub.requestsFor(STORAGE);
    assert.equal(stored.length, 1);
    assert.equal(stored[0]!.headers.authorization, undefined);
    assert(hub.requestsFor(/resolve/).every(({ headers }) => headers.authorization !== undefined));

    space.write('hf/token', 'hf_secret\n');
    await resolveModel('hf:user/repo:Q8_0', options); // from the file that logging in leaves
  }));

test('403 says that the token may not read the repository', () =>
  withHub(async (hub, options, space) => {
    hub.fault(/api/, { status: 403 });
    await assert.rejects(
      resolveModel('hf:user/repo', { ...options, env: space.env(hub.url, { HF_TOKEN: 'x' }) }),
      (error: unknown) =>
        error instanceof AccessError && error.status === 403 && /terms/.test(error.message),
    );
  }));

test('busy and failing answers are tried again, and Retry-After is heard', () =>
  withHub(async (hub, options) => {
    hub.fault(/api/, { status: 500 });
    hub.fault(/api/, { status: 429, headers: { 'retry-after': '0.2' } });
    hub.fault(/api/, { status: 503 });
    hub.fault(STORAGE, { status: 502 });
    const start = performance.now();
    await resolveModel('hf:user/repo', options);
    assert(performance.now() - start >= 200);
    assert.equal(hub.requestsFor(/api/).length, 4);
  }));

test('failures that do not end are given up with the status', () =>
  withHub(async (hub, options) => {
    hub.fault(/api/, { status: 500 }, 99);
    await assert.rejects(
      resolveModel('hf:user/repo', options),
      (error: unknown) => error instanceof NetworkError && error.status === 500,
    );
    assert.equal(hub.requestsFor(/api/).length, 1 + QUICK.maxRetries);
    hub.clearFaults();
    hub.fault(/api/, { status: 429, headers: { 'retry-after': '3600' } }, 99);
    await assert.rejects(resolveModel('hf:user/repo', options), /asks to wait 3600 s/);
  }));

test('a redirect from https to anything else, or without end, is refused', () =>
  withHub(async (hub, options) => {
    hub.fault(/api/, { redirect: 'ftp://127.0.0.1/x' });
    await assert.rejects(resolveModel('hf:user/repo', options), /redirects to ftp/);
    hub.fault(/api/, { redirect: '/api/models/user/repo/revision/main' }, 50);
    await assert.rejects(resolveModel('hf:user/repo', options), /redirects/);
  }));

test('ModelScope: listing, digests and ranges answered with status 200', () =>
  withHub(async (hub, options, space) => {
    hub.fault(/FilePath/, { resetAfter: 100_000 });
    const model = await resolveModel('modelscope:user/repo:Q4_K_M', options);
    assert.equal(model.source, 'modelscope');
    assert.deepEqual(fs.readFileSync(model.path), Buffer.from(q4));
    assert(model.path.startsWith(space.path('hf/hasten/modelscope/models--user--repo/snapshots')));
    const ranges = hub.requestsFor(/\/repo$/).map(({ headers }) => headers.range);
    assert.equal(ranges.length, 2);
    assert.match(ranges[1]!, /^bytes=[1-9]\d*-$/);
    assert.equal(
      (await resolveModel('modelscope:user/repo', { ...options, offline: true })).path,
      model.path,
    );
    await assert.rejects(
      resolveModel('modelscope:user/none', options),
      /no repository "user\/none"/,
    );
  }));
