/**
 * Ctrl-C: the first one asks the running work to stop, a second one ends the process. Never a stack trace.
 */
import { InterruptedError } from './errors.ts';

export class InterruptHandler implements Disposable {
  #controller = new AbortController();
  readonly #onSignal = (): void => {
    if (this.#controller.signal.aborted) process.exit(130);
    this.#controller.abort(new InterruptedError());
  };

  constructor() {
    process.on('SIGINT', this.#onSignal);
  }

  /** Aborted, with an InterruptedError as its reason, by the first Ctrl-C. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Interrupts as Ctrl-C does; for a reader of raw keys. */
  interrupt(): void {
    this.#onSignal();
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
