/** Log probabilities of given tokens, straight from a runner's logits. */
import type { ModelRunner } from '../targets/model-runner.ts';
import type { SequenceDriver } from './sequence-driver.ts';

/** Rows of logits per step that keep their buffer at some 16 MB. */
export function scoringRows(vocabSize: number): number {
  return Math.max(8, Math.min(256, Math.floor(2 ** 22 / vocabSize)));
}

/** log(sum of exp(logit)) of a row of the last step, from the slices that came with it. */
export function logSumExp(runner: ModelRunner, row: number): number {
  const max = runner.sliceMax(row);
  const sums = runner.sliceExpSum(row);
  const largest = max.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  let total = 0;
  for (let slice = 0; slice < max.length; slice++) {
    total += sums[slice]! * Math.exp(max[slice]! - largest);
  }
  return largest + Math.log(total);
}

/**
 * Mean negative log likelihood of tokens 1.. of a window, each given those before it.
 * @param driver is reset first
 */
export async function windowNll(
  runner: ModelRunner,
  driver: SequenceDriver,
  tokenIds: ArrayLike<number>,
): Promise<number> {
  driver.reset();
  let sum = 0;
  await driver.feed(tokenIds, 'all', (position, row) => {
    if (position + 1 === tokenIds.length) return;
    sum += logSumExp(runner, row) - runner.logits(row)[tokenIds[position + 1]!]!;
  });
  return sum / (tokenIds.length - 1);
}

/** Ids of the `count` largest logits, the largest first; of equal ones the lower id first. */
export function topIds(logits: Float32Array, count: number): number[] {
  const top: number[] = [];
  for (let id = 0; id < logits.length; id++) {
    const logit = logits[id]!;
    if (top.length === count && !(logit > logits[top[count - 1]!]!)) continue;
    let place = top.length;
    while (place > 0 && logit > logits[top[place - 1]!]!) place--;
    top.splice(place, 0, id);
    if (top.length > count) top.pop();
  }
  return top;
}
