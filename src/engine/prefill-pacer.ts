/**
 * Decides how many prompt tokens a step may take beside running streams: few when little waits, so that streams keep their pace, more when
 * much waits, so that the machine is used well. Without running streams a step takes all it can, unless it may have to give way.
 *
 * It learns what steps cost from their times; the size of a step never changes a token of the output, only when it comes.
 */

export interface PrefillPacerOptions {
  /** Wished time of a step with streams in it when `fewWaiting` or fewer wait, milliseconds. */
  readonly targetStepMs: number;
  /** The same when `manyWaiting` or more wait: the bound of what a stream may have to wait for its next token. */
  readonly maxStepMs: number;
  /** Used for `maxStepMs` where the step gives way: the bound of what a request of a higher class may have to wait for the step under way. */
  readonly yieldStepMs: number;
  /** Requests waiting or in their prompt up to which `targetStepMs` is used, and from which on `maxStepMs` is. */
  readonly fewWaiting: number;
  readonly manyWaiting: number;
  /** Never fewer prompt tokens than this, however slow the machine is. */
  readonly minTokens: number;
}

export const DEFAULT_PREFILL_PACER_OPTIONS: PrefillPacerOptions = {
  targetStepMs: 20,
  maxStepMs: 60,
  yieldStepMs: 40,
  fewWaiting: 4,
  manyWaiting: 10,
  minTokens: 16,
};

/** The defaults, with steps of at most so long; few waiting ones never make longer steps than many do. */
export function pacingWithin(
  maxStepMs: number = DEFAULT_PREFILL_PACER_OPTIONS.maxStepMs,
): PrefillPacerOptions {
  const { targetStepMs } = DEFAULT_PREFILL_PACER_OPTIONS;
  return {
    ...DEFAULT_PREFILL_PACER_OPTIONS,
    targetStepMs: Math.min(targetStepMs, maxStepMs),
    maxStepMs,
  };
}

/** Share of a new measurement in the running mean. */
const LEARNING_RATE = 0.2;
/** Share of what one size of chunk shows that counts for the others, and by how much more it may be off for that. */
const SHARED_RATE = 0.1;
const MAX_RATIO = 4;
/** Prompt tokens in a step while nothing is known of the machine yet. */
const FIRST_GUESS = 64;

export class PrefillPacer {
  readonly #options: PrefillPacerOptions;
  /** Time of a step that only goes on with streams, per stream count 1, 2-3, 4-7, ...; `null` before the first. */
  readonly #streamStepMs: (number | null)[] = [];
  /** What a prompt token takes in a step with 1, 2-3, 4-7, ... of them, since large chunks take less a token; `null` before the first. */
  readonly #chunkTokenMs: (number | null)[] = [];
  #promptTokenMs: number | null = null;

  constructor(options: PrefillPacerOptions = DEFAULT_PREFILL_PACER_OPTIONS) {
    this.#options = options;
  }

  /** What a prompt token took in the last steps; `null` before the first. */
  get promptTokenMs(): number | null {
    return this.#promptTokenMs;
  }

  /**
   * @param numStreams sequences that get their next token in this step, and tokens drafted for them
   * @param numWaiting sequences with prompt tokens still to compute
   * @param givesWay   whether its prompts are all of the lowest class: then it is bounded without streams, too
   */
  promptTokens(numStreams: number, numWaiting: number, givesWay: boolean): number {
    if (numStreams === 0 && !givesWay) return Number.POSITIVE_INFINITY;
    if (this.#promptTokenMs === null) return Math.max(FIRST_GUESS, this.#options.minTokens);
    const { maxStepMs, yieldStepMs } = this.#options;
    const mostMs = givesWay ? Math.min(yieldStepMs, maxStepMs) : maxStepMs;
    const budgetMs = numStreams === 0 ? mostMs : this.#budgetMs(numWaiting, mostMs);
    const left = budgetMs - this.#streamMs(numStreams);
    return Math.max(this.#options.minTokens, this.#tokensIn(left));
  }

  /** The largest chunk that is known to take no longer; 0 if even small ones do. */
  #tokensIn(ms: number): number {
    for (let size = this.#chunkTokenMs.length - 1; size >= 0; size--) {
      const least = 2 ** size;
      const tokenMs = nearest(this.#chunkTokenMs, size);
      const count = Math.floor(ms / tokenMs);
      const isLargest = size === this.#chunkTokenMs.length - 1;
      if (count >= least) return isLargest ? count : Math.min(count, 2 * least - 1);
    }
    return 0;
  }

  #budgetMs(numWaiting: number, mostMs: number): number {
    const { targetStepMs, fewWaiting, manyWaiting } = this.#options;
    const load = (numWaiting - fewWaiting) / Math.max(manyWaiting - fewWaiting, 1);
    return targetStepMs + (mostMs - targetStepMs) * Math.min(Math.max(load, 0), 1);
  }

  /** Learns from a step that took `stepMs`. */
  observe(numStreams: number, numPromptTokens: number, stepMs: number): void {
    if (numPromptTokens === 0) {
      const size = sizeClass(numStreams);
      this.#streamStepMs[size] = mean(this.#streamStepMs[size] ?? null, stepMs);
    } else {
      // The streams' share is what they cost alone; at least a tenth of the time is the prompt's.
      const promptMs = Math.max(stepMs - this.#streamMs(numStreams), stepMs / 10);
      this.#learnChunk(sizeClass(numPromptTokens), promptMs / numPromptTokens);
    }
  }

  #learnChunk(size: number, tokenMs: number): void {
    const known = this.#chunkTokenMs;
    const before = known[size] ?? null;
    while (known.length < size) known.push(null);
    if (before !== null) {
      // A machine that slows down does so for all sizes, those that do not come up now among them.
      const shift = 1 + SHARED_RATE * (Math.min(tokenMs / before, MAX_RATIO) - 1);
      for (const [other, ms] of known.entries()) if (ms !== null) known[other] = ms * shift;
    }
    known[size] = mean(before, tokenMs);
    this.#promptTokenMs = mean(this.#promptTokenMs, tokenMs);
  }

  /** What streams alone are known to take, from the nearest count that was seen. */
  #streamMs(numStreams: number): number {
    return numStreams === 0 ? 0 : nearest(this.#streamStepMs, sizeClass(numStreams));
  }
}

function sizeClass(count: number): number {
  return 31 - Math.clz32(count);
}

/** The value of a size or the nearest smaller one, else the nearest larger one, that has one; 0 if none has. */
function nearest(values: readonly (number | null)[], size: number): number {
  for (let other = size; other >= 0; other--) if (values[other] != null) return values[other]!;
  for (let other = size + 1; other < values.length; other++) {
    if (values[other] != null) return values[other]!;
  }
  return 0;
}

function mean(before: number | null, sample: number): number {
  return before === null ? sample : before + LEARNING_RATE * (sample - before);
}
