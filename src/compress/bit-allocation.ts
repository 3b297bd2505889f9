/**
 * Which of several formats each of many tensors gets so that the sum of losses is least within a budget of bytes. Pure and deterministic; knows nothing of where
 * losses come from.
 *
 * Per tensor only the formats on the lower convex hull of (bytes, loss) can be part of an optimum of the relaxed problem. All begin at their smallest; then
 * the step with the most loss saved per byte is taken as long as it fits (the greedy solution of a knapsack by gain per weight: it is at most the loss of one
 * step away from the optimum, small steps fill what is left).
 */
import type { DType } from '../tensor/dtype.ts';
import { CompressError } from './errors.ts';

export interface Choice<Format = DType> {
  readonly dtype: Format;
  readonly bytes: number;
  readonly loss: number;
}

export interface AllocationUnit<Format = DType> {
  readonly name: string;
  readonly choices: readonly Choice<Format>[];
}

/** The choices that may be worth their bytes: ascending in bytes, falling in loss, ever less loss saved per byte. */
export function worthwhileChoices<Format>(choices: readonly Choice<Format>[]): Choice<Format>[] {
  const sorted = choices.toSorted((a, b) => a.bytes - b.bytes || a.loss - b.loss);
  const hull: Choice<Format>[] = [];
  for (const choice of sorted) {
    const last = hull.at(-1);
    if (last !== undefined && choice.loss >= last.loss) continue;
    while (hull.length >= 2 && gain(hull.at(-2)!, hull.at(-1)!) <= gain(hull.at(-1)!, choice)) {
      hull.pop();
    }
    if (hull.length === 1 && hull[0]!.bytes === choice.bytes) hull.pop();
    hull.push(choice);
  }
  return hull;
}

/** Loss saved per byte. */
function gain(from: Choice<unknown>, to: Choice<unknown>): number {
  return (from.loss - to.loss) / (to.bytes - from.bytes);
}

/**
 * @returns a choice for each unit, by name
 * @throws {CompressError} if even the smallest choices take more than `budgetBytes`
 */
export function allocateBits<Format>(
  units: readonly AllocationUnit<Format>[],
  budgetBytes: number,
): Map<string, Choice<Format>> {
  const hulls = units.map(({ choices }) => worthwhileChoices(choices));
  const at = hulls.map(() => 0);
  let left = budgetBytes - hulls.reduce((sum, hull) => sum + hull[0]!.bytes, 0);
  if (left < 0) {
    throw new CompressError(
      `the smallest formats take ${budgetBytes - left} bytes; beside what is not rounded, the target leaves ${budgetBytes > 0 ? `${budgetBytes} for them` : 'nothing'}`,
    );
  }
  for (;;) {
    let best = -1;
    let bestGain = 0;
    for (const [i, hull] of hulls.entries()) {
      const [from, to] = [hull[at[i]!]!, hull[at[i]! + 1]];
      if (to === undefined || to.bytes - from.bytes > left) continue;
      const each = gain(from, to);
      if (each <= bestGain) continue;
      best = i;
      bestGain = each;
    }
    if (best < 0) break;
    left -= hulls[best]![at[best]! + 1]!.bytes - hulls[best]![at[best]!]!.bytes;
    at[best]!++;
  }
  return new Map(units.map(({ name }, i) => [name, hulls[i]![at[i]!]!]));
}
