/** Priorities and fair shares as the whole engine gives them, on a clock that only steps move. */
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { EngineCore, type EngineCoreOptions } from './engine-core.ts';
import { type EngineRequest, prepareRequest } from './request.ts';
import { byteTokenizer } from './testing/byte-decoder.ts';
import { MockRunner } from './testing/mock-runner.ts';

interface Arrival {
  readonly atMs: number;
  readonly request: EngineRequest & { readonly requestId: string };
}

interface Served {
  readonly ttftMs: number;
  readonly finishedAtMs: number;
}

const LIMITS = { maxTokens: 64, maxSeqs: 12, maxLogitRows: 12, maxModelLen: 400, numBlocks: 400 };

/**
 * Serves requests as they arrive.
 *
 * @param onFinish may give a request more, for clients that always have one open
 */
function serve(
  arrivals: readonly Arrival[],
  options: Partial<EngineCoreOptions> = {},
  onFinish: (requestId: string, nowMs: number) => Arrival | null = () => null,
): { served: Map<string, Served>; longestStepMs: number; endMs: number; core: EngineCore } {
  let nowMs = 0;
  let longestStepMs = 0;
  const runner = new MockRunner({
    limits: LIMITS,
    onStep: (_, batch) => {
      // Weights are read once per step, and each token costs its share.
      const stepMs = 5 + 0.6 * batch.numTokens;
      longestStepMs = Math.max(longestStepMs, stepMs);
      nowMs += stepMs;
    },
  });
  const core = new EngineCore({
    runner,
    tokenizer: byteTokenizer,
    eosTokenIds: [],
    now: () => nowMs,
    speculation: 'off',
    ...options,
  });
  const queue = [...arrivals].sort((a, b) => a.atMs - b.atMs);
  const arrivedAtMs = new Map<string, number>();
  const firstAtMs = new Map<string, number>();
  const served = new Map<string, Served>();
  while (queue.length > 0 || core.hasWork) {
    if (!core.hasWork) nowMs = Math.max(nowMs, queue[0]!.atMs);
    while (queue.length > 0 && queue[0]!.atMs <= nowMs) {
      const { atMs, request } = queue.shift()!;
      arrivedAtMs.set(request.requestId, atMs);
      core.submit(prepareRequest(request, runner.limits));
    }
    core.begin();
    core.finish();
    for (const event of core.takeEvents()) {
      const { requestId } = event;
      if (event.type === 'token') {
        if (!firstAtMs.has(requestId)) firstAtMs.set(requestId, nowMs);
        continue;
      }
      assert.equal(event.reason, 'length');
      const ttftMs = firstAtMs.get(requestId)! - arrivedAtMs.get(requestId)!;
      served.set(requestId, { ttftMs, finishedAtMs: nowMs });
      const next = onFinish(requestId, nowMs);
      if (next !== null) queue.unshift(next);
    }
  }
  return { served, longestStepMs, endMs: nowMs, core };
}

/** A request whose prompt is like no other. */
function requestOf(
  requestId: string,
  numPromptTokens: number,
  maxTokens: number,
  more: Partial<EngineRequest>,
): Arrival['request'] {
  const salt = [...requestId].reduce((sum, c) => Math.imul(sum, 31) + c.charCodeAt(0), 7);
  const promptTokenIds = Array.from(
    { length: numPromptTokens },
    (_, i) => (Math.imul(salt + i * i, 0x9e3779b1) >>> 16) % 40,
  );
  return { requestId, promptTokenIds, samplingParams: { temperature: 0, maxTokens }, ...more };
}

function percentile(values: number[], share: number): number {
  const sorted = values.sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]!;
}

test('with the machine full of low-priority work, high-priority requests start nearly as on an idle one', () => {
  // Exponential gaps by a fixed generator.
  let state = 12345;
  const random = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state + 1) / 2 ** 32;
  };
  let atMs = 500;
  const highs: Arrival[] = Array.from({ length: 100 }, (_, i) => {
    atMs += -400 * Math.log(random());
    return { atMs, request: requestOf(`high${i}`, 40, 8, { priority: 'high' }) };
  });
  const endMs = atMs;
  const idle = serve(highs);
  // Three times as many clients as there is room for, each with a request open at all times.
  let numLow = 0;
  const low = (nowMs: number): Arrival => ({
    atMs: nowMs,
    request: requestOf(`low${numLow++}`, 60, 50, { priority: 'low' }),
  });
  const loaded = serve(
    [...highs, ...Array.from({ length: 36 }, () => low(0))],
    {},
    (requestId, nowMs) => (requestId.startsWith('low') && nowMs < endMs ? low(nowMs) : null),
  );
  const ttfts = ({ served }: { served: Map<string, Served> }): number[] =>
    highs.map(({ request }) => served.get(request.requestId)!.ttftMs);
  const idleP99 = percentile(ttfts(idle), 0.99);
  const loadedP99 = percentile(ttfts(loaded), 0.99);
  assert.ok(
    loadedP99 <= 1.5 * idleP99 + loaded.longestStepMs,
    `P99 ${idleP99} ms became ${loadedP99} ms, with steps of up to ${loaded.longestStepMs} ms`,
  );
  // And the rest of the machine was used for the others.
  assert.ok(numLow > 150, `${numLow} low-priority requests`);
  assert.ok(loaded.core.stats().numPreemptions > 0);
});

