import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { test } from 'node:test';
import { FakeHub, type Fault, fakeGguf, sha256 } from '../../test/fixtures/hub/fake-hub.ts';
import { QUICK, Workspace } from '../../test/fixtures/hub/workspace.ts';
import { asDiskError, type DownloadRequest, downloadBlob } from './download.ts';
import { DigestError, DiskSpaceError, NetworkError } from './errors.ts';
import type { ProgressEvent } from './progress.ts';

const bytes = fakeGguf(400_000, 7);
const digest = { algorithm: 'sha256', hex: sha256(bytes) } as const;

async function withFile(
  work: (hub: FakeHub, request: DownloadRequest, space: Workspace) => Promise<void>,
): Promise<void> {
  await using hub = await FakeHub.start();
  using space = new Workspace();
  hub.files.set('x.gguf', bytes);
  await work(
    hub,
    {
      url: `${hub.url}/files/x.gguf?key=secret`,
      blobsDir: space.path('blobs'),
      key: 'x',
      label: 'x.gguf',
      policy: QUICK,
      digest,
      sizeBytes: bytes.length,
    },
    space,
  );
}

const partial = (space: Workspace) => space.path('blobs/x.hasten.incomplete');

async function assertWhole(space: Workspace, request: DownloadRequest): Promise<void> {
  const blob = await downloadBlob(request);
  assert.deepEqual(blob, { blobName: digest.hex, sizeBytes: bytes.length });
  assert.deepEqual(fs.readdirSync(space.path('blobs')), [digest.hex]);
  assert.deepEqual(fs.readFileSync(space.path('blobs', digest.hex)), Buffer.from(bytes));
}

const BREAKS: Record<string, Fault> = {
  'a connection reset in the middle': { resetAfter: 150_000 },
  'a body that ends early': { truncateAfter: 150_000 },
  'a body that stops coming': { stallAfter: 150_000 },
};

for (const [name, fault] of Object.entries(BREAKS)) {
  test(`${name} is resumed where it broke`, () =>
    withFile(async (hub, request, space) => {
      hub.fault(/x.gguf/, fault);
      await assertWhole(space, request);
      const [first, second] = hub.requests;
      assert.equal(hub.requests.length, 2);
      assert.equal(first!.headers.range, undefined);
      assert.match(second!.headers.range!, /^bytes=[1-9]\d*-$/);
    }));

  test(`${name}, no digest known, is resumed under If-Range`, () =>
    withFile(async (hub, request, space) => {
      hub.fault(/x.gguf/, fault);
      await assertWhole(space, {
        ...request,
        digest: undefined,
        sizeBytes: fault.truncateAfter ? bytes.length : undefined,
      });
      assert.equal(hub.requests[1]!.headers['if-range'], `"${digest.hex}"`);
    }));
}

test('retries count anew after progress, and end without it', () =>
  withFile(async (hub, request, space) => {
    hub.fault(/x.gguf/, { resetAfter: 32_768 }, 10);
    await assertWhole(space, request);
    hub.requests.length = 0;
    hub.fault(/x.gguf/, { resetAfter: 0 }, 99);
    await assert.rejects(downloadBlob({ ...request, key: 'y' }), NetworkError);
    assert.equal(hub.requests.length, 1 + QUICK.maxRetries);
  }));

test('a file that changed between two runs is fetched from its beginning', () =>
  withFile(async (hub, request, space) => {
    const open = { ...request, digest: undefined, sizeBytes: undefined };
    hub.fault(/x.gguf/, { resetAfter: 150_000 }, 99);
    await assert.rejects(
      downloadBlob({ ...open, policy: { ...QUICK, maxRetries: 0 } }),
      NetworkError,
    );
    assert(fs.statSync(partial(space)).size > 0);
    hub.clearFaults();
    const changed = fakeGguf(123_456, 8);
    hub.files.set('x.gguf', changed);
    const blob = await downloadBlob(open);
    assert.equal(blob.blobName, sha256(changed));
  }));

test('a server that ignores ranges sends the whole file again', () =>
  withFile(async (hub, request, space) => {
    hub.fault(/x.gguf/, { resetAfter: 150_000 });
    hub.fault(/x.gguf/, { ignoreRange: true });
    await assertWhole(space, request);
  }));

test('wrong bytes are never kept', () =>
  withFile(async (hub, request, space) => {
    hub.fault(/x.gguf/, { corrupt: true }, 99);
    await assert.rejects(
      downloadBlob(request),
      (error: unknown) => error instanceof DigestError && error.expected === digest.hex,
    );
    assert.deepEqual(fs.readdirSync(space.path('blobs')), []);
    hub.clearFaults();
    hub.files.set('x.gguf', bytes.subarray(1));
    await assert.rejects(downloadBlob(request), DigestError); // shorter than promised
    hub.files.set('x.gguf', Buffer.concat([bytes, bytes]));
    await assert.rejects(downloadBlob(request), DigestError);
    assert(!fs.existsSync(space.path('blobs', digest.hex)));
  }));

