import assert from 'node:assert/strict';
import { tmpdir } from 'node:os';
import test from 'node:test';
import fc from 'fast-check';
import { Engine, type EngineOptions } from './engine.ts';
import { EngineClosedError, RequestError, RequestTooLongError } from './errors.ts';
import type { EngineEvent } from './events.ts';
import { PRIORITIES } from './priority.ts';
import type { EngineRequest } from './request.ts';
import type { RequestResult } from './request-handle.ts';
import { byteTokenizer } from './testing/byte-decoder.ts';
import { MockRunner, type MockRunnerOptions } from './testing/mock-runner.ts';

const EOS = [0, 1];

function engineOf(
  runnerOptions: MockRunnerOptions = {},
  options: Partial<EngineOptions> = {},
): { engine: Engine; runner: MockRunner } {
  const runner = new MockRunner(runnerOptions);
  const engine = new Engine({ runner, tokenizer: byteTokenizer, eosTokenIds: EOS, ...options });
  return { engine, runner };
}

/** Makes texts repeat themselves, mostly, so that there is something to draft. */
const repeatLogits: MockRunnerOptions['editLogits'] = (logits, context) => {
  const next = context.at(-5);
  if (next !== undefined && context.length % 13 !== 0) logits[next]! += 7;
};

/** What a result must be equal in, however it came about. */
function outcome({ tokenIds, text, finish }: RequestResult): unknown {
  const { reason, stopReason } = finish;
  return { tokenIds, text, reason, stopReason };
}

/** The same request on an engine of its own that does one token per step: the slowest, plainest way there is. */
async function runAlone(
  request: EngineRequest,
  editLogits?: MockRunnerOptions['editLogits'],
): Promise<RequestResult> {
  const { engine } = engineOf(
    { limits: { maxTokens: 1, maxSeqs: 1, maxLogitRows: 1 }, ...(editLogits && { editLogits }) },
    { hasPrefixCache: false, speculation: 'off' },
  );
  return engine.submit(request).collect();
}

const requestArbitrary = fc.record({
  promptTokenIds: fc.oneof(
    fc.array(fc.nat({ max: 39 }), { minLength: 1, maxLength: 40, size: 'max' }),
    // Prompts with much in common, so that blocks are shared.
    fc.integer({ min: 1, max: 24 }).map((n) => Array.from({ length: n }, (_, i) => i % 7)),
  ),
  samplingParams: fc.record({
    temperature: fc.constantFrom(0, 0.5, 1, 2),
    topK: fc.constantFrom(0, 0, 3),
    topP: fc.constantFrom(1, 1, 0.8),
    seed: fc.nat(),
    maxTokens: fc.integer({ min: 1, max: 30 }),
    repetitionPenalty: fc.constantFrom(1, 1, 1.5),
    presencePenalty: fc.constantFrom(0, 0, 1),
    stop: fc.constantFrom([], [], ['a'], ['é', 'zz'], ['12', '3é']),
    ignoreEos: fc.boolean(),
  }),
});

const setupArbitrary = fc.record({
  maxTokens: fc.constantFrom(1, 3, 8, 64),
  maxSeqs: fc.constantFrom(1, 2, 5, 16),
  maxLogitRows: fc.constantFrom(1, 4, 16),
  blockSize: fc.constantFrom(1, 2, 4, 16),
  /** Blocks beyond what the largest request takes alone. */
  numSpareBlocks: fc.constantFrom(0, 1, 5, 40),
  hasPrefixCache: fc.boolean(),
  isAsync: fc.boolean(),
  minTokens: fc.constantFrom(1, 4),
  speculation: fc.constantFrom<'ngram' | 'model' | 'off'>(
    'ngram',
    'ngram',
    'model',
    'model',
    'off',
  ),
  numDraftBlocks: fc.constantFrom(3, 40, 200),
  isRepetitive: fc.boolean(),
  /** Blocks of memory and disk beyond the pool; `null`: neither. */
  offload: fc.option(
    fc.record({ memory: fc.constantFrom(0, 1, 9), disk: fc.constantFrom(1, 6, 80) }),
  ),
  hasPins: fc.boolean(),
  /** Jumps to and fro now and then, as no clock should. */
  hasBadClock: fc.boolean(),
  /** From hardly any time and service between two changes of mind to plenty. */
  patience: fc.constantFrom(1, 10, 1000),
});

