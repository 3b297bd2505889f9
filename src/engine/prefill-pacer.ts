/**
 * Decides how many prompt tokens a step may take beside running streams: few when little waits, so that streams keep their pace, more when
 * much waits, so that the machine is used well. Without running streams a step takes all it can.
 *
 * It learns what steps cost from their times; the size of a step never changes a token of the output, only when it comes.
 */

export interface PrefillPacerOptions {
  /** Wished time of a step with streams in it when one request waits, milliseconds. */
  readonly targetStepMs: number;
  /** The same when `fullQueue` or more wait: the bound of what a stream may have to wait for its next token. */
  readonly maxStepMs: number;
  /** Requests waiting or in their prompt at which `maxStepMs` is used. */
  readonly fullQueue: number;
  /** Never fewer prompt tokens than this, however slow the machine is. */
  readonly minTokens: number;
}

export const DEFAULT_PREFILL_PACER_OPTIONS: PrefillPacerOptions = {
  targetStepMs: 60,
  maxStepMs: 200,
  fullQueue: 8,
  minTokens: 16,
};

/** Share of a new measurement in the running mean. */
const LEARNING_RATE = 0.2;
/** Prompt tokens in a step while nothing is known of the machine yet. */
const FIRST_GUESS = 64;

export class PrefillPacer {
  readonly #options: PrefillPacerOptions;
  /** Time of a step that only goes on with streams, per stream count 1, 2-3, 4-7, ...; `null` before the first. */
  readonly #streamStepMs: (number | null)[] = [];
  #promptTokenMs: number | null = null;

  constructor(options: PrefillPacerOptions = DEFAULT_PREFILL_PACER_OPTIONS) {
    this.#options = options;
  }

  /** What a prompt token is known to take; `null` before the first. */
  get promptTokenMs(): number | null {
    return this.#promptTokenMs;
  }

  /**
   * @param numStreams sequences that get their next token in this step
   * @param numWaiting sequences with prompt tokens still to compute
   */
  promptTokens(numStreams: number, numWaiting: number): number {
    if (numStreams === 0) return Number.POSITIVE_INFINITY;
    if (this.#promptTokenMs === null) return Math.max(FIRST_GUESS, this.#options.minTokens);
    const { targetStepMs, maxStepMs, fullQueue, minTokens } = this.#options;
    const load = Math.min(Math.max(numWaiting - 1, 0) / Math.max(fullQueue - 1, 1), 1);
    const budgetMs = targetStepMs + (maxStepMs - targetStepMs) * load;
    const left = budgetMs - this.#streamMs(numStreams);
    return Math.max(minTokens, Math.floor(left / this.#promptTokenMs));
  }

  /** Learns from a step that took `stepMs`. */
  observe(numStreams: number, numPromptTokens: number, stepMs: number): void {
    if (numPromptTokens === 0) {
      const size = sizeClass(numStreams);
      this.#streamStepMs[size] = mean(this.#streamStepMs[size] ?? null, stepMs);
    } else {
      // The streams' share is what they cost alone; at least a tenth of the time is the prompt's.
      const promptMs = Math.max(stepMs - this.#streamMs(numStreams), stepMs / 10);
      this.#promptTokenMs = mean(this.#promptTokenMs, promptMs / numPromptTokens);
    }
  }

  /** What streams alone are known to take, from the nearest count that was seen. */
  #streamMs(numStreams: number): number {
    if (numStreams === 0) return 0;
    const size = sizeClass(numStreams);
    for (let other = size; other >= 0; other--) {
      const ms = this.#streamStepMs[other] ?? null;
      if (ms !== null) return ms;
    }
    return 0;
  }
}

function sizeClass(numStreams: number): number {
  return 31 - Math.clz32(numStreams);
}

function mean(before: number | null, sample: number): number {
  return before === null ? sample : before + LEARNING_RATE * (sample - before);
}
