/**
 * Ctrl-C: the first one asks the running work to stop, a second one ends the process. Never a stack trace.
 */
import { InterruptedError } from './errors.ts';

/** A terminal sends Ctrl-C to all processes of a command, and npm and our own launcher pass it on: what comes at once was pressed once. */
const SAME_PRESS_MS = 250;

/** Calls `listener` for each press of Ctrl-C, whatever the number of signals. */
export function oncePerPress<Signal>(listener: (signal: Signal) => void): (signal: Signal) => void {
  let lastMs = Number.NEGATIVE_INFINITY;
  return (signal) => {
    const nowMs = performance.now();
    if (nowMs - lastMs < SAME_PRESS_MS) return;
    lastMs = nowMs;
    listener(signal);
  };
}

export class InterruptHandler implements Disposable {
  #controller = new AbortController();
  readonly #onSignal = oncePerPress<NodeJS.Signals>(() => this.interrupt());

  constructor() {
    process.on('SIGINT', this.#onSignal);
  }

  /** Aborted, with an InterruptedError as its reason, by the first Ctrl-C. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Interrupts as Ctrl-C does; for a reader of raw keys. */
  interrupt(): void {
    if (this.#controller.signal.aborted) process.exit(130);
    this.#controller.abort(new InterruptedError());
  }

  /** Arms a fresh signal for the next piece of work. */
  rearm(): AbortSignal {
    this.#controller = new AbortController();
    return this.#controller.signal;
  }

  [Symbol.dispose](): void {
    process.off('SIGINT', this.#onSignal);
  }
}