test('any mix of requests, pool and limits: each gives what it gives alone, and nothing is lost', async () => {
  let numRestored = 0;
  await fc.assert(
    fc.asyncProperty(
      setupArbitrary,
      fc.array(
        fc.record({
          request: requestArbitrary,
          priority: fc.constantFrom(...PRIORITIES),
          tenant: fc.constantFrom('', 'a'),
          /** Step before which it comes, and after how many of its events it is aborted. */
          arrival: fc.nat({ max: 30 }),
          abortAfter: fc.option(fc.nat({ max: 12 }), { freq: 4 }),
        }),
        { minLength: 1, maxLength: 10, size: 'max' },
      ),
      async (setup, planned) => {
        const { numSpareBlocks, blockSize, isAsync, hasPrefixCache, minTokens, ...rest } = setup;
        const {
          speculation,
          numDraftBlocks,
          isRepetitive,
          patience,
          offload,
          hasPins,
          hasBadClock,
          ...sizes
        } = rest;
        const draftLimits = { ...sizes, maxSeqs: 16, maxTokens: 64, numBlocks: numDraftBlocks };
        const draftRunner =
          speculation === 'model' ? new MockRunner({ limits: draftLimits, spread: 30 }) : null;
        const editLogits = isRepetitive ? repeatLogits : undefined;
        let nowMs = 0;
        const largest = Math.max(
          ...planned.map(
            ({ request }) => request.promptTokenIds.length + request.samplingParams.maxTokens - 1,
          ),
        );
        const numBlocks = Math.ceil(largest / blockSize) + numSpareBlocks;
        const { engine, runner } = engineOf(
          {
            limits: { ...sizes, blockSize, numBlocks },
            isAsync,
            ...(editLogits && { editLogits }),
          },
          {
            hasPrefixCache,
            pacing: { minTokens, targetStepMs: 0, maxStepMs: 0 },
            ...(offload !== null && {
              offload: {
                memoryBytes: offload.memory * 8 * blockSize,
                disk: { folder: tmpdir(), maxBytes: offload.disk * 8 * blockSize },
              },
            }),
            speculation: speculation === 'off' ? 'off' : 'ngram',
            draftRunner,
            priorities: {
              sinkTokens: 2 * patience,
              climbMs: patience,
              maxPauseMs: patience,
              starvationMs: 3 * patience,
              escortTokens: 4,
            },
            // All steps take the same time, so whatever is found is drafted.
            now: () => {
              nowMs++;
              if (!hasBadClock || nowMs % 37 > 0) return nowMs;
              return nowMs + (nowMs % 2 === 0 ? 1e9 : -1e9);
            },
          },
        );
        const pinned = !hasPins
          ? Promise.resolve()
          : engine.calls.pinPrefix({ tokenIds: [0, 1, 2, 3, 4, 5, 6, 0, 1, 2] }).catch((error) => {
              assert.ok(error instanceof RequestError);
            });
        const results = await Promise.all(
          planned.map(async ({ request, priority, tenant, arrival, abortAfter }) => {
            while (runner.numSteps < arrival && (await engine.stats()).numRunning > 0) {
              await new Promise((resolve) => setImmediate(resolve));
            }
            const handle = engine.submit({ ...request, priority, tenant });
            if (abortAfter === 0) handle.abort();
            const events: EngineEvent[] = [];
            for await (const event of handle) {
              events.push(event);
              if (events.length === abortAfter) handle.abort();
            }
            return events;
          }),
        );
        for (const [index, events] of results.entries()) {
          const { request, abortAfter } = planned[index]!;
          const alone = await runAlone(request, editLogits);
          const tokens = events.filter((event) => event.type === 'token');
          const finish = events.at(-1)!;
          assert.ok(finish.type === 'finish');
          assert.equal(tokens.length, events.length - 1, 'one finish event, and it is the last');
          const tokenIds = tokens.map(({ tokenId }) => tokenId);
          const text = events.map((event) => event.text).join('');
          assert.ok(tokenIds.length <= request.samplingParams.maxTokens);
          assert.equal(finish.usage.completionTokens, tokenIds.length);
          assert.equal(finish.usage.promptTokens, request.promptTokenIds.length);
          if (finish.reason === 'abort') {
            assert.notEqual(abortAfter, null);
            assert.deepEqual(tokenIds, alone.tokenIds.slice(0, tokenIds.length));
          } else {
            assert.deepEqual(outcome({ tokenIds, text, finish }), outcome(alone));
          }
        }
        await pinned;
        const stats = await engine.stats();
        assert.equal(stats.numFreeBlocks, numBlocks - stats.numPinnedBlocks);
        assert.equal(stats.numRunning + stats.numWaiting, 0);
        assert.equal(stats.offload?.diskFault ?? null, null);
        numRestored += stats.offload?.numRestored ?? 0;
        const { stop, length, abort, error } = stats.numFinished;
        assert.ok(stop + length + abort >= planned.length);
        assert.equal(error, 0);
        await engine.close();
      },
    ),
    { numRuns: 150 },
  );
  assert.ok(numRestored > 0, 'blocks were meant to leave the pool and come back');
});

