/**
 * Ctrl-C: the first one asks the running work to stop, a second one ends the process. Never a stack trace. What a service manager sends
 * (SIGTERM) and a terminal that is closed (SIGHUP) stop the work likewise, so that the screen is left in order and no half of a file on disk.
 */
import { constants } from 'node:os';
import { InterruptedError } from './errors.ts';

/** A terminal sends Ctrl-C to all processes of a command, and npm and our own launcher pass it on: what comes at once was pressed once. */
const SAME_PRESS_MS = 250;
/** Work that does not stop within this time after SIGTERM or SIGHUP is cut off. */
const END_WITHIN_MS = 5000;

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
  readonly #end = new AbortController();
  readonly #onPress = oncePerPress<NodeJS.Signals>(() => this.interrupt());
  readonly #onEnd = oncePerPress<NodeJS.Signals>((signal) => this.#endBy(signal));

  constructor() {
    process.on('SIGINT', this.#onPress).on('SIGTERM', this.#onEnd).on('SIGHUP', this.#onEnd);
  }

  /** Aborted, with an InterruptedError as its reason, by the first Ctrl-C, and by what ends the program. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Aborted only by what ends the program, for whoever lives on after Ctrl-C. */
  get end(): AbortSignal {
    return this.#end.signal;
  }

  /** Interrupts as Ctrl-C does; for a reader of raw keys. */
  interrupt(): void {
    if (this.#controller.signal.aborted) process.exit(new InterruptedError().exitCode);
    this.#controller.abort(new InterruptedError());
  }

  /** Arms a fresh signal for the next piece of work, unless the program is to end. */
  rearm(): AbortSignal {
    if (!this.#end.signal.aborted) this.#controller = new AbortController();
    return this.#controller.signal;
  }

  #endBy(signal: NodeJS.Signals): void {
    const reason = new InterruptedError(constants.signals[signal]);
    if (this.#end.signal.aborted) process.exit(reason.exitCode);
    setTimeout(() => process.exit(reason.exitCode), END_WITHIN_MS).unref();
    this.#end.abort(reason);
    this.#controller.abort(reason);
  }

  [Symbol.dispose](): void {
    process.off('SIGINT', this.#onPress).off('SIGTERM', this.#onEnd).off('SIGHUP', this.#onEnd);
  }
}
