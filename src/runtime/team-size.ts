/**
 * How many threads the next step runs on. Results do not depend on it (docs/architecture.md, principle 5), so it may change from step to step.
 *
 * Where another process wants a core, a thread of the team is held up at every barrier, and a short step on all threads takes several times as long as on
 * one fewer. That shows as threads falling asleep at barriers, which a quiet machine never does in a short step. Then the team shrinks for a while,
 * longer each time it does not help to grow again.
 */

/** Longer steps have chunks so large that threads sleep at barriers anyway, and lose little by being held up. */
const SHORT_STEP_TOKENS = 32;
/** Sleeps in a short step that mean contention. */
const SLEEPS_OF_CONTENTION = 4;
const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 2000;

export class TeamSizePolicy {
  readonly #max: number;
  #size: number;
  #pauseMs = FIRST_PAUSE_MS;
  #growAtMs = 0;

  constructor(maxThreads: number) {
    this.#max = maxThreads;
    this.#size = maxThreads;
  }

  choose(numTokens: number, nowMs: number): number {
    if (numTokens > SHORT_STEP_TOKENS) return this.#max;
    if (this.#size < this.#max && nowMs >= this.#growAtMs) this.#size++;
    return this.#size;
  }

  /** @param sleeps of all threads at barriers of the step */
  observe(numTokens: number, threads: number, sleeps: number, nowMs: number): void {
    if (numTokens > SHORT_STEP_TOKENS || threads !== this.#size) return;
    if (sleeps >= SLEEPS_OF_CONTENTION && threads > 1) {
      this.#size = threads - 1;
      this.#growAtMs = nowMs + this.#pauseMs;
      this.#pauseMs = Math.min(LONGEST_PAUSE_MS, this.#pauseMs * 2);
    } else if (threads === this.#max) {
      this.#pauseMs = FIRST_PAUSE_MS;
    }
  }
}