test('requests share steps, and a pool too small for all of them preempts', async () => {
  const { engine, runner } = engineOf({ limits: { numBlocks: 24, maxTokens: 64 } });
  const requests = Array.from({ length: 6 }, (_, i) => ({
    promptTokenIds: [i + 2, 5, 6, 7],
    samplingParams: { maxTokens: 60, seed: i, ignoreEos: true },
  }));
  const results = await Promise.all(requests.map((request) => engine.submit(request).collect()));
  for (const [i, result] of results.entries()) {
    assert.deepEqual(outcome(result), outcome(await runAlone(requests[i]!)));
  }
  const stats = await engine.stats();
  assert.ok(stats.numPreemptions > 0, 'the pool was meant to run out');
  assert.ok(runner.maxSeqsSeen > 1);
  assert.ok(stats.numSteps < 6 * 60, `${stats.numSteps} steps for 360 tokens`);
});

test('running streams get a token in every step while a long prompt is taken in', async () => {
  const { engine, runner } = engineOf(
    { limits: { maxTokens: 64, maxModelLen: 2000, numBlocks: 800 } },
    { pacing: { minTokens: 8, targetStepMs: 0, maxStepMs: 0 } },
  );
  const stream = engine.submit({
    promptTokenIds: [3],
    samplingParams: { maxTokens: 100, ignoreEos: true },
  });
  const reader = stream[Symbol.asyncIterator]();
  await reader.next();
  const long = engine.submit({
    promptTokenIds: Array.from({ length: 400 }, (_, i) => i % 40),
    samplingParams: { maxTokens: 1, ignoreEos: true },
  });
  const stepsBefore = runner.numSteps;
  for (let i = 0; i < 30; i++) await reader.next();
  assert.ok(runner.numSteps - stepsBefore <= 31, 'a step without the stream');
  assert.ok(!long.isFinished, 'the prompt was to be taken in small pieces');
  assert.equal((await long.finished).usage.completionTokens, 1);
  await reader.return?.();
  assert.equal((await stream.finished).reason, 'abort');
});

test('a prompt seen before comes from the cache, but for its last token', async () => {
  const { engine, runner } = engineOf({ limits: { maxTokens: 64, blockSize: 4 } });
  const promptTokenIds = Array.from({ length: 24 }, (_, i) => i + 3);
  const request = { promptTokenIds, samplingParams: { maxTokens: 5, temperature: 0 } };
  const first = await engine.submit(request).collect();
  const before = await engine.stats();
  const second = await engine.submit(request).collect();
  assert.deepEqual(outcome(second), outcome(first));
  assert.equal(first.finish.usage.cachedTokens, 0);
  assert.equal(second.finish.usage.cachedTokens, 23);
  assert.equal(runner.numCopiedBlocks, 1, 'the last block is written to, so it is copied');
  assert.equal((await engine.stats()).numPromptTokens - before.numPromptTokens, 1);
  const other = await engine
    .submit({ ...request, promptTokenIds: [...promptTokenIds.slice(0, 9), 2, 2, 2, 2] })
    .collect();
  assert.equal(other.finish.usage.cachedTokens, 8);
});

