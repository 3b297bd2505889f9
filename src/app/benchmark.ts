/**
 * Prefill and decode speed, as llama-bench defines them: `pp N` feeds N tokens to an empty sequence, `tg N` feeds N tokens one at a time,
 * beginning with an empty sequence. Neither samples nor tokenizes; token ids are random. A warm-up comes first.
 */
import type { ModelRunner } from '../targets/model-runner.ts';
import { SequenceDriver } from './sequence-driver.ts';

export interface BenchmarkTest {
  readonly kind: 'pp' | 'tg';
  readonly numTokens: number;
}

export interface BenchmarkFigures {
  /** Mean over the repetitions. */
  readonly tokensPerSecond: number;
  /** Sample standard deviation over the repetitions; 0 for one. */
  readonly stddev: number;
  /** Steps per second, mean: how often all weights are read. */
  readonly stepsPerSecond: number;
}

/**
 * @param onRepetition called after each one, and may pause the benchmark to let the terminal be drawn
 */
export async function runBenchmark(
  runner: ModelRunner,
  { kind, numTokens }: BenchmarkTest,
  repetitions: number,
  onRepetition?: (done: number) => Promise<void>,
): Promise<BenchmarkFigures> {
  const driver = new SequenceDriver(runner);
  const tokenIds = randomTokenIds(numTokens, runner.limits.vocabSize);
  const chunk = kind === 'pp' ? numTokens : 1;
  await feedInChunks(driver, kind === 'pp' ? tokenIds : tokenIds.subarray(0, 1), chunk);
  const rates: number[] = [];
  for (let i = 0; i < repetitions; i++) {
    driver.reset();
    const startMs = performance.now();
    await feedInChunks(driver, tokenIds, chunk);
    rates.push((numTokens * 1000) / (performance.now() - startMs));
    await onRepetition?.(i + 1);
  }
  const mean = rates.reduce((sum, rate) => sum + rate, 0) / rates.length;
  const squares = rates.reduce((sum, rate) => sum + (rate - mean) ** 2, 0);
  const numSteps = kind === 'pp' ? Math.ceil(numTokens / runner.limits.maxTokens) : numTokens;
  return {
    tokensPerSecond: mean,
    stddev: rates.length > 1 ? Math.sqrt(squares / (rates.length - 1)) : 0,
    stepsPerSecond: (mean * numSteps) / numTokens,
  };
}

async function feedInChunks(
  driver: SequenceDriver,
  tokenIds: Int32Array,
  chunk: number,
): Promise<void> {
  for (let start = 0; start < tokenIds.length; start += chunk) {
    await driver.feed(tokenIds.subarray(start, start + chunk), 'last');
  }
}

/** Always the same, from a linear congruential generator (Numerical Recipes' constants). */
function randomTokenIds(count: number, vocabSize: number): Int32Array {
  let state = 1;
  return Int32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state % vocabSize;
  });
}
