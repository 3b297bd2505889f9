import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { InternalError } from '../platform/errors.ts';
import { Ledger } from './ledger.ts';
import { type LoadOptions, type LoadResult, runLoad } from './load-run.ts';
import type { RequestRecord } from './outcome.ts';
import { PromptMaker } from './prompt-maker.ts';
import type { RequestShape } from './request-body.ts';
import { summarizeLoad } from './summary.ts';
import { parseBaseUrl } from './target.ts';
import { closedPort, FakeServer, type Script } from './testing/fake-server.ts';
import { planWorkload, type WorkloadOptions } from './workload.ts';

const CHAT: RequestShape = {
  endpoint: 'chat',
  model: 'fake',
  promptForm: 'text',
  sharedPrefixTokens: 0,
  ignoreEos: true,
  temperature: 0,
  extraBody: {},
};

const WORKLOAD: WorkloadOptions = {
  seed: 1,
  numRequests: 12,
  turns: 1,
  sharedPrefixTokens: 0,
  numPrefixes: 1,
  priorities: {},
  source: {
    kind: 'lengths',
    mix: { kind: 'fixed', inputTokens: 10, outputTokens: 5, rangeRatio: 0 },
  },
};

function load(
  url: string,
  options: Partial<LoadOptions> & { workload?: Partial<WorkloadOptions> } = {},
): Promise<LoadResult> {
  const { workload, ...rest } = options;
  return runLoad({
    target: { baseUrl: parseBaseUrl(url, false), headers: {} },
    shape: CHAT,
    maker: new PromptMaker(1, { lowest: 100, highest: 200 }),
    conversations: planWorkload({ ...WORKLOAD, ...workload }),
    isCountBound: true,
    pacing: { kind: 'closed', clients: 3 },
    seed: 1,
    timeouts: { totalMs: 5000, stallMs: 2000 },
    maxDurationMs: null,
    drainMs: 0,
    thinkMs: 0,
    priorityHeader: 'x-priority',
    ...rest,
  });
}

/** Asserts what has to hold whatever happened. */
function assertAccounted({ counts, records }: LoadResult): void {
  assert.equal(counts.sent, counts.finished + counts.refused + counts.failed);
  assert.equal(counts.planned, counts.sent + counts.notSent);
  assert.equal(counts.inFlight, 0);
  assert.equal(records.length, counts.sent);
  const sum = (parts: object): number => Object.values(parts).reduce((a, b) => a + b, 0);
  assert.equal(sum(counts.failures), counts.failed);
  assert.equal(sum(counts.refusals), counts.refused);
}

describe('a closed loop', () => {
  it('keeps as many requests in flight as there are clients, and no more', async () => {
    await using server = await FakeServer.start(() => ({ kind: 'answer', firstMs: 10 }));
    const result = await load(server.url);
    assertAccounted(result);
    assert.equal(result.counts.finished, 12);
    assert.equal(server.mostRunning, 3);
    assert.equal(result.maxInFlight, 3);
  });

  it('waits as long as Retry-After says before a refused client sends again', async () => {
    const refusal: Script = { kind: 'status', status: 429, retryAfter: '1' };
    await using server = await FakeServer.start((i) => (i === 0 ? refusal : { kind: 'answer' }));
    const result = await load(server.url, {
      workload: { numRequests: 2 },
      pacing: { kind: 'closed', clients: 1 },
    });
    assertAccounted(result);
    assert.deepEqual(result.counts.refusals, { 429: 1 });
    const [first, second] = result.records;
    assert.equal(first?.outcome.kind === 'refused' && first.outcome.retryAfterMs, 1000);
    assert.ok(second!.sentMs - first!.sentMs >= 1000, `${second!.sentMs - first!.sentMs} ms`);
    assert.equal(summarizeLoad(result, null).meanRetryAfterS, 1);
  });

  it('sends a conversation turn by turn, with the answers that came', async () => {
    await using server = await FakeServer.start();
    const result = await load(server.url, { workload: { numRequests: 5, turns: 3 } });
    assertAccounted(result);
    assert.equal(result.counts.finished, 5);
    const longest = server.seen.find(({ body }) => body.messages?.length === 5);
    const roles = longest?.body.messages?.map(({ role }) => role);
    assert.deepEqual(roles, ['user', 'assistant', 'user', 'assistant', 'user']);
    assert.equal(longest?.body.messages?.[1]?.content, 'abcde');
    const first = server.seen.find(({ body }) => body.messages?.length === 1);
    assert.equal(first?.body.messages?.[0]?.content, longest?.body.messages?.[0]?.content);
  });

  it('does not go on with a conversation whose turn failed', async () => {
    await using server = await FakeServer.start(() => ({ kind: 'status', status: 500 }));
    const result = await load(server.url, { workload: { numRequests: 6, turns: 3 } });
    assertAccounted(result);
    assert.equal(result.counts.sent, 2);
    assert.equal(result.counts.notSent, 4);
  });
});

