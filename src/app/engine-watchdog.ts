/**
 * Notices an engine that hangs: asks it for a sign of life again and again, which it gives between two steps. Knows nothing of why it hangs, nor
 * of what follows.
 */

/** Questions within the time that an engine may take. */
const QUESTIONS_PER_TIMEOUT = 4;
const LONGEST_PAUSE_MS = 5000;

export interface EngineWatchdogOptions {
  readonly timeoutMs: number;
  /** Asks; settles with the answer, or when it is clear that none will come. */
  readonly ask: () => Promise<unknown>;
  /** Called once, when an answer is overdue. */
  readonly onHang: () => void;
}

export class EngineWatchdog implements Disposable {
  readonly #options: EngineWatchdogOptions;
  readonly #pauseMs: number;
  readonly #timer: NodeJS.Timeout;
  /** When the question was asked that has no answer yet; `null`: none is open. */
  #askedMs: number | null = null;
  #lastTickMs = performance.now();

  constructor(options: EngineWatchdogOptions) {
    this.#options = options;
    this.#pauseMs = Math.min(options.timeoutMs / QUESTIONS_PER_TIMEOUT, LONGEST_PAUSE_MS);
    this.#timer = setInterval(() => this.#tick(), this.#pauseMs);
    this.#timer.unref();
  }

  #tick(): void {
    const nowMs = performance.now();
    // Whoever was held up himself may not have read the answer yet: the time starts again.
    const wasHeldUp = nowMs - this.#lastTickMs > 2 * this.#pauseMs;
    this.#lastTickMs = nowMs;
    if (this.#askedMs === null) this.#ask(nowMs);
    else if (wasHeldUp) this.#askedMs = nowMs;
    else if (nowMs - this.#askedMs >= this.#options.timeoutMs) {
      this[Symbol.dispose]();
      this.#options.onHang();
    }
  }

  #ask(nowMs: number): void {
    this.#askedMs = nowMs;
    const answered = (): void => {
      this.#askedMs = null;
    };
    this.#options.ask().then(answered, answered);
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }
}
