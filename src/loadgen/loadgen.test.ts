/** The parts that need no server: numbers, lengths, arrivals, streams taken apart, addresses. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { arrivalTimes } from './arrivals.ts';
import { MalformedChunkError, parseChunk, StreamedError } from './completion-stream.ts';
import { parseDataset } from './dataset.ts';
import { LoadError, TargetError } from './errors.ts';
import { parseRetryAfter } from './http-client.ts';
import { drawLengths } from './lengths.ts';
import type { LoadResult } from './load-run.ts';
import type { RequestRecord } from './outcome.ts';
import { PromptMaker } from './prompt-maker.ts';
import { SeededRandom } from './random.ts';
import { formatReport } from './report.ts';
import { SseDecoder } from './sse-decoder.ts';
import { distribution, summarizeLoad, summaryJson } from './summary.ts';
import { endpointUrl, parseBaseUrl } from './target.ts';
import { planWorkload, type WorkloadOptions } from './workload.ts';

describe('SeededRandom', () => {
  it('repeats itself for a seed and stream, and for no other', () => {
    const draw = (seed: number, stream: string): number[] => {
      const random = new SeededRandom(seed, stream);
      return Array.from({ length: 5 }, () => random.unit());
    };
    assert.deepEqual(draw(1, 'a'), draw(1, 'a'));
    assert.notDeepEqual(draw(1, 'a'), draw(2, 'a'));
    assert.notDeepEqual(draw(1, 'a'), draw(1, 'b'));
  });

  it('has the means and deviations of its distributions', () => {
    const random = new SeededRandom(7, 'moments');
    const moments = (draw: () => number): [mean: number, std: number] => {
      const { mean, std } = distribution(Array.from({ length: 20_000 }, draw));
      return [mean, std];
    };
    const near = (actual: number, expected: number): void =>
      assert.ok(Math.abs(actual - expected) < 0.05, `${actual}, expected ${expected}`);
    for (const [draw, mean, std] of [
      [() => random.unit(), 0.5, Math.sqrt(1 / 12)],
      [() => random.normal(), 0, 1],
      [() => random.gamma(1), 1, 1],
      [() => random.gamma(0.5), 0.5, Math.sqrt(0.5)],
      [() => random.gamma(4), 4, 2],
      [() => Math.log(random.logNormal(Math.E, 0.5)), 1, 0.5],
    ] as const) {
      const [actualMean, actualStd] = moments(draw);
      near(actualMean, mean);
      near(actualStd, std);
    }
  });

  it('draws whole numbers from all of the range', () => {
    const random = new SeededRandom(3, 'integers');
    const seen = new Set(Array.from({ length: 500 }, () => random.integer(-1, 3)));
    assert.deepEqual([...seen].sort(), [-1, 0, 1, 2, 3]);
  });
});

describe('arrivalTimes', () => {
  it('begins at 0, goes forward, and has the rate that was asked for', () => {
    for (const burstiness of [0.3, 1, 10]) {
      const random = new SeededRandom(1, 'arrivals');
      const times = arrivalTimes(201, { requestRate: 8, burstiness }, random);
      assert.equal(times[0], 0);
      assert.ok(Math.abs(times[200]! - 25) < 1e-9);
      for (let i = 1; i < times.length; i++) assert.ok(times[i]! >= times[i - 1]!);
    }
  });

  it('is burstier for a smaller burstiness', () => {
    const spread = (burstiness: number): number => {
      const random = new SeededRandom(1, 'arrivals');
      const times = arrivalTimes(2000, { requestRate: 1, burstiness }, random);
      return distribution(Array.from(times.subarray(1), (t, i) => t - times[i]!)).std;
    };
    assert.ok(Math.abs(spread(1) - 1) < 0.1);
    assert.ok(spread(0.25) > 1.7);
    assert.ok(spread(16) < 0.35);
  });

  it('sends all at once for an infinite rate', () => {
    const requestRate = Number.POSITIVE_INFINITY;
    const times = arrivalTimes(5, { requestRate, burstiness: 1 }, new SeededRandom(1, ''));
    assert.deepEqual([...times], [0, 0, 0, 0, 0]);
  });
});

describe('lengths', () => {
  it('look like those of ShareGPT: means near 200, medians near 100, a long tail', () => {
    const random = new SeededRandom(1, 'lengths');
    const mix = { kind: 'sharegpt', maxTotalTokens: 2048 } as const;
    const drawn = Array.from({ length: 5000 }, () => drawLengths(mix, random));
    const input = distribution(drawn.map(({ inputTokens }) => inputTokens));
    const output = distribution(drawn.map(({ outputTokens }) => outputTokens));
    assert.ok(input.mean > 140 && input.mean < 220, `${input.mean}`);
    assert.ok(output.mean > 150 && output.mean < 230, `${output.mean}`);
    assert.ok(input.median > 75 && input.median < 115, `${input.median}`);
    assert.ok(input.p99 > 700);
    assert.ok(drawn.every((l) => l.inputTokens + l.outputTokens <= 2048 && l.inputTokens >= 4));
  });

  it('stay within a fixed range', () => {
    const random = new SeededRandom(1, 'lengths');
    const mix = { kind: 'fixed', inputTokens: 100, outputTokens: 1, rangeRatio: 0.5 } as const;
    const drawn = Array.from({ length: 500 }, () => drawLengths(mix, random));
    const inputs = drawn.map(({ inputTokens }) => inputTokens);
    assert.equal(Math.min(...inputs), 50);
    assert.equal(Math.max(...inputs), 150);
    assert.ok(drawn.every(({ outputTokens }) => outputTokens >= 1));
  });
});

describe('planWorkload', () => {
  const base: WorkloadOptions = {
    ...{ seed: 1, numRequests: 10, turns: 1, sharedPrefixTokens: 0, numPrefixes: 1 },
    priorities: {},
    source: { kind: 'lengths', mix: { kind: 'sharegpt', maxTotalTokens: 2048 } },
  };

  it('is the same for the same seed', () => {
    assert.deepEqual(planWorkload(base), planWorkload(base));
    assert.notDeepEqual(planWorkload(base), planWorkload({ ...base, seed: 2 }));
  });

  it('numbers the turns of all conversations and stops at the count', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 60 }), fc.integer({ min: 1, max: 7 }), (n, turns) => {
        const plan = planWorkload({ ...base, numRequests: n, turns });
        const indices = plan.flatMap((conversation) => conversation.turns.map((t) => t.index));
        assert.deepEqual(indices, [...Array(n).keys()]);
        assert.ok(plan.every((conversation) => conversation.turns.length <= turns));
      }),
      { numRuns: 50 },
    );
  });

  it('mixes priorities by their shares', () => {
    const plan = planWorkload({ ...base, numRequests: 2000, priorities: { high: 1, low: 3 } });
    const high = plan.filter(({ priority }) => priority === 'high').length;
    assert.ok(high > 430 && high < 570, `${high}`);
    assert.throws(() => planWorkload({ ...base, priorities: { high: 0 } }), LoadError);
  });

  it('counts the shared prefix as part of the prompt', () => {
    const mix = { kind: 'fixed', inputTokens: 600, outputTokens: 64, rangeRatio: 0 } as const;
    const source = { kind: 'lengths', mix } as const;
    const plan = planWorkload({ ...base, sharedPrefixTokens: 470, source });
    assert.ok(plan.every(({ turns }) => assertMade(turns[0]!.prompt) === 130));
    assert.throws(() => planWorkload({ ...base, sharedPrefixTokens: 600, source }), /fewer than/);
  });

  it('refuses lengths that no draw can meet', () => {
    const source = { kind: 'lengths', mix: { kind: 'sharegpt', maxTotalTokens: 8 } } as const;
    assert.throws(() => planWorkload({ ...base, source }), LoadError);
  });

  function assertMade(prompt: { kind: string; tokens?: number }): number | undefined {
    assert.equal(prompt.kind, 'made');
    return prompt.tokens;
  }
});

describe('PromptMaker', () => {
  it('makes as many ids and words as asked, the same for a name', () => {
    const maker = new PromptMaker(1, { lowest: 5, highest: 9 });
    assert.deepEqual(maker.tokenIds('a', 20), maker.tokenIds('a', 20));
    assert.notDeepEqual(maker.tokenIds('a', 20), maker.tokenIds('b', 20));
    assert.ok(maker.tokenIds('a', 200).every((id) => id >= 5 && id <= 9));
    assert.equal(maker.words('a', 30).split(' ').length, 30);
  });
});

describe('datasets', () => {
  it('reads ShareGPT, messages and prompts, as one list or line by line', () => {
    const sharegpt = {
      conversations: [
        { from: 'system', value: 'ignored' },
        { from: 'human', value: 'one' },
        { from: 'gpt', value: 'x'.repeat(40) },
        { from: 'human', value: 'two' },
      ],
    };
    const messages = {
      messages: [
        { role: 'user', content: 'hi' },
        { role: 'assistant', content: 'abcd' },
      ],
    };
    const prompt = { prompt: 'p', output_tokens: 7 };
    const expected = [
      {
        turns: [
          { text: 'one', outputTokens: 10 },
          { text: 'two', outputTokens: null },
        ],
      },
      { turns: [{ text: 'hi', outputTokens: 1 }] },
      { turns: [{ text: 'p', outputTokens: 7 }] },
    ];
    const entries = [sharegpt, messages, prompt];
    assert.deepEqual(parseDataset(JSON.stringify(entries), 'f'), expected);
    const lines = entries.map((entry) => JSON.stringify(entry)).join('\n');
    assert.deepEqual(parseDataset(`${lines}\n`, 'f'), expected);
  });

  it('says which entry is wrong', () => {
    assert.throws(() => parseDataset('{"prompt":"a"}\n{"x":1}', 'f'), /f: entry 2: .* got x/);
    assert.throws(() => parseDataset('{"prompt":"a"}\nnope', 'f'), /f: line 2 is not JSON/);
  });
});

describe('SseDecoder', () => {
  const stream =
    '\ufeffdata: {"a":1}\n\n: ping\n\nevent: x\ndata:two\ndata: lines\n\r\ndata: späße 🙂\r\n\r\ndata: last\r\rdata: open\n';
  const expected = ['{"a":1}', 'two\nlines', 'späße 🙂', 'last'];

  it('finds the same events however the bytes are cut', () => {
    const bytes = Buffer.from(stream);
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 0, max: bytes.length }), { maxLength: 12 }),
        (cuts) => {
          const decoder = new SseDecoder();
          const places = [0, ...cuts.sort((a, b) => a - b), bytes.length];
          const events = places.flatMap((place, i) =>
            decoder.push(bytes.subarray(places[i - 1] ?? 0, place)),
          );
          assert.deepEqual(events, expected);
        },
      ),
    );
  });

  it('gives up an event without end', () => {
    const decoder = new SseDecoder();
    const part = Buffer.alloc(2 ** 20, 'x');
    assert.throws(() => {
      for (let i = 0; i < 20; i++) decoder.push(part);
    }, RangeError);
  });
});

describe('parseChunk', () => {
  it('finds content wherever a server puts it', () => {
    const content = (choice: object): string =>
      parseChunk(JSON.stringify({ choices: [choice] })).content;
    assert.equal(content({ text: 'a' }), 'a');
    assert.equal(content({ delta: { content: 'b' } }), 'b');
    assert.equal(content({ delta: { reasoning_content: 'c' } }), 'c');
    assert.equal(content({ delta: { tool_calls: [{ function: { arguments: '{' } }] } }), '{');
    assert.equal(content({ delta: { role: 'assistant', content: '' } }), '');
    assert.equal(content({ delta: { content: null }, finish_reason: 'stop' }), '');
  });

  it('reads usage and the end', () => {
    const facts = parseChunk(
      '{"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":1}}}',
    );
    assert.equal(facts.finishReason, 'stop');
    assert.deepEqual(facts.usage, { promptTokens: 3, outputTokens: 2, cachedTokens: 1 });
    assert.equal(parseChunk('{"choices":[],"usage":null}').usage, null);
  });

  it('tells errors from nonsense', () => {
    assert.throws(() => parseChunk('{"error":{"message":"m"}}'), StreamedError);
    assert.throws(() => parseChunk('{"error":"m"}'), StreamedError);
    assert.throws(() => parseChunk('{"choi'), MalformedChunkError);
    assert.throws(() => parseChunk('12'), MalformedChunkError);
  });
});

describe('the target', () => {
  it('is this machine unless told otherwise', () => {
    for (const url of [
      'http://127.0.0.1:8000',
      'http://127.9.9.9',
      'http://localhost:1',
      'http://[::1]:8000/v1',
      'http://[::ffff:127.0.0.1]:8000',
      'http://0x7f.1',
    ]) {
      assert.ok(parseBaseUrl(url, false), url);
    }
    for (const url of [
      'http://10.0.0.1',
      'http://example.com',
      'http://localhost.example.com',
      'http://127.0.0.1.example.com',
      'https://[2001:db8::1]',
      'http://0.0.0.0:8000',
      'http://[::ffff:10.0.0.1]',
    ]) {
      assert.throws(() => parseBaseUrl(url, false), TargetError, url);
      assert.ok(parseBaseUrl(url, true), url);
    }
    for (const url of ['8000', 'ftp://127.0.0.1', 'http://user:secret@127.0.0.1']) {
      assert.throws(() => parseBaseUrl(url, true), TargetError, url);
    }
    assert.throws(
      () => parseBaseUrl('http://user:secret@127.0.0.1', true),
      (error: Error) => !error.message.includes('secret'),
    );
  });

  it('may name the API or stand below a path', () => {
    const url = (base: string): string =>
      endpointUrl({ baseUrl: parseBaseUrl(base, false), headers: {} }, '/v1/models').href;
    assert.equal(url('http://127.0.0.1:1'), 'http://127.0.0.1:1/v1/models');
    assert.equal(url('http://127.0.0.1:1/v1/'), 'http://127.0.0.1:1/v1/models');
    assert.equal(url('http://127.0.0.1:1/llm/v1'), 'http://127.0.0.1:1/llm/v1/models');
  });

  it('reads Retry-After as seconds or a date', () => {
    assert.equal(parseRetryAfter('3', 0), 3000);
    assert.equal(parseRetryAfter('Thu, 01 Jan 1970 00:00:10 GMT', 4000), 6000);
    assert.equal(parseRetryAfter('soon', 0), null);
    assert.equal(parseRetryAfter(undefined, 0), null);
  });
});

describe('the summary', () => {
  const record = (index: number, part: Partial<RequestRecord>): RequestRecord => ({
    ...{ index, conversation: index, turn: 0, priority: null, dueMs: null, sentMs: 0 },
    ...{ endToEndMs: 100, ttftMs: 40, interTokenMs: [20, 40], promptTokens: 10, outputTokens: 3 },
    ...{ cachedTokens: 4, outcome: { kind: 'finished', finishReason: 'stop' } },
    ...part,
  });
  const result: LoadResult = {
    counts: {
      ...{ planned: 4, sent: 4, finished: 2, refused: 1, failed: 1, inFlight: 0, notSent: 0 },
      ...{ failures: { reset: 1 }, refusals: { 429: 1 } },
    },
    records: [
      record(0, {}),
      record(1, { ttftMs: 60, interTokenMs: [60], outputTokens: 4, sentMs: 900 }),
      record(2, { outcome: { kind: 'refused', status: 429, retryAfterMs: 2000, message: 'm' } }),
      record(3, { outcome: { kind: 'failed', reason: 'reset', status: null, message: 'm' } }),
    ],
    durationMs: 2000,
    maxInFlight: 2,
    client: { cpuShare: 0.1, eventLoopDelayP99Ms: 1, numResent: 0 },
  };

  it('counts tokens and times of finished requests only', () => {
    const summary = summarizeLoad(result, { ttft: 50, tpot: 30 });
    assert.equal(summary.requestsPerS, 1);
    assert.equal(summary.outputTokensPerS, 3.5);
    assert.equal(summary.totalTokensPerS, 13.5);
    assert.equal(summary.goodRequestsPerS, 0.5);
    assert.equal(summary.latencies.ttft.mean, 50);
    // (20 + 40) / 2 and 60 / 3: the second answer came in fewer pieces than tokens.
    assert.equal(summary.latencies.tpot.p50, 25);
    assert.equal(summary.latencies.itl.count, 3);
    assert.equal(summary.peakOutputTokensPerS, 4);
    assert.equal(summary.meanRetryAfterS, 2);
  });

  it('has percentiles as numpy has them', () => {
    const { median, p90, p99, std } = distribution([1, 2, 3, 4, 10]);
    assert.equal(median, 3);
    assert.ok(Math.abs(p90 - 7.6) < 1e-12);
    assert.ok(Math.abs(p99 - 9.76) < 1e-12);
    assert.ok(Math.abs(std - Math.sqrt(10)) < 1e-12);
    assert.equal(distribution([]).p99, 0);
  });

  it('prints every count and every percentile, and JSON under the names of vLLM', () => {
    const summary = summarizeLoad(result, { ttft: 50 });
    const pacing = { kind: 'open', requestRate: 2, burstiness: 1, maxConcurrency: null } as const;
    const text = formatReport(result, summary, pacing);
    for (const line of [
      /^Successful requests: +2$/m,
      /^Refused requests: +1 \(429: 1\)$/m,
      /^Failed requests: +1 \(reset: 1\)$/m,
      /^Sent requests .*: +4$/m,
      /^Request goodput \(req\/s\): +0\.50$/m,
      /^P99 ITL \(ms\): +59\.60$/m,
    ]) {
      assert.match(text, line);
    }
    const run = { model: 'm', endpoint: 'chat', baseUrl: 'u', pacing, seed: 1 };
    const json = summaryJson({ ...run, wasInterrupted: false }, result, summary);
    for (const name of ['ttft', 'tpot', 'itl', 'e2el']) {
      for (const statistic of ['mean', 'median', 'std', 'p50', 'p90', 'p99']) {
        assert.equal(typeof json[`${statistic}_${name}_ms`], 'number');
      }
    }
    const { completed, failed, refused, sent, request_throughput: rate } = json;
    assert.deepEqual(
      { completed, failed, refused, sent, rate },
      {
        ...{ completed: 2, failed: 1, refused: 1, sent: 4, rate: 1 },
      },
    );
  });
});
