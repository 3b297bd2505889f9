/** How long prompts and answers are, in tokens. Knows nothing of what is in them. */
import type { SeededRandom } from './random.ts';

export interface Lengths {
  readonly inputTokens: number;
  readonly outputTokens: number;
}

/**
 * `sharegpt`: log-normal lengths like those of the ShareGPT conversations as serving benchmarks filter them (4 to 1024 tokens each way, together at
 * most `maxTotalTokens`): means about 200 and 200, medians about 100 and 130, a long tail.
 * `fixed`: the given lengths, each drawn evenly from ±`rangeRatio` around it.
 */
export type LengthMix =
  | { readonly kind: 'sharegpt'; readonly maxTotalTokens: number }
  | {
      readonly kind: 'fixed';
      readonly inputTokens: number;
      readonly outputTokens: number;
      readonly rangeRatio: number;
    };

const SHORTEST = 4;
const LONGEST = 1024;
const INPUT = { median: 100, sigma: 1.2 };
const OUTPUT = { median: 130, sigma: 0.95 };

export function drawLengths(mix: LengthMix, random: SeededRandom): Lengths {
  switch (mix.kind) {
    case 'fixed': {
      const around = (tokens: number): number =>
        Math.max(
          1,
          random.integer(
            Math.floor(tokens * (1 - mix.rangeRatio)),
            Math.ceil(tokens * (1 + mix.rangeRatio)),
          ),
        );
      const inputTokens = around(mix.inputTokens);
      return { inputTokens, outputTokens: around(mix.outputTokens) };
    }
    case 'sharegpt': {
      // What does not fit is drawn again, as the benchmarks leave such conversations out.
      for (;;) {
        const inputTokens = Math.round(random.logNormal(INPUT.median, INPUT.sigma));
        const outputTokens = Math.round(random.logNormal(OUTPUT.median, OUTPUT.sigma));
        const fits =
          Math.min(inputTokens, outputTokens) >= SHORTEST &&
          Math.max(inputTokens, outputTokens) <= LONGEST &&
          inputTokens + outputTokens <= mix.maxTotalTokens;
        if (fits) return { inputTokens, outputTokens };
      }
    }
    default:
      return mix satisfies never;
  }
}

/** The smallest total in which `sharegpt` lengths are still found quickly. */
export const SMALLEST_TOTAL = 32;
