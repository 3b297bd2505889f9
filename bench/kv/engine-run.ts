/**
 * Requests through an engine core in this process, with a fixed number at a time: what KV blocks they hold at most, and how long they take. Greedy, so that
 * two runs do the same work. Knows nothing of what is compared.
 */
import { createHash } from 'node:crypto';
import { EngineCore } from '../../src/engine/engine-core.ts';
import { prepareRequest } from '../../src/engine/request.ts';
import type { ModelRunner } from '../../src/targets/model-runner.ts';

export interface BenchRequest {
  readonly promptTokenIds: readonly number[];
  readonly outputTokens: number;
}

export interface EngineRun {
  /** Blocks that sequences held at the busiest moment. */
  readonly peakBlocks: number;
  /** Sequences at that moment. */
  readonly peakSequences: number;
  /** The most that ran at once. */
  readonly mostSequences: number;
  /** From handing a request over to its last token. */
  readonly meanLatencyMs: number;
  readonly totalMs: number;
  readonly promptTokensComputed: number;
  /** Equal for equal texts. */
  readonly digest: string;
}

/** The first request comes alone; behind it `concurrency` at a time, the next one when one has ended. */
export function runEngine(
  runner: ModelRunner,
  requests: readonly BenchRequest[],
  { concurrency, hasPrefixCache }: { concurrency: number; hasPrefixCache: boolean },
): EngineRun {
  const silent = { push: () => '', end: () => '' };
  const core = new EngineCore({
    runner,
    tokenizer: { createDecoderStream: () => silent },
    eosTokenIds: [],
    hasPrefixCache,
    speculation: 'off',
  });
  const startedMs = requests.map(() => 0);
  const latenciesMs: number[] = [];
  const texts: number[][] = requests.map(() => []);
  let peakBlocks = 0;
  let peakSequences = 0;
  let mostSequences = 0;
  let next = 0;
  const startMs = performance.now();
  const submit = (): void => {
    const { promptTokenIds, outputTokens } = requests[next]!;
    const samplingParams = { temperature: 0, maxTokens: outputTokens };
    startedMs[next] = performance.now();
    core.submit(
      prepareRequest({ requestId: `${next++}`, promptTokenIds, samplingParams }, runner.limits),
    );
  };
  submit();
  while (core.hasWork) {
    core.begin();
    const { numBlocks, numFreeBlocks, numRunning } = core.stats();
    mostSequences = Math.max(mostSequences, numRunning);
    if (numBlocks - numFreeBlocks > peakBlocks) {
      peakBlocks = numBlocks - numFreeBlocks;
      peakSequences = numRunning;
    }
    core.finish();
    for (const event of core.takeEvents()) {
      const index = Number(event.requestId);
      if (event.type === 'token') texts[index]!.push(event.tokenId);
      else {
        if (event.reason !== 'length') throw new Error(`request ${index} ended: ${event.reason}`);
        latenciesMs.push(performance.now() - startedMs[index]!);
        while (next < requests.length && next - latenciesMs.length < concurrency) submit();
      }
    }
  }
  return {
    peakBlocks,
    peakSequences,
    mostSequences,
    meanLatencyMs: latenciesMs.reduce((a, b) => a + b, 0) / latenciesMs.length,
    totalMs: performance.now() - startMs,
    promptTokensComputed: core.stats().numPromptTokens,
    digest: createHash('sha256').update(JSON.stringify(texts)).digest('hex'),
  };
}

/** Ids without meaning, the same for the same seed; below 40,000, or the vocabulary. */
export function tokenIds(length: number, seed: number, vocabSize: number): number[] {
  const most = Math.min(40_000, vocabSize);
  return Array.from({ length }, (_, i) => ((i + 1) * (7919 + 2 * seed) + seed * 104_729) % most);
}
