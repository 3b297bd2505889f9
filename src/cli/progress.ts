/**
 * A progress bar on stderr for whatever takes longer than a second. Knows nothing of what is progressing: phases, bytes or items.
 * On a terminal a bar with rate and time left (cli-progress, loaded only once it is needed), elsewhere a line every five seconds.
 */
import type { SingleBar } from 'cli-progress';
import { formatBytes, formatSeconds, note } from './output.ts';

const SHOW_AFTER_MS = 1000;
const LINE_EVERY_MS = 5000;
/** The rate is that of the last seconds, so that a stall shows. */
const RATE_WINDOW_MS = 5000;

export interface ProgressUpdate {
  /** What is being done, such as `downloading smollm2.gguf`; a new label begins a new bar. */
  readonly label: string;
  readonly done: number;
  /** 0 where it is not known. */
  readonly total: number;
  readonly unit: 'bytes' | 'items';
}

interface Sample {
  readonly atMs: number;
  readonly done: number;
}

export class ProgressReporter implements Disposable {
  #label = '';
  #startedMs = 0;
  #lastLineMs = 0;
  #samples: Sample[] = [];
  #bar: SingleBar | undefined;
  #isLoading = false;
  #latest: ProgressUpdate | undefined;

  readonly update = (update: ProgressUpdate): void => {
    const now = performance.now();
    if (update.label !== this.#label) {
      this.#finish();
      this.#label = update.label;
      this.#startedMs = now;
      this.#lastLineMs = now;
    }
    this.#latest = update;
    this.#samples.push({ atMs: now, done: update.done });
    while (this.#samples.length > 2 && now - (this.#samples[1]?.atMs ?? now) > RATE_WINDOW_MS) {
      this.#samples.shift();
    }
    if (this.#samples.length > 400) this.#samples.splice(1, 200);
    if (now - this.#startedMs < SHOW_AFTER_MS) return;
    if (process.stderr.isTTY) this.#draw(update);
    else if (now - this.#lastLineMs >= LINE_EVERY_MS) {
      this.#lastLineMs = now;
      note(`${update.label}: ${this.#figures(update)}`);
    }
  };

  /** Takes the bar away from the terminal. */
  [Symbol.dispose](): void {
    this.#finish();
    this.#label = '';
  }

  #draw(update: ProgressUpdate): void {
    if (this.#bar) {
      this.#bar.update(update.done);
      return;
    }
    if (this.#isLoading) return;
    this.#isLoading = true;
    void import('cli-progress').then(({ default: { SingleBar, Presets } }) => {
      this.#isLoading = false;
      const latest = this.#latest;
      if (!latest || this.#label === '') return;
      this.#bar = new SingleBar(
        {
          stream: process.stderr,
          hideCursor: true,
          clearOnComplete: true,
          format: (options, params) => {
            const width = 24;
            const full = Math.round(params.progress * width);
            const bar =
              (options.barCompleteString ?? '').slice(0, full) +
              (options.barIncompleteString ?? '').slice(0, width - full);
            return `${this.#label} ${bar} ${this.#latest ? this.#figures(this.#latest) : ''}`;
          },
        },
        Presets.shades_classic,
      );
      this.#bar.start(Math.max(latest.total, latest.done, 1), latest.done);
    });
  }

  #figures({ done, total, unit }: ProgressUpdate): string {
    const show = (value: number) => (unit === 'bytes' ? formatBytes(value) : value.toFixed(0));
    const first = this.#samples[0];
    const last = this.#samples.at(-1);
    const elapsedS = first && last ? (last.atMs - first.atMs) / 1000 : 0;
    const perSecond = first && last && elapsedS > 0 ? (last.done - first.done) / elapsedS : 0;
    const parts = [total > 0 ? `${show(done)} / ${show(total)}` : show(done)];
    if (perSecond > 0) {
      parts.push(unit === 'bytes' ? `${formatBytes(perSecond)}/s` : `${perSecond.toFixed(1)}/s`);
      if (total > done) parts.push(`ETA ${formatSeconds((total - done) / perSecond)}`);
    }
    return parts.join('  ');
  }

  #finish(): void {
    this.#bar?.stop();
    this.#bar = undefined;
    this.#samples = [];
    this.#latest = undefined;
  }
}