test('EOS ids end the output and are in neither ids nor text; with ignoreEos they are ordinary', async () => {
  const forced = [7, 8, 0, 9];
  const editLogits = (logits: Float32Array, context: readonly number[]): void => {
    logits[forced[context.length - 1] ?? 9] = 50;
  };
  const request = { promptTokenIds: [5], samplingParams: { temperature: 0, maxTokens: 4 } };
  const { engine } = engineOf({ editLogits });
  const stopped = await engine.submit(request).collect();
  assert.deepEqual(outcome(stopped), {
    tokenIds: [7, 8],
    text: '78',
    reason: 'stop',
    stopReason: null,
  });
  const ignoring = { ...request, samplingParams: { ...request.samplingParams, ignoreEos: true } };
  assert.deepEqual(outcome(await engine.submit(ignoring).collect()), {
    tokenIds: [7, 8, 0, 9],
    text: '7809',
    reason: 'length',
    stopReason: null,
  });
  const byId = { ...ignoring, samplingParams: { ...ignoring.samplingParams, stopTokenIds: [8] } };
  assert.deepEqual(outcome(await engine.submit(byId).collect()), {
    tokenIds: [7],
    text: '7',
    reason: 'stop',
    stopReason: 8,
  });
});

test('text of a stop string is held back over tokens, and released when it becomes another', async () => {
  const forced = [10, 11, 12, 10, 11, 13, 14];
  const editLogits = (logits: Float32Array, context: readonly number[]): void => {
    logits[forced[context.length - 1]!] = 50;
  };
  const { engine } = engineOf({ editLogits });
  const shown: string[] = [];
  const handle = engine.submit({
    promptTokenIds: [5],
    samplingParams: { temperature: 0, stop: 'abd', maxTokens: 7 },
  });
  for await (const event of handle) shown.push(event.text);
  assert.deepEqual(shown, ['', '', 'abc', '', '', '', '']);
  const { reason, stopReason, usage } = await handle.finished;
  assert.deepEqual([reason, stopReason, usage.completionTokens], ['stop', 'abd', 6]);
});

test('half a character is shown when its other half comes, or as a replacement at the end', async () => {
  const { engine } = engineOf({
    editLogits: (logits, context) => {
      logits[[36, 37, 36][context.length - 1]!] = 50;
    },
  });
  const shown: string[] = [];
  const handle = engine.submit({
    promptTokenIds: [5],
    samplingParams: { temperature: 0, maxTokens: 3 },
  });
  for await (const event of handle) shown.push(event.text);
  assert.deepEqual(shown, ['', 'é', '', '\ufffd']);
});

test('logprobs are those of the model, whatever penalties and temperature do to the draw', async () => {
  const rows: Float32Array[] = [];
  const { engine } = engineOf({ editLogits: (logits) => rows.push(logits.slice()) });
  const handle = engine.submit({
    promptTokenIds: [5, 6],
    samplingParams: {
      temperature: 0.7,
      logitBias: { 9: 100 },
      presencePenalty: 1,
      repetitionPenalty: 1.4,
      maxTokens: 6,
      logprobs: 3,
      seed: 1,
    },
  });
  let index = 0;
  for await (const event of handle) {
    if (event.type !== 'token') continue;
    const logits = rows[index++]!;
    const total = logits.reduce((sum, logit) => sum + Math.exp(logit), 0);
    const expected = Array.from(logits, (logit) => logit - Math.log(total));
    const best = [...logits.keys()].sort((a, b) => logits[b]! - logits[a]!).slice(0, 3);
    assert.ok(Math.abs(event.logprob! - expected[event.tokenId]!) < 1e-5);
    assert.deepEqual(
      event.topLogprobs!.map(({ tokenId }) => tokenId),
      best,
    );
    for (const { tokenId, logprob } of event.topLogprobs!) {
      assert.ok(Math.abs(logprob - expected[tokenId]!) < 1e-5);
    }
  }
  assert.equal(index, 6);
});

test('penalties count the output as it grows', async () => {
  const { engine } = engineOf({ spread: 0.4 });
  const samplingParams = { temperature: 0, maxTokens: 38, ignoreEos: true };
  const request = { promptTokenIds: [5], samplingParams };
  const plain = await engine.submit(request).collect();
  assert.ok(new Set(plain.tokenIds).size < 38, 'without a penalty some token repeats');
  for (const penalty of [{ presencePenalty: 2 }, { frequencyPenalty: 2 }]) {
    const result = await engine
      .submit({ ...request, samplingParams: { ...samplingParams, ...penalty } })
      .collect();
    assert.equal(new Set(result.tokenIds).size, 38);
  }
});

