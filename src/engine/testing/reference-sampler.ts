/**
 * The sampler's obvious, slow twin: everything sorted, everything summed, no statistics. Tests compare the real one with it.
 */

import { GREEDY_TEMPERATURE, type SamplingParams } from '../sampling-params.ts';

/** Logits after bias and penalties, rounded to f32 like the real row. */
export function referencePenalties(
  logits: Float32Array,
  params: SamplingParams,
  promptTokenIds: readonly number[],
  outputTokenIds: readonly number[],
): Float32Array {
  return logits.map((raw, id) => {
    let logit = raw + (params.logitBias[id] ?? 0);
    const count = outputTokenIds.filter((other) => other === id).length;
    if (count > 0 || promptTokenIds.includes(id)) {
      logit = logit > 0 ? logit / params.repetitionPenalty : logit * params.repetitionPenalty;
    }
    logit -= params.frequencyPenalty * count;
    if (count > 0) logit -= params.presencePenalty;
    return logit;
  });
}

type DrawParams = Pick<SamplingParams, 'temperature' | 'topK' | 'topP' | 'minP'>;

/** A token that may be drawn, with the numbers in [0, 1) that draw it. */
export interface DrawInterval {
  readonly id: number;
  readonly from: number;
  readonly to: number;
}

/** The tokens that may be drawn, in the order that sampler.ts documents. */
export function referenceIntervals(
  logits: Float32Array,
  sliceSize: number,
  params: DrawParams,
): DrawInterval[] {
  const { temperature, topK, topP, minP } = params;
  const largest = logits.reduce((a, b) => Math.max(a, b));
  const byLogit = (a: number, b: number): number => logits[b]! - logits[a]! || a - b;
  let ids = Array.from(logits.keys()).sort(byLogit);
  if (temperature < GREEDY_TEMPERATURE) return [{ id: ids[0]!, from: 0, to: 1 }];
  const weight = (id: number): number => Math.exp((logits[id]! - largest) / temperature);
  const sum = (list: number[]): number => list.reduce((total, id) => total + weight(id), 0);

  if (minP > 0) ids = ids.filter((id) => logits[id]! >= largest + temperature * Math.log(minP));
  if (topK > 0) ids = ids.slice(0, topK);
  if (topP < 1) {
    const mass = topP * sum(ids);
    let reached = 0;
    ids = ids.filter((id) => {
      const isKept = reached < mass;
      reached += weight(id);
      return isKept;
    });
  }
  if (minP === 0 && topK === 0 && topP === 1) {
    const sliceOf = (id: number): number => Math.floor(id / sliceSize);
    const maxima: number[] = [];
    for (const id of ids)
      maxima[sliceOf(id)] = Math.max(maxima[sliceOf(id)] ?? -Infinity, logits[id]!);
    const bySlice = (a: number, b: number): number =>
      maxima[sliceOf(b)]! - maxima[sliceOf(a)]! || a - b;
    ids.sort(bySlice);
  }
  const total = sum(ids);
  let reached = 0;
  return ids.map((id) => {
    const from = reached / total;
    reached += weight(id);
    return { id, from, to: reached / total };
  });
}

/** The token that `unit` draws. */
export function referenceDraw(
  logits: Float32Array,
  sliceSize: number,
  params: DrawParams,
  unit: number,
): number {
  const intervals = referenceIntervals(logits, sliceSize, params);
  const found =
    intervals.find(({ to }) => to > unit) ?? intervals.findLast(({ from, to }) => to > from);
  return found!.id;
}