test('a damaged remainder of an earlier run costs one more download, not an error', () =>
  withFile(async (hub, request, space) => {
    space.write('blobs/x.hasten.incomplete', Buffer.alloc(200_000, 1));
    await assertWhole(space, request);
    assert.equal(hub.requests.length, 2);
    space.write('blobs/x.hasten.incomplete', Buffer.alloc(900_000, 1)); // longer than the file
    await assertWhole(space, request);
  }));

test('a complete remainder needs no request at all', () =>
  withFile(async (hub, request, space) => {
    space.write('blobs/x.hasten.incomplete', bytes);
    const phases: string[] = [];
    await assertWhole(space, { ...request, onProgress: ({ phase }) => phases.push(phase) });
    assert.equal(hub.requests.length, 0);
    assert.deepEqual(phases, ['verifying', 'done']);
  }));

test('an abort ends at once with its reason and leaves what has come', () =>
  withFile(async (hub, request, space) => {
    hub.fault(/x.gguf/, { pieceDelayMs: 20 }, 99);
    const controller = new AbortController();
    const reason = new Error('enough');
    const onProgress = ({ receivedBytes }: ProgressEvent): void => {
      if (receivedBytes > 50_000) controller.abort(reason);
    };
    await assert.rejects(
      downloadBlob({ ...request, signal: controller.signal, onProgress }),
      reason,
    );
    const keptBytes = fs.statSync(partial(space)).size;
    assert(keptBytes > 50_000 && keptBytes < bytes.length, `${keptBytes}`);
    hub.clearFaults();
    await assertWhole(space, request);
    assert.equal(hub.requests.at(-1)!.headers.range, `bytes=${keptBytes}-`);
  }));

test('an abort while waiting for a retry ends at once', () =>
  withFile(async (hub, request) => {
    hub.fault(/x.gguf/, { status: 503, headers: { 'retry-after': '30' } });
    const start = performance.now();
    await assert.rejects(downloadBlob({ ...request, signal: AbortSignal.timeout(100) }), {
      name: 'TimeoutError',
    });
    assert(performance.now() - start < 5000);
  }));

test('no answer within the limit is a network fault', () =>
  withFile(async (hub, request) => {
    hub.fault(/x.gguf/, { responseDelayMs: 1000 }, 9);
    const policy = { ...QUICK, responseTimeoutMs: 100, unreachableRetries: 0 };
    await assert.rejects(
      downloadBlob({ ...request, policy }),
      (error: unknown) => error instanceof NetworkError && error.fault === 'unreachable',
    );
  }));

test('a file that cannot fit is refused before it is begun', () =>
  withFile(async (hub, request, space) => {
    const sizeBytes = 2 ** 52;
    hub.fault(/x.gguf/, { claimBytes: sizeBytes });
    await assert.rejects(
      downloadBlob({ ...request, sizeBytes, digest: undefined }),
      (error: unknown) =>
        error instanceof DiskSpaceError &&
        error.neededBytes === sizeBytes &&
        /MiB free/.test(error.message),
    );
    assert(!fs.existsSync(partial(space)));
    assert.equal(hub.requests.length, 1);
  }));

test('a disk that runs full is named as such', () => {
  const full = Object.assign(new Error('write failed'), { code: 'ENOSPC' });
  const error = asDiskError(full, '/some/cache', 5 * 2 ** 20);
  assert(error instanceof DiskSpaceError);
  assert.match(error.message, /no space left at \/some\/cache: 5.0 MiB more needed.*HF_HOME/);
  assert.equal(error.cause, full);
});

test(
  'a disk that runs full in the middle ends the pull at once',
  { skip: !fs.existsSync('/dev/full') && 'no /dev/full here' },
  () =>
    withFile(async (hub, request, space) => {
      fs.mkdirSync(space.path('blobs'));
      fs.symlinkSync('/dev/full', partial(space)); // every write to it fails with ENOSPC
      await assert.rejects(
        downloadBlob(request),
        (error: unknown) => error instanceof DiskSpaceError && error.neededBytes === bytes.length,
      );
      assert.equal(hub.requests.length, 1);
    }),
);

test('secrets in the address stay out of messages and of the disk', () =>
  withFile(async (hub, request, space) => {
    hub.fault(/x.gguf/, { resetAfter: 100_000 }, 99);
    await assert.rejects(
      downloadBlob({ ...request, policy: { ...QUICK, maxRetries: 0 } }),
      (error: unknown) => error instanceof NetworkError && !error.message.includes('secret'),
    );
    assert(!fs.readFileSync(`${partial(space)}.json`, 'utf8').includes('secret'));
  }));