test('output goes on from given tokens as if it had never stopped', async () => {
  const base: EngineRequest = {
    promptTokenIds: [4, 5, 6],
    samplingParams: {
      seed: 99,
      maxTokens: 40,
      stop: ['qq', '12é'],
      frequencyPenalty: 0.5,
      ignoreEos: true,
    },
  };
  const whole = await runAlone(base);
  for (const cut of [1, 7, whole.tokenIds.length - 1]) {
    const { engine } = engineOf();
    const rest = await engine
      .submit({ ...base, outputTokenIds: whole.tokenIds.slice(0, cut) })
      .collect();
    assert.deepEqual([...whole.tokenIds.slice(0, cut), ...rest.tokenIds], whole.tokenIds);
    assert.ok(whole.text.endsWith(rest.text));
    assert.equal(rest.finish.usage.completionTokens, whole.tokenIds.length);
  }
});

test('requests that can never fit are refused with the numbers', () => {
  const { engine } = engineOf({ limits: { maxModelLen: 100, numBlocks: 10, blockSize: 4 } });
  const prompt = (length: number): number[] => new Array(length).fill(3);
  assert.throws(
    () => engine.submit({ promptTokenIds: prompt(30), samplingParams: { maxTokens: 12 } }),
    (error: unknown) =>
      error instanceof RequestTooLongError &&
      /30 prompt tokens and maxTokens 12 make 42, but the KV cache of 10 blocks x 4/.test(
        error.message,
      ) &&
      error.maxSequenceTokens === 41,
  );
  const { engine: roomy } = engineOf({ limits: { maxModelLen: 100, numBlocks: 100 } });
  assert.throws(() => roomy.submit({ promptTokenIds: prompt(100) }), /context length of 100/);
});

test('without maxTokens the output may fill what is left', async () => {
  const { engine } = engineOf({ limits: { maxModelLen: 20, numBlocks: 100 } });
  const samplingParams = { ignoreEos: true, temperature: 0 };
  const result = await engine.submit({ promptTokenIds: [1, 2, 3], samplingParams }).collect();
  assert.equal(result.tokenIds.length, 17);
  assert.equal(result.finish.reason, 'length');
});

test('wrong requests are refused by name', async () => {
  const { engine } = engineOf();
  const refused = (request: unknown, param: string): void => {
    assert.throws(
      () => engine.submit(request as EngineRequest),
      (error: unknown) => error instanceof RequestError && error.param === param,
    );
  };
  refused({ promptTokenIds: [] }, 'promptTokenIds');
  refused({ promptTokenIds: [40] }, 'promptTokenIds');
  refused({ promptTokenIds: [1.5] }, 'promptTokenIds');
  refused({ promptTokenIds: 'text' }, 'promptTokenIds');
  refused({ promptTokenIds: [1], top_k: 3 }, 'top_k');
  refused({ promptTokenIds: [1], requestId: 7 }, 'requestId');
  const full = { promptTokenIds: [1], outputTokenIds: [2], samplingParams: { maxTokens: 1 } };
  refused(full, 'outputTokenIds');
  const first = engine.submit({ promptTokenIds: [1], requestId: 'same' });
  refused({ promptTokenIds: [1], requestId: 'same' }, 'requestId');
  first.abort();
  await first.finished;
  assert.equal((await engine.stats()).numFreeBlocks, 128);
});

test('a failing step ends its requests with an error and leaves the engine usable', async () => {
  for (const isAsync of [false, true]) {
    const { engine } = engineOf({
      isAsync,
      onStep: (step) => {
        if (step === 2) throw new Error('the device is gone');
      },
    });
    const request = { promptTokenIds: [5, 6], samplingParams: { maxTokens: 9, ignoreEos: true } };
    const failed = await engine.submit(request).collect();
    assert.equal(failed.finish.reason, 'error');
    assert.deepEqual(failed.finish.error, { code: 'internal', message: 'the device is gone' });
    assert.equal(failed.tokenIds.length, 2);
    assert.equal((await engine.submit(request).collect()).finish.reason, 'length');
    assert.equal((await engine.stats()).numFreeBlocks, 128);
  }
});

