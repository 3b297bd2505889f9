/**
 * How many threads the next step runs on. Results do not depend on it (docs/architecture.md, principle 5), so it may change from step to step.
 *
 * Where another process wants a core, a thread of the team is held up at every barrier, and a short step on all threads takes several times as long as on
 * one fewer. Threads that fall asleep at barriers are the hint; but they also do where a step is bound by memory and its parts end unevenly, and there all
 * threads are faster. So a hint starts a trial of a few steps, and the clock decides. A trial that does not help is not repeated for a while, longer each time.
 */

/** Longer steps have chunks so large that threads sleep at barriers anyway, and lose little by being held up. */
const SHORT_STEP_TOKENS = 32;
/** Sleeps in a short step that hint at contention. */
const SLEEPS_OF_CONTENTION = 4;
const TRIAL_STEPS = 3;
/** Another size is taken if its steps take less than this share of the time. */
const WORTH_CHANGING = 0.95;
/** A step this much longer than usual means that something has changed: what earlier trials said no longer counts. It also ends a trial. */
const UNUSUAL = 1.5;
const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 2000;
/** Weight of the newest step in the usual time. */
const NEWEST = 0.3;

interface Trial {
  readonly size: number;
  numSteps: number;
  /** Sum over its steps of time / usual time of the present size. */
  ratios: number;
}

export class TeamSizePolicy {
  readonly #max: number;
  #size: number;
  /** Usual milliseconds of a step on `#size` threads, by its tokens; 0 where unknown. */
  readonly #usualMs = new Float64Array(SHORT_STEP_TOKENS + 1);
  /** When the step began, f64 [1]: a field would be a new heap number each step. */
  readonly #startMs = new Float64Array(1);
  #trial: Trial | null = null;
  #growPauseMs = FIRST_PAUSE_MS;
  #growAtMs = 0;
  #shrinkPauseMs = FIRST_PAUSE_MS;
  #shrinkAtMs = 0;

  constructor(maxThreads: number) {
    this.#max = maxThreads;
    this.#size = maxThreads;
  }

  /** Threads for the step that begins now. */
  choose(numTokens: number, nowMs: number): number {
    if (numTokens > SHORT_STEP_TOKENS) return this.#max;
    this.#startMs[0] = nowMs;
    if (this.#trial === null && this.#size < this.#max && nowMs >= this.#growAtMs) {
      this.#begin(this.#size + 1);
    }
    return this.#trial?.size ?? this.#size;
  }

  /**
   * The step that was last chosen for is done.
   *
   * @param sleeps of all threads at barriers of the step
   */
  observe(numTokens: number, threads: number, sleeps: number, nowMs: number): void {
    if (numTokens > SHORT_STEP_TOKENS || this.#max === 1) return;
    const stepMs = nowMs - this.#startMs[0]!;
    if (this.#trial !== null) {
      if (threads === this.#trial.size) this.#advance(this.#trial, numTokens, stepMs, nowMs);
      return;
    }
    if (threads !== this.#size) return;
    const usual = this.#usualMs[numTokens]!;
    const isUnusual = usual > 0 && stepMs > UNUSUAL * usual;
    this.#usualMs[numTokens] = usual > 0 ? usual + NEWEST * (stepMs - usual) : stepMs;
    if (threads > 1 && sleeps >= SLEEPS_OF_CONTENTION && (isUnusual || nowMs >= this.#shrinkAtMs)) {
      this.#begin(threads - 1);
    }
  }

  #begin(size: number): void {
    this.#trial = { size, numSteps: 0, ratios: 0 };
  }

  #advance(trial: Trial, numTokens: number, stepMs: number, nowMs: number): void {
    const usual = this.#usualMs[numTokens]!;
    const ratio = usual > 0 ? stepMs / usual : 1;
    trial.ratios += ratio;
    trial.numSteps++;
    if (trial.numSteps < TRIAL_STEPS && ratio < UNUSUAL) return;
    this.#trial = null;
    const isGrowing = trial.size > this.#size;
    const isBetter = trial.ratios / trial.numSteps < WORTH_CHANGING;
    if (isBetter) {
      this.#size = trial.size;
      this.#usualMs.fill(0);
    }
    if (isBetter === isGrowing) {
      // The larger team it is.
      this.#growPauseMs = FIRST_PAUSE_MS;
      this.#shrinkAtMs = nowMs + this.#shrinkPauseMs;
      if (!isGrowing) this.#shrinkPauseMs = Math.min(LONGEST_PAUSE_MS, this.#shrinkPauseMs * 2);
    } else {
      this.#shrinkPauseMs = FIRST_PAUSE_MS;
      this.#growAtMs = nowMs + this.#growPauseMs;
      this.#growPauseMs = Math.min(LONGEST_PAUSE_MS, this.#growPauseMs * 2);
    }
  }
}
