import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { EngineApi } from '../engine/engine.ts';
import { EngineClosedError } from '../engine/errors.ts';
import { DEFAULT_SAMPLING_PARAMS } from '../engine/sampling-params.ts';
import { EngineStartError } from './engine-host.ts';
import type { EngineSetup } from './engine-setup.ts';
import { EngineSupervisor, restartPauseMs, type SupervisorEvent } from './engine-supervisor.ts';
import { OpenedModel } from './open-model.ts';
import { tokenTextOf } from './token-text.ts';

const TINY = fileURLToPath(new URL('../../assets/models/tiny', import.meta.url));
const setup: EngineSetup = {
  path: TINY,
  target: 'reference',
  precision: 'f32',
  threads: 1,
  planCacheFolder: null,
};
const CONNECT = { defaults: DEFAULT_SAMPLING_PARAMS, tokenText: null, eosTokenIds: [2] };
const greedy = { temperature: 0, maxTokens: 120, ignoreEos: true } as const;

async function supervised(timeoutMs: number | null = null): Promise<{
  supervisor: EngineSupervisor;
  engine: EngineApi;
  events: SupervisorEvent[];
}> {
  const events: SupervisorEvent[] = [];
  const supervisor = new EngineSupervisor({ onEvent: (event) => events.push(event), timeoutMs });
  supervisor.open(setup);
  return { supervisor, engine: await supervisor.connect(CONNECT), events };
}