test('low-priority prompts alone take steps that a more urgent request can wait for', () => {
  const pacing = { targetStepMs: 8, maxStepMs: 20 };
  const longestOf = (priority: 'low' | 'normal'): number => {
    const arrivals = Array.from({ length: 4 }, (_, i) => ({
      atMs: 1000 * i,
      request: requestOf(`${priority}${i}`, 300, 1, { priority }),
    }));
    return serve(arrivals, { pacing }).longestStepMs;
  };
  // Steps of 64 tokens take 43 ms; the first one teaches what a token takes.
  assert.equal(longestOf('normal'), 5 + 0.6 * LIMITS.maxTokens);
  const { longestStepMs, served } = serve(
    [
      { atMs: 0, request: requestOf('first', 60, 1, { priority: 'low' }) },
      { atMs: 200, request: requestOf('low', 300, 1, { priority: 'low' }) },
      { atMs: 210, request: requestOf('high', 20, 1, { priority: 'high' }) },
    ],
    { pacing },
  );
  const highMs = served.get('high')!.ttftMs;
  assert.ok(highMs <= 20 + 5 + 0.6 * 20 + 10, `${highMs} ms, with steps of ${longestStepMs} ms`);
});

test('no request starves, whatever keeps coming above it', () => {
  fc.assert(
    fc.property(
      fc.record({
        starvationMs: fc.constantFrom(100, 400),
        escortTokens: fc.constantFrom(4, 16),
        lows: fc.array(
          fc.record({
            numPromptTokens: fc.integer({ min: 1, max: 100 }),
            maxTokens: fc.integer({ min: 1, max: 40 }),
            priority: fc.constantFrom('low' as const, 'normal' as const),
          }),
          { minLength: 1, maxLength: 4 },
        ),
        highPromptTokens: fc.integer({ min: 1, max: 100 }),
        hasPrefixCache: fc.boolean(),
      }),
      ({ starvationMs, escortTokens, lows, highPromptTokens, hasPrefixCache }) => {
        const arrivals = lows.map(({ numPromptTokens, maxTokens, priority }, i) => ({
          atMs: 1,
          request: requestOf(`low${i}`, numPromptTokens, maxTokens, { priority }),
        }));
        let numHigh = 0;
        const high = (nowMs: number): Arrival => ({
          atMs: nowMs,
          request: requestOf(`high${numHigh++}`, highPromptTokens, 20, { priority: 'high' }),
        });
        const waiting = new Set(arrivals.map(({ request }) => request.requestId));
        // Twice as many high-priority requests as can run, for as long as there are others.
        const { served, longestStepMs } = serve(
          [...arrivals, ...Array.from({ length: 24 }, () => high(0))],
          { hasPrefixCache, priorities: { starvationMs, escortTokens, maxPauseMs: 50 } },
          (requestId, nowMs) => {
            waiting.delete(requestId);
            // A minute is longer than any bound: a failing engine must not run for ever.
            const goesOn = waiting.size > 0 && nowMs < 60_000;
            return requestId.startsWith('high') && goesOn ? high(nowMs) : null;
          },
        );
        // Each time it is let in, a request computes its prompt and what it has written, and writes some more.
        const turnMs = (tokens: number): number =>
          starvationMs + (escortTokens + Math.ceil(tokens / 16) + 4) * longestStepMs;
        const bound = lows.reduce((sum, { numPromptTokens, maxTokens }) => {
          const turns = Math.ceil(maxTokens / escortTokens);
          return sum + turns * turnMs(numPromptTokens + maxTokens);
        }, 0);
        for (const { request } of arrivals) {
          const { finishedAtMs } = served.get(request.requestId)!;
          assert.ok(
            finishedAtMs <= bound,
            `${request.requestId} took ${finishedAtMs} of ${bound} ms`,
          );
        }
      },
    ),
    { numRuns: 12 },
  );
});

test('a tenant with few requests does not wait for all of one with many', () => {
  const arrivals: Arrival[] = [];
  for (let i = 0; i < 60; i++) {
    arrivals.push({ atMs: 0, request: requestOf(`many${i}`, 30, 20, { tenant: 'many' }) });
  }
  for (let i = 0; i < 12; i++) {
    arrivals.push({ atMs: 1, request: requestOf(`few${i}`, 30, 20, { tenant: 'few' }) });
  }
  const { served } = serve(arrivals);
  const finished = [...served.keys()];
  const lastOfFew = finished.findLastIndex((id) => id.startsWith('few'));
  // Twelve of the others were running first; from then on they take turns.
  assert.ok(lastOfFew < 12 + 24 + 4, `the last one was number ${lastOfFew} of ${finished.length}`);
});
