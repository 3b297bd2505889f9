/** Two processes at once, and processes that are killed. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import * as fs from 'node:fs';
import { createInterface } from 'node:readline';
import { test } from 'node:test';
import { FakeHub, fakeGguf, sha256 } from '../../test/fixtures/hub/fake-hub.ts';
import { PATIENT, PULL_PROCESS, QUICK, Workspace } from '../../test/fixtures/hub/workspace.ts';
import type { NetworkPolicy } from './network-policy.ts';
import { resolveModel } from './resolve.ts';

const bytes = fakeGguf(1_500_000, 21);
const digest = sha256(bytes);
const SLOW = { pieceDelayMs: 5 };

interface Line {
  readonly phase?: string;
  readonly receivedBytes?: number;
  readonly model?: { readonly path: string; readonly digest: string };
  readonly error?: string;
}

/** A pull in its own process; `onLine` sees every event as it comes. */
function startPull(
  space: Workspace,
  hub: FakeHub,
  onLine: (line: Line) => void = () => {},
  policy: NetworkPolicy = QUICK,
): { child: ChildProcess; lines: Promise<Line[]> } {
  const child = spawn(process.execPath, [PULL_PROCESS, 'hf:user/repo', JSON.stringify(policy)], {
    env: space.variables(hub.url),
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const lines: Line[] = [];
  createInterface({ input: child.stdout! }).on('line', (text) => {
    const line = JSON.parse(text) as Line;
    lines.push(line);
    onLine(line);
  });
  return { child, lines: new Promise((resolve) => child.once('close', () => resolve(lines))) };
}

async function withHub(work: (hub: FakeHub, space: Workspace) => Promise<void>): Promise<void> {
  await using hub = await FakeHub.start();
  using space = new Workspace();
  hub.repos.set('user/repo', { files: { 'm-Q4_K_M.gguf': bytes } });
  await work(hub, space);
}

test('of two pulls at once the second waits, shows it, and finds the file there', () =>
  withHub(async (hub, space) => {
    const oneWaits = Promise.withResolvers<void>();
    hub.fault(/storage/, { until: oneWaits.promise }, 9);
    const onLine = ({ phase }: Line): void => {
      if (phase === 'waiting') oneWaits.resolve();
    };
    const pulls = [1, 2].map(() => startPull(space, hub, onLine, PATIENT));
    const results = await Promise.all(pulls.map(({ lines }) => lines));
    for (const lines of results) assert.equal(lines.at(-1)!.model?.digest, digest);
    assert.equal(hub.requestsFor(/storage/).length, 1);
    const waited = results.filter((lines) => lines.some(({ phase }) => phase === 'waiting'));
    assert.equal(waited.length, 1);
    assert.equal(
      waited[0]!.some(({ phase }) => phase === 'downloading'),
      false,
    );
  }));

test('a pull killed in the middle leaves no half file, and the next one goes on from there', () =>
  withHub(async (hub, space) => {
    hub.fault(/storage/, SLOW, 9);
    const { child, lines } = startPull(space, hub, ({ receivedBytes = 0 }) => {
      if (receivedBytes > 400_000) child.kill('SIGKILL');
    });
    const seen = await lines;
    assert.equal(seen.at(-1)!.model, undefined, 'was killed before it was done');
    assert(!space.tree('hf').some((path) => path.endsWith(digest) || path.includes('snapshots/')));

    hub.clearFaults();
    const env = space.env(hub.url);
    await assert.rejects(
      resolveModel('hf:user/repo', { env, offline: true }),
      /not in the local cache/,
    );
    const phases = new Set<string>();
    const model = await resolveModel('hf:user/repo', {
      env,
      network: QUICK,
      onProgress: ({ phase }) => phases.add(phase),
    });
    assert.equal(sha256(fs.readFileSync(model.path)), digest);
    assert(phases.has('waiting'), 'the lock of the killed process is waited out');
    const ranges = hub.requestsFor(/storage/).map(({ headers }) => headers.range);
    assert.match(ranges[1]!, /^bytes=[1-9]\d*-$/);
  }));

test('killed at any moment, whatever is under a final name is whole', () =>
  withHub(async (hub, space) => {
    hub.fault(/storage/, { pieceDelayMs: 1 }, 99);
    const blob = space.path('hf/hub/models--user--repo/blobs', digest);
    for (const delayMs of [250, 320, 390, 460]) {
      const { child, lines } = startPull(space, hub);
      const timer = setTimeout(() => child.kill('SIGKILL'), delayMs);
      await lines;
      clearTimeout(timer);
      if (fs.existsSync(blob)) assert.equal(sha256(fs.readFileSync(blob)), digest);
      fs.rmSync(space.path('hf/hub/.locks'), { recursive: true, force: true }); // do not wait it out
    }
    const { lines } = startPull(space, hub);
    assert.equal((await lines).at(-1)!.model?.digest, digest);
  }));

test('an interrupted pull gives its lock back at once', () =>
  withHub(async (hub, space) => {
    hub.fault(/storage/, SLOW, 9);
    const { child, lines } = startPull(space, hub, ({ receivedBytes = 0 }) => {
      if (receivedBytes > 100_000) child.kill('SIGINT');
    });
    await lines;
    const phases = new Set<string>();
    await resolveModel('hf:user/repo', {
      env: space.env(hub.url),
      network: QUICK,
      onProgress: ({ phase }) => phases.add(phase),
    });
    assert(!phases.has('waiting'));
  }));
