/** When requests arrive in an open loop. Knows nothing of what arrives. */
import type { SeededRandom } from './random.ts';

export interface ArrivalOptions {
  /** Arrivals per second; Infinity for all at once. */
  readonly requestRate: number;
  /** 1: a Poisson process; below 1 burstier, above 1 more regular (the shape of the gamma distribution of the gaps). */
  readonly burstiness: number;
}

/**
 * Seconds from the start at which each of `count` arrivals happens, the first at 0. The gaps are scaled together so that the rate of this
 * very sample is the rate asked for, as `vllm bench serve` does.
 */
export function arrivalTimes(
  count: number,
  { requestRate, burstiness }: ArrivalOptions,
  random: SeededRandom,
): Float64Array {
  const times = new Float64Array(count);
  if (!Number.isFinite(requestRate) || count < 2) return times;
  for (let i = 1; i < count; i++) times[i] = times[i - 1]! + random.gamma(burstiness);
  const scale = (count - 1) / requestRate / times[count - 1]!;
  for (let i = 1; i < count; i++) times[i] = times[i]! * scale;
  return times;
}
