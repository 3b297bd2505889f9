/**
 * What a pull reports while it runs, and the meter that turns byte counts into rate and time left.
 * Knows nothing of terminals.
 */

/**
 * `resolving`: asking the source what there is; `waiting`: another process pulls the same repository;
 * `downloading`; `unpacking`: taking the file out of a wheel; `verifying`: hashing what an earlier run left; `done`: this file is whole.
 */
export type PullPhase =
  | 'resolving'
  | 'waiting'
  | 'downloading'
  | 'unpacking'
  | 'verifying'
  | 'done';

export interface ProgressEvent {
  readonly phase: PullPhase;
  /** The file, or the repository or package while there is no file yet. */
  readonly file: string;
  /** Of this file, those of an earlier run included. */
  readonly receivedBytes: number;
  readonly totalBytes: number | undefined;
  /** Over the last seconds; undefined until there is something to measure. */
  readonly bytesPerSecond: number | undefined;
  readonly etaSeconds: number | undefined;
}

export type ProgressListener = (event: ProgressEvent) => void;

/** An event of a phase in which no bytes flow. */
export function idleEvent(phase: PullPhase, file: string): ProgressEvent {
  return {
    phase,
    file,
    receivedBytes: 0,
    totalBytes: undefined,
    bytesPerSecond: undefined,
    etaSeconds: undefined,
  };
}

const WINDOW_MS = 4000;
const REPORT_EVERY_MS = 100;

/** Reports at most ten times a second, with the rate over a sliding window. */
export class ProgressMeter {
  readonly #listener: ProgressListener | undefined;
  readonly #now: () => number;
  readonly #file: string;
  #samples: { timeMs: number; bytes: number }[] = [];
  #lastReportMs = Number.NEGATIVE_INFINITY;

  constructor(
    file: string,
    listener: ProgressListener | undefined,
    now: () => number = () => performance.now(),
  ) {
    this.#file = file;
    this.#listener = listener;
    this.#now = now;
  }

  /** Call once before bytes start to flow, with what is already there, so that it does not count as speed. */
  start(phase: PullPhase, receivedBytes: number, totalBytes: number | undefined): void {
    this.#samples = [{ timeMs: this.#now(), bytes: receivedBytes }];
    this.#report(phase, receivedBytes, totalBytes, undefined);
  }

  advance(phase: PullPhase, receivedBytes: number, totalBytes: number | undefined): void {
    const timeMs = this.#now();
    if (timeMs - this.#lastReportMs < REPORT_EVERY_MS) return;
    this.#samples.push({ timeMs, bytes: receivedBytes });
    while (this.#samples.length > 2 && timeMs - this.#samples[1]!.timeMs > WINDOW_MS) {
      this.#samples.shift();
    }
    const first = this.#samples[0]!;
    const rate = ((receivedBytes - first.bytes) * 1000) / (timeMs - first.timeMs);
    this.#report(
      phase,
      receivedBytes,
      totalBytes,
      rate > 0 && Number.isFinite(rate) ? rate : undefined,
    );
  }

  finish(sizeBytes: number): void {
    this.#report('done', sizeBytes, sizeBytes, undefined);
  }

  #report(
    phase: PullPhase,
    receivedBytes: number,
    totalBytes: number | undefined,
    bytesPerSecond: number | undefined,
  ): void {
    this.#lastReportMs = this.#now();
    const left = totalBytes === undefined ? undefined : Math.max(0, totalBytes - receivedBytes);
    this.#listener?.({
      phase,
      file: this.#file,
      receivedBytes,
      totalBytes,
      bytesPerSecond,
      etaSeconds:
        left === undefined || bytesPerSecond === undefined ? undefined : left / bytesPerSecond,
    });
  }
}
