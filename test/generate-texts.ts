/** Runs requests through an engine core in tests, step by step, and gives their texts as token ids. Knows nothing of what is expected. */
import assert from 'node:assert/strict';
import type { Speculation } from '../src/engine/draft-source.ts';
import { EngineCore } from '../src/engine/engine-core.ts';
import type { EngineStats } from '../src/engine/engine-stats.ts';
import { prepareRequest } from '../src/engine/request.ts';
import type { SamplingParamsInput } from '../src/engine/sampling-params.ts';
import type { SpeculationStats } from '../src/engine/speculator.ts';
import type { ModelRunner } from '../src/targets/model-runner.ts';

export interface GenerateOptions {
  readonly speculation: Speculation;
  /** Of request i; every request goes on to its `maxTokens`. */
  samplingParams(i: number): SamplingParamsInput;
}

/** All prompts at once. Whatever is found is drafted: on this clock all steps take the same time. */
export function generateTexts(
  runner: ModelRunner,
  prompts: readonly (readonly number[])[],
  { speculation, samplingParams }: GenerateOptions,
): { texts: number[][]; stats: SpeculationStats | null; engine: EngineStats } {
  let nowMs = 0;
  const silent = { push: () => '', end: () => '' };
  const core = new EngineCore({
    runner,
    tokenizer: { createDecoderStream: () => silent },
    eosTokenIds: [],
    speculation,
    now: () => nowMs++,
  });
  for (const [i, promptTokenIds] of prompts.entries()) {
    const request = { requestId: `${i}`, promptTokenIds, samplingParams: samplingParams(i) };
    core.submit(prepareRequest(request, runner.limits));
  }
  const texts: number[][] = prompts.map(() => []);
  while (core.hasWork) {
    core.begin();
    core.finish();
    for (const event of core.takeEvents()) {
      if (event.type === 'token') texts[Number(event.requestId)]!.push(event.tokenId);
      else assert.equal(event.reason, 'length');
    }
  }
  const engine = core.stats();
  return { texts, stats: engine.speculation, engine };
}