describe('an open loop', () => {
  it('sends what is due whether or not answers came', async () => {
    await using server = await FakeServer.start(() => ({ kind: 'answer', firstMs: 400 }));
    const pacing = { kind: 'open', requestRate: 60, burstiness: 1, maxConcurrency: null } as const;
    const result = await load(server.url, { pacing });
    assertAccounted(result);
    assert.equal(result.counts.finished, 12);
    const last = Math.max(...result.records.map(({ dueMs }) => dueMs ?? 0));
    assert.ok(Math.abs(last - (11 / 60) * 1000) < 1e-6, `${last} ms`);
    for (const { sentMs, dueMs } of result.records) assert.ok(sentMs >= (dueMs ?? 0) - 2);
    assert.equal(server.mostRunning, 12);
  });

  it('holds back what is beyond the limit', async () => {
    await using server = await FakeServer.start(() => ({ kind: 'answer', firstMs: 10 }));
    const requestRate = Number.POSITIVE_INFINITY;
    const pacing = { kind: 'open', requestRate, burstiness: 1, maxConcurrency: 2 } as const;
    const result = await load(server.url, { pacing });
    assertAccounted(result);
    assert.equal(server.mostRunning, 2);
    assert.equal(result.counts.finished, 12);
  });
});

describe('the bounds', () => {
  it('sends nothing after the longest duration and lets the rest drain', async () => {
    await using server = await FakeServer.start(() => ({ kind: 'answer', firstMs: 60 }));
    const result = await load(server.url, {
      workload: { numRequests: 1000 },
      maxDurationMs: 200,
      drainMs: 2000,
    });
    assertAccounted(result);
    assert.equal(result.counts.failed, 0);
    assert.ok(result.counts.notSent > 900);
    assert.ok(result.records.every(({ sentMs }) => sentMs < 250));
  });

  it('cuts off what does not drain, and counts it', async () => {
    await using server = await FakeServer.start(() => ({ kind: 'stall', pieces: 1 }));
    const result = await load(server.url, { maxDurationMs: 50, drainMs: 50 });
    assertAccounted(result);
    assert.deepEqual(result.counts.failures, { cut_off: 3 });
  });

  it('counts as planned only what was sent where time is the only bound', async () => {
    await using server = await FakeServer.start(() => ({ kind: 'answer', firstMs: 20 }));
    const result = await load(server.url, {
      workload: { numRequests: 1000 },
      isCountBound: false,
      maxDurationMs: 100,
      drainMs: 1000,
    });
    assertAccounted(result);
    assert.equal(result.counts.planned, result.counts.sent);
  });

  it('ends at once when told to', async () => {
    await using server = await FakeServer.start(() => ({ kind: 'stall', pieces: 2 }));
    const signal = AbortSignal.timeout(50);
    const result = await load(server.url, { signal });
    assertAccounted(result);
    assert.deepEqual(result.counts.failures, { cut_off: 3 });
    assert.equal(result.counts.notSent, 9);
  });
});

