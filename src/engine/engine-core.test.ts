import assert from 'node:assert/strict';
import { tmpdir } from 'node:os';
import test from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { EngineCore } from './engine-core.ts';
import { prepareRequest } from './request.ts';
import { byteTokenizer } from './testing/byte-decoder.ts';
import { MockRunner } from './testing/mock-runner.ts';

function setUp() {
  const runner = new MockRunner({ isAsync: true });
  const core = new EngineCore({ runner, tokenizer: byteTokenizer, eosTokenIds: [] });
  const submit = (requestId: string): void => {
    const samplingParams = { maxTokens: 3 };
    core.submit(
      prepareRequest({ requestId, promptTokenIds: [5, 6, 7], samplingParams }, runner.limits),
    );
  };
  return { runner, core, submit };
}

test('a sequence aborted while its step is under way keeps its blocks until the step is finished', async () => {
  const { core, submit } = setUp();
  submit('a');
  const ticket = core.begin()!;
  assert.equal(core.abort('a'), true);
  assert.deepEqual(core.takeEvents(), []);
  assert.equal(core.stats().numFreeBlocks, 127);
  await ticket.wait();
  core.finish();
  const events = core.takeEvents();
  assert.deepEqual(
    events.map((event) => event.type === 'finish' && event.reason),
    ['abort'],
  );
  assert.equal(core.stats().numFreeBlocks, 128);
  assert.equal(core.abort('a'), false);
});

test('requests may come while a step is under way and take part in the next', async () => {
  const { core, submit } = setUp();
  submit('a');
  const first = core.begin()!;
  submit('b');
  await first.wait();
  core.finish();
  assert.equal(core.stats().lastStep.numSequences, 1);
  await core.begin()!.wait();
  core.finish();
  assert.equal(core.stats().lastStep.numSequences, 2);
  assert.equal(core.stats().numRunning, 2);
});

test('the halves of a step must alternate', async () => {
  const { core, submit } = setUp();
  assert.equal(core.begin(), null);
  assert.throws(() => core.finish(), /no step is under way/);
  submit('a');
  core.begin();
  assert.throws(() => core.begin(), /already under way/);
});

test('a prefix on disk is read before its request is scheduled, and a request that leaves meanwhile is over', async () => {
  const runner = new MockRunner({ limits: { numBlocks: 20 } });
  const core = new EngineCore({
    ...{ runner, tokenizer: byteTokenizer, eosTokenIds: [] },
    offload: { memoryBytes: 0, disk: { folder: tmpdir(), maxBytes: 1_000_000 } },
  });
  let numWakes = 0;
  core.onWork(() => numWakes++);
  const submit = (requestId: string, text: number): void => {
    const promptTokenIds = Array.from({ length: 24 }, (_, i) => (text * 7 + i * (text + 1)) % 40);
    const samplingParams = { maxTokens: 3 };
    core.submit(prepareRequest({ requestId, promptTokenIds, samplingParams }, runner.limits));
  };
  const run = (): void => {
    while (core.hasWork) {
      core.begin();
      core.finish();
    }
  };
  for (let text = 0; text < 12; text++) {
    submit(`first ${text}`, text);
    run();
  }
  assert.ok(core.stats().offload!.numDiskBlocks > 0);
  // Whatever is still being written need not be read.
  await setTimeout(50);
  core.takeEvents();
  submit('again', 0);
  submit('leaves', 1);
  assert.equal(core.hasWork, false);
  assert.equal(core.numUnfinished, 2);
  assert.equal(core.abort('leaves'), true);
  while (!core.hasWork) await setTimeout(1);
  assert.ok(numWakes > 0);
  run();
  const finished = core.takeEvents().filter((event) => event.type === 'finish');
  assert.deepEqual(
    finished.map(({ requestId, reason }) => [requestId, reason]),
    [
      ['leaves', 'abort'],
      ['again', 'length'],
    ],
  );
  assert.ok(finished[1]!.usage.cachedTokens >= 16);
  while (numWakes < 2) await setTimeout(1);
  assert.equal(core.numUnfinished, 0);
  core[Symbol.dispose]();
});