describe('an engine in a process of its own', () => {
  test('killed in the middle of 16 streams, gives each the same tokens as undisturbed', async () => {
    const { supervisor, engine, events } = await supervised();
    await using _ = supervisor;
    const requests = Array.from({ length: 16 }, (_, i) => ({
      promptTokenIds: [1, 5 + i, 6, 7 + (i % 3)],
      // Half of them sampled: numbers drawn depend on seed and place only.
      samplingParams: i % 2 ? greedy : { ...greedy, temperature: 1, seed: i },
    }));
    const undisturbed = await Promise.all(requests.map((one) => engine.submit(one).collect()));
    const handles = requests.map((one) => engine.submit(one));
    const before = supervisor.pid!;
    let numTokens = 0;
    const disturbed = await Promise.all(
      handles.map(async (handle) => {
        const tokenIds: number[] = [];
        for await (const event of handle) {
          if (event.type === 'finish') assert.equal(event.usage.completionTokens, 120);
          else tokenIds.push(event.tokenId);
          if (++numTokens === 16 * 20) process.kill(before, 'SIGKILL');
        }
        return tokenIds;
      }),
    );
    assert.deepEqual(
      disturbed,
      undisturbed.map(({ tokenIds }) => tokenIds),
    );
    assert.notEqual(supervisor.pid, before);
    assert.deepEqual(
      events.map(({ type }) => type),
      ['died', 'restarted'],
    );
    assert.match((events[0] as { reason: string }).reason, /SIGKILL/);
    assert.ok((events[1] as { numResumed: number }).numResumed > 0);
    const stats = await engine.stats();
    assert.equal(stats.numFreeBlocks, stats.numBlocks);
  });

  test('stopped in the middle of streams, is ended and started again, and each goes on', async () => {
    const { supervisor, engine, events } = await supervised(1500);
    await using _ = supervisor;
    const requests = [0, 1, 2].map((i) => ({
      promptTokenIds: [1, 5 + i, 6],
      samplingParams: { ...greedy, temperature: i, seed: i },
    }));
    const undisturbed = await Promise.all(requests.map((one) => engine.submit(one).collect()));
    const handles = requests.map((one) => engine.submit(one));
    const before = supervisor.pid!;
    let isStopped = false;
    const disturbed = await Promise.all(
      handles.map(async (handle) => {
        const tokenIds: number[] = [];
        for await (const event of handle) {
          if (event.type === 'token') tokenIds.push(event.tokenId);
          if (!isStopped && tokenIds.length === 20) process.kill(before, 'SIGSTOP');
          isStopped ||= tokenIds.length === 20;
        }
        return tokenIds;
      }),
    );
    assert.deepEqual(
      disturbed,
      undisturbed.map(({ tokenIds }) => tokenIds),
    );
    assert.notEqual(supervisor.pid, before);
    const [died] = events;
    assert.ok(died?.type === 'died');
    assert.match(died.reason, /no progress for 1.5 s/);
    assert.throws(() => process.kill(before, 0), /ESRCH/);
  });

  test('killed under a grammar, goes on in the grammar, and compiles what was being compiled', async () => {
    using opened = new OpenedModel(TINY);
    const { tokenizer, eosTokenIds } = opened;
    await using supervisor = new EngineSupervisor();
    supervisor.open(setup);
    const engine = await supervisor.connect({
      ...{ defaults: DEFAULT_SAMPLING_PARAMS, eosTokenIds },
      tokenText: tokenTextOf(tokenizer!),
    });
    const request = {
      promptTokenIds: [1, 6, 7],
      grammar: { type: 'regex', regex: '([a-z]{4}-){20}' } as const,
      samplingParams: { seed: 3, maxTokens: 150 },
    };
    const undisturbed = await engine.submit(request).collect();
    assert.match(undisturbed.text, /^([a-z]{4}-){20}$/);
    const handle = engine.submit(request);
    let numTokens = 0;
    let text = '';
    for await (const event of handle) {
      text += event.text;
      if (++numTokens === 30) process.kill(supervisor.pid!, 'SIGKILL');
    }
    assert.equal(text, undisturbed.text);
    const other = { ...request, grammar: { type: 'choice', choice: ['one', 'two'] } as const };
    const waiting = engine.submit(other).collect();
    process.kill(supervisor.pid!, 'SIGKILL');
    assert.match((await waiting).text, /^(one|two)$/);
    assert.equal(supervisor.numRestarts, 2);
  });

  test('says why a model cannot be loaded, without trying again', async () => {
    const supervisor = new EngineSupervisor();
    supervisor.open({ ...setup, maxModelLen: 4000 });
    await assert.rejects(supervisor.connect(CONNECT), (error: Error) => {
      assert.ok(error instanceof EngineStartError);
      assert.equal(error.code, 'does_not_fit');
      assert.match(error.message, /4000.*256/);
      return true;
    });
    assert.equal(supervisor.numRestarts, 0);
  });

  test('can be given up while it loads', async () => {
    const controller = new AbortController();
    const supervisor = new EngineSupervisor();
    supervisor.open(setup, { signal: controller.signal });
    const connecting = supervisor.connect(CONNECT);
    controller.abort(new RangeError('enough'));
    await assert.rejects(connecting, RangeError);
  });

  test('ends running requests and its process when it is disposed of, also while it restarts', async () => {
    const { supervisor, engine } = await supervised();
    const handle = engine.submit({ promptTokenIds: [1, 5], samplingParams: greedy });
    process.kill(supervisor.pid!, 'SIGKILL');
    await setTimeout(5);
    await supervisor[Symbol.asyncDispose]();
    assert.equal((await handle.finished).reason, 'abort');
    assert.throws(() => engine.submit({ promptTokenIds: [1] }), EngineClosedError);
    assert.throws(() => process.kill(supervisor.pid!, 0), /ESRCH/);
  });

  test('is not ended by the signals that a terminal sends to all processes', async () => {
    const { supervisor, engine } = await supervised();
    await using _ = supervisor;
    process.kill(supervisor.pid!, 'SIGINT');
    process.kill(supervisor.pid!, 'SIGTERM');
    const { finish } = await engine
      .submit({ promptTokenIds: [1, 5], samplingParams: greedy })
      .collect();
    assert.equal(finish.reason, 'length');
    assert.equal(supervisor.numRestarts, 0);
  });
});

test('restarts at once, then with pauses that double up to ten seconds', () => {
  assert.deepEqual(
    [1, 2, 3, 4, 5, 6, 7, 8, 20].map(restartPauseMs),
    [0, 250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000],
  );
});
