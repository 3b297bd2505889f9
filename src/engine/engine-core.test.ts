import assert from 'node:assert/strict';
import test from 'node:test';
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