describe('faults', () => {
  const cases: readonly [script: Script, reason: string][] = [
    [{ kind: 'reset', pieces: 2 }, 'reset'],
    [{ kind: 'reset', pieces: 0 }, 'reset'],
    [{ kind: 'stall', pieces: 1 }, 'stalled'],
    [{ kind: 'truncate', pieces: 2 }, 'truncated'],
    [{ kind: 'malformed', pieces: 1 }, 'malformed'],
    [{ kind: 'error', pieces: 1 }, 'error_event'],
    [{ kind: 'json' }, 'malformed'],
    [{ kind: 'status', status: 400 }, 'client_error'],
    [{ kind: 'status', status: 500 }, 'server_error'],
  ];
  for (const [script, reason] of cases) {
    it(`counts one request that meets ${JSON.stringify(script)} as ${reason}`, async () => {
      await using server = await FakeServer.start((i) => (i === 4 ? script : { kind: 'answer' }));
      const result = await load(server.url, { timeouts: { totalMs: 20_000, stallMs: 2000 } });
      assertAccounted(result);
      assert.equal(result.counts.finished, 11);
      assert.deepEqual(result.counts.failures, { [reason]: 1 });
    });
  }

  it('counts 503 as refused', async () => {
    await using server = await FakeServer.start((i) =>
      i === 0 ? { kind: 'status', status: 503, retryAfter: '0' } : { kind: 'answer' },
    );
    const result = await load(server.url);
    assertAccounted(result);
    assert.deepEqual(result.counts.refusals, { 503: 1 });
    assert.equal(result.counts.finished, 11);
  });

  it('counts what takes too long as a timeout, though bytes go on coming', async () => {
    await using server = await FakeServer.start(() => ({ kind: 'answer', gapMs: 40 }));
    const result = await load(server.url, { timeouts: { totalMs: 100, stallMs: 5000 } });
    assertAccounted(result);
    assert.deepEqual(result.counts.failures, { timeout: 12 });
  });

  it('counts every request where nothing listens', async () => {
    const result = await load(`http://127.0.0.1:${await closedPort()}`);
    assertAccounted(result);
    assert.deepEqual(result.counts.failures, { connect: 12 });
  });

  it('accounts for every request of a server that does all of it at once', async () => {
    const scripts: Script[] = [
      { kind: 'answer', firstMs: 3, gapMs: 2 },
      { kind: 'reset', pieces: 1 },
      { kind: 'status', status: 429, retryAfter: '0' },
      { kind: 'stall', pieces: 1 },
      { kind: 'truncate', pieces: 0 },
      { kind: 'error', pieces: 2 },
    ];
    await using server = await FakeServer.start((i) => scripts[i % scripts.length]!);
    const pacing = {
      kind: 'open',
      requestRate: 400,
      burstiness: 0.5,
      maxConcurrency: null,
    } as const;
    const result = await load(server.url, {
      workload: { numRequests: 120 },
      pacing,
      timeouts: { totalMs: 20_000, stallMs: 2000 },
    });
    assertAccounted(result);
    assert.equal(result.counts.sent, 120);
    assert.equal(result.counts.finished, 20);
    assert.deepEqual(result.counts.refusals, { 429: 20 });
    const failures = { reset: 20, stalled: 20, truncated: 20, error_event: 20 };
    assert.deepEqual({ ...result.counts.failures }, failures);
  });
});

describe('a kept connection that the server closes', () => {
  it('is no failure of the request that meets it', async () => {
    await using server = await FakeServer.start(() => ({ kind: 'close-if-kept' }));
    const result = await load(server.url);
    assertAccounted(result);
    assert.equal(result.counts.finished, 12);
    assert.ok(result.client.numResent > 0);
    assert.equal(server.seen.length, 12 + result.client.numResent);
  });

  it('is a failure where it was fresh', async () => {
    const script: Script = { kind: 'reset', pieces: 0 };
    await using server = await FakeServer.start(() => script);
    const result = await load(server.url, { pacing: { kind: 'closed', clients: 12 } });
    assertAccounted(result);
    assert.deepEqual(result.counts.failures, { reset: 12 });
    assert.equal(result.client.numResent, 0);
  });
});

