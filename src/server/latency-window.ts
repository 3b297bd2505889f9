/** Percentiles over the last samples of a latency, and rates over the last seconds; for eyes, not for alerts. */

const MAX_SAMPLES = 2048;
const RATE_SECONDS = 60;

export interface Percentiles {
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
}

export class LatencyWindow {
  readonly #samples = new Float64Array(MAX_SAMPLES);
  #numSeen = 0;

  add(value: number): void {
    this.#samples[this.#numSeen++ % MAX_SAMPLES] = value;
  }

  /** null before the first sample. */
  get percentiles(): Percentiles | null {
    const sorted = this.#samples.slice(0, Math.min(this.#numSeen, MAX_SAMPLES)).sort();
    if (sorted.length === 0) return null;
    const at = (share: number): number => sorted[Math.ceil(share * sorted.length) - 1]!;
    return { p50: at(0.5), p90: at(0.9), p99: at(0.99) };
  }
}

/** Counts per second, the last minute of them. */
export class RateWindow {
  readonly #counts = new Float64Array(RATE_SECONDS);
  #second = 0;

  add(count: number, nowMs: number): void {
    this.#moveTo(nowMs);
    const place = this.#second % RATE_SECONDS;
    this.#counts[place] = this.#counts[place]! + count;
  }

  /** The whole seconds before this one, the oldest first; `RATE_SECONDS - 1` of them. */
  perSecond(nowMs: number): number[] {
    this.#moveTo(nowMs);
    return Array.from(
      { length: RATE_SECONDS - 1 },
      (_, i) => this.#counts[(this.#second + 1 + i) % RATE_SECONDS]!,
    );
  }

  #moveTo(nowMs: number): void {
    const second = Math.floor(nowMs / 1000);
    const numPassed = Math.min(RATE_SECONDS, second - this.#second);
    for (let i = 0; i < numPassed; i++) this.#counts[(second - i) % RATE_SECONDS] = 0;
    this.#second = Math.max(this.#second, second);
  }
}
