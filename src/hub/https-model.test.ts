import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { test } from 'node:test';
import { FakeHub, fakeGguf, sha256 } from '../../test/fixtures/hub/fake-hub.ts';
import { QUICK, Workspace } from '../../test/fixtures/hub/workspace.ts';
import { DigestError, NetworkError } from './errors.ts';
import { type ResolveOptions, resolveModel } from './resolve.ts';

const bytes = fakeGguf(120_000, 3);

async function withHub(
  work: (hub: FakeHub, options: ResolveOptions, space: Workspace) => Promise<void>,
): Promise<void> {
  await using hub = await FakeHub.start();
  using space = new Workspace();
  hub.files.set('m.Q4_0.gguf', bytes);
  await work(hub, { env: space.env(hub.url), network: QUICK }, space);
}

test('an address is downloaded once, then found in the cache', () =>
  withHub(async (hub, options, space) => {
    const url = `${hub.url}/files/m.Q4_0.gguf?key=secret`;
    const model = await resolveModel(url, options);
    assert.deepEqual(
      [model.name, model.source, model.sizeBytes, model.digest],
      ['m.Q4_0', 'https', bytes.length, sha256(bytes)],
    );
    assert.deepEqual(fs.readFileSync(model.path), Buffer.from(bytes));
    assert.deepEqual(await resolveModel(url, { ...options, offline: true }), model);
    assert.equal(hub.requests.length, 1);
    for (const path of space.tree('hf')) {
      const absolute = space.path('hf', path);
      assert(!path.includes('secret') && !fs.readFileSync(absolute).includes('secret'), path);
    }
  }));

test('a digest in the address is checked, in the cache too', () =>
  withHub(async (hub, options) => {
    const url = `${hub.url}/files/m.Q4_0.gguf`;
    await resolveModel(`${url}#sha256=${sha256(bytes)}`, options);
    await assert.rejects(resolveModel(`${url}#sha256=${'0'.repeat(64)}`, options), DigestError);
  }));

test('what is no GGUF file, such as an error page, is not kept', () =>
  withHub(async (hub, options, space) => {
    hub.files.set('page.gguf', Buffer.from('<html>Please log in</html>'));
    await assert.rejects(
      resolveModel(`${hub.url}/files/page.gguf`, options),
      (error: unknown) => error instanceof DigestError && error.message.includes('<htm'),
    );
    assert(!space.tree('hf').some((path) => path.includes('/blobs/')));
  }));

test('all parts of a split model are fetched', () =>
  withHub(async (hub, options) => {
    const parts = ['s-00001-of-00002.gguf', 's-00002-of-00002.gguf'];
    for (const [index, name] of parts.entries()) hub.files.set(name, fakeGguf(40_000, index + 20));
    const model = await resolveModel(`${hub.url}/files/${parts[0]}`, options);
    assert.equal(model.sizeBytes, 80_000);
    assert(fs.existsSync(model.path.replace('00001-of', '00002-of')));
  }));

test('a missing file is an error with its status', () =>
  withHub(async (hub, options) => {
    await assert.rejects(
      resolveModel(`${hub.url}/files/none.gguf`, options),
      (error: unknown) => error instanceof NetworkError && error.status === 404,
    );
  }));