describe('what is measured', () => {
  it('takes the first content that is not empty as the first token', async () => {
    await using server = await FakeServer.start(() => ({ kind: 'answer', firstMs: 80, gapMs: 20 }));
    const result = await load(server.url, { workload: { numRequests: 2 } });
    for (const { ttftMs, interTokenMs, endToEndMs, outputTokens } of result.records) {
      // Chat answers begin with an empty delta, which comes at once.
      assert.ok(ttftMs !== null && ttftMs >= 78, `${ttftMs} ms`);
      assert.equal(interTokenMs.length, 4);
      assert.ok(interTokenMs.every((ms) => ms >= 10));
      assert.equal(outputTokens, 5);
      const sum = interTokenMs.reduce((a, b) => a + b, ttftMs);
      assert.ok(endToEndMs >= sum - 1e-6 && endToEndMs < sum + 50);
    }
    const summary = summarizeLoad(result, { ttft: 10 });
    assert.equal(summary.goodRequestsPerS, 0);
    assert.equal(summary.inputTokens, 20);
    assert.equal(summary.cachedTokens, 2);
  });

  it('sends token ids of exact length, the shared ones first, and the class as a header', async () => {
    await using server = await FakeServer.start();
    const shape = {
      ...CHAT,
      endpoint: 'completions',
      promptForm: 'ids',
      sharedPrefixTokens: 6,
    } as const;
    const result = await load(server.url, {
      shape,
      workload: { sharedPrefixTokens: 6, priorities: { high: 1, low: 1 }, numRequests: 30 },
    });
    assertAccounted(result);
    const prompts = server.seen.map(({ body }) => body.prompt as number[]);
    assert.ok(prompts.every((prompt) => prompt.length === 10));
    assert.equal(new Set(prompts.map((prompt) => prompt.slice(0, 6).join())).size, 1);
    assert.equal(new Set(prompts.map((prompt) => prompt.slice(6).join())).size, 30);
    assert.ok(prompts.flat().every((id) => id >= 100 && id <= 200));
    const classes = new Set(server.seen.map(({ headers }) => headers['x-priority']));
    assert.deepEqual([...classes].sort(), ['high', 'low']);
    assert.deepEqual(Object.keys(summarizeLoad(result, null).classes).sort(), ['high', 'low']);
    const { body, path } = server.seen[0]!;
    assert.equal(path, '/v1/completions');
    assert.equal(body.stream, true);
    assert.equal(body.ignore_eos, true);
    assert.deepEqual(body.stream_options, { include_usage: true });
  });
});

describe('Ledger', () => {
  const record = (index: number): RequestRecord => ({
    ...{ index, conversation: index, turn: 0, priority: null, dueMs: null, sentMs: 0 },
    ...{ endToEndMs: 1, ttftMs: null, interTokenMs: [], promptTokens: null, outputTokens: 0 },
    ...{ cachedTokens: null, outcome: { kind: 'finished', finishReason: null } },
  });

  it('refuses to close while a request is in flight', () => {
    const ledger = new Ledger(2);
    ledger.sent(0);
    assert.throws(() => ledger.close(), InternalError);
    ledger.settled(record(0));
    assert.equal(ledger.close().length, 1);
    assert.equal(ledger.counts().notSent, 1);
  });

  it('refuses a request that is sent or ends twice', () => {
    const ledger = new Ledger(2);
    ledger.sent(0);
    assert.throws(() => ledger.sent(0), /sent twice/);
    ledger.settled(record(0));
    assert.throws(() => ledger.settled(record(0)), /not in flight/);
    assert.throws(() => ledger.settled(record(1)), /not in flight/);
  });
});