test('NaN logits end only the request that they belong to', async () => {
  const { engine } = engineOf({
    editLogits: (logits, context) => {
      if (context[0] === 7 && context.length === 4) logits.fill(Number.NaN);
    },
  });
  const samplingParams = { maxTokens: 9, ignoreEos: true, temperature: 0 };
  const [bad, good] = await Promise.all(
    [7, 8].map((id) => engine.submit({ promptTokenIds: [id], samplingParams }).collect()),
  );
  assert.equal(bad!.finish.error?.code, 'bad_logits');
  assert.equal(bad!.tokenIds.length, 3);
  assert.equal(good!.finish.reason, 'length');
});

test('abort: by handle, by signal, by leaving the loop, and by closing; blocks are free at once', async () => {
  const { engine } = engineOf();
  const samplingParams = { maxTokens: 200, ignoreEos: true };
  const submit = (signal?: AbortSignal) =>
    engine.submit({ promptTokenIds: [5, 6], samplingParams }, { ...(signal && { signal }) });
  const early = submit(AbortSignal.abort());
  assert.equal((await early.finished).timings.queueMs, null);

  const controller = new AbortController();
  const bySignal = submit(controller.signal);
  const byLeaving = submit();
  for await (const event of byLeaving) if (event.type === 'token') break;
  controller.abort();
  assert.equal((await engine.stats()).numFreeBlocks, 128);
  assert.equal((await bySignal.finished).reason, 'abort');
  assert.equal((await byLeaving.finished).reason, 'abort');

  const byClosing = submit();
  await engine.close();
  assert.equal((await byClosing.finished).reason, 'abort');
  assert.throws(() => submit(), EngineClosedError);
});

test('an abort while a step is under way waits for the step, then frees the blocks', async () => {
  for (const isAsync of [false, true]) {
    let abort: (() => void) | null = null;
    const { engine } = engineOf({ isAsync, onStep: (step) => step === 3 && abort?.() });
    const samplingParams = { maxTokens: 20, ignoreEos: true };
    const handle = engine.submit({ promptTokenIds: [5, 6], samplingParams });
    abort = () => {
      handle.abort();
      assert.ok(!handle.isFinished);
    };
    const { tokenIds, finish } = await handle.collect();
    assert.equal(finish.reason, 'abort');
    assert.equal(tokenIds.length, 3);
    assert.equal((await engine.stats()).numFreeBlocks, 128);
  }
});

test('closing with drain lets requests finish', async () => {
  const { engine } = engineOf();
  const handle = engine.submit({
    promptTokenIds: [5],
    samplingParams: { maxTokens: 20, ignoreEos: true },
  });
  await engine.close({ drain: true });
  assert.equal((await handle.finished).reason, 'length');
});

test('timings add up', async () => {
  let nowMs = 0;
  const { engine } = engineOf({ onStep: () => (nowMs += 10) }, { now: () => nowMs });
  const samplingParams = { maxTokens: 5, ignoreEos: true };
  const { finish } = await engine.submit({ promptTokenIds: [5, 6], samplingParams }).collect();
  assert.deepEqual(finish.timings, {
    queueMs: 0,
    promptMs: 10,
    ttftMs: 10,
    outputMs: 40,
    totalMs: 50,
  });
});

test('the time of day may jump as it likes: no text, no timing and no turn depends on it', async () => {
  const realNow = Date.now;
  const requests = Array.from({ length: 6 }, (_, i) => ({
    promptTokenIds: [i + 2, 5, 6, 7],
    samplingParams: { maxTokens: 40, seed: i, ignoreEos: true },
    priority: PRIORITIES[i % PRIORITIES.length]!,
  }));
  const run = async () => {
    const { engine } = engineOf({ limits: { numBlocks: 24, maxTokens: 64 } });
    const results = await Promise.all(requests.map((request) => engine.submit(request).collect()));
    await engine.close();
    return results;
  };
  const expected = await run();
  let numCalls = 0;
  Date.now = () => realNow() + (++numCalls % 2 === 0 ? 1e12 : -1e12);
  try {
    const startMs = performance.now();
    const results = await run();
    const tookMs = performance.now() - startMs;
    assert.deepEqual(results.map(outcome), expected.map(outcome));
    for (const { finish } of results) {
      for (const ms of Object.values(finish.timings)) {
        assert.ok(ms !== null && ms >= 0 && ms <= tookMs, `${ms} of ${tookMs} ms`);
      }
    }
  } finally {
    Date.now = realNow;
  }
});
