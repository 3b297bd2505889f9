/**
 * One grammar worker as the engine's thread sees it. Opening is asynchronous; asking for masks is not: the answer is waited for, as the step
 * needs it. A worker that failed or took too long is never used again; who takes over is the pool's business.
 */
import { Worker } from 'node:worker_threads';
import type { GrammarSpec } from './grammar-spec.ts';
import { type GrammarVocabulary, maskWords } from './vocabulary.ts';
import {
  CONTROL,
  CONTROL_WORDS,
  type GrammarWorkerData,
  type HostMessage,
  JOB_FAILED,
  type WorkerMessage,
} from './worker-protocol.ts';

/** Time to start, to compile one grammar, and for the masks of one step. */
const START_MS = 60_000;
const COMPILE_MS = 10_000;
const JOB_MS = 5_000;

/** A text under a grammar. Its matcher lives in the worker of its host, and can be made again from spec and tokens. */
export interface GrammarSession {
  readonly sessionId: number;
  readonly spec: GrammarSpec;
  readonly key: string;
  host: GrammarHost;
  /** Tokens of the output that the matcher has taken in. */
  numSent: number;
  /** Why it cannot go on. */
  failure: Error | null;
}

/** What is wanted for one session in one step. */
export interface GrammarAsk {
  readonly session: GrammarSession;
  /** All of its output so far. */
  readonly output: Int32Array;
  readonly drafts: Int32Array;
  /** Where its first mask goes. */
  readonly row: number;
}

export type OpenResult =
  | { readonly type: 'opened' }
  | { readonly type: 'refused'; readonly reason: string }
  /** The worker went away for another reason: try elsewhere. */
  | { readonly type: 'lost'; readonly reason: string };

export type JobResult =
  | { readonly type: 'done'; readonly numAccepted: number }
  | { readonly type: 'failed'; readonly sessionId: number; readonly reason: string };

interface PendingOpen {
  readonly session: GrammarSession;
  readonly settle: (result: OpenResult) => void;
  timer: NodeJS.Timeout | undefined;
}

export class GrammarHost {
  readonly #worker: Worker;
  readonly #control = new Int32Array(new SharedArrayBuffer(4 * CONTROL_WORDS));
  readonly #masks: Int32Array;
  readonly #words: number;
  readonly #keys = new Set<string>();
  readonly #sessions = new Set<GrammarSession>();
  readonly #pending = new Map<number, PendingOpen>();
  #numJobs = 0;
  #isReady = false;
  #isBroken = false;

  /** @param numRows most masks of one step */
  constructor(vocabulary: GrammarVocabulary, numRows: number) {
    this.#words = maskWords(vocabulary.vocabSize);
    this.#masks = new Int32Array(new SharedArrayBuffer(4 * this.#words * numRows));
    const workerData: GrammarWorkerData = {
      vocabulary,
      control: this.#control,
      masks: this.#masks,
    };
    this.#worker = new Worker(new URL('./grammar-worker.ts', import.meta.url), {
      name: 'hasten-grammar',
      execArgv: ['--disable-warning=ExperimentalWarning'], // vm, in xgrammar-module.ts
      workerData,
    });
    this.#worker.on('message', (message: WorkerMessage) => this.#receive(message));
    this.#worker.on('error', (error) => this.discard(`its worker failed: ${String(error)}`));
    this.#worker.on('exit', () => this.discard('its worker ended'));
    this.#worker.unref();
  }

  get isBroken(): boolean {
    return this.#isBroken;
  }

  /** Sessions that would wait while another one's grammar is compiled. */
  get numSessions(): number {
    return this.#sessions.size;
  }

  /** Whether a grammar is compiled here, or about to be. */
  knows(key: string): boolean {
    return this.#keys.has(key);
  }

  /** Never rejects. */
  open(session: GrammarSession): Promise<OpenResult> {
    const opened = Promise.withResolvers<OpenResult>();
    const pending: PendingOpen = { session, settle: opened.resolve, timer: undefined };
    this.#pending.set(session.sessionId, pending);
    this.#worker.ref();
    this.#startClock(pending);
    this.adopt(session);
    return opened.promise;
  }

  /** Sends a session here without waiting: the next job finds it open, or fails for it. */
  adopt(session: GrammarSession): void {
    session.host = this;
    session.numSent = 0;
    this.#sessions.add(session);
    this.#keys.add(session.key);
    const { sessionId, spec } = session;
    this.#post({ type: 'open', sessionId, spec });
  }

  close(session: GrammarSession): void {
    if (!this.#sessions.delete(session) || this.#isBroken) return;
    this.#post({ type: 'close', sessionId: session.sessionId });
  }

  /** Sends a job. Only one may be under way. */
  send(type: 'fill' | 'check', asks: readonly GrammarAsk[]): void {
    const length = asks.reduce((sum, ask) => {
      return sum + 4 + ask.output.length - ask.session.numSent + ask.drafts.length;
    }, 0);
    const rows = new Int32Array(length);
    let at = 0;
    for (const { session, output, drafts, row } of asks) {
      const news = output.subarray(session.numSent);
      rows.set([session.sessionId, row, news.length, drafts.length], at);
      rows.set(news, at + 4);
      rows.set(drafts, at + 4 + news.length);
      at += 4 + news.length + drafts.length;
      session.numSent = output.length;
    }
    this.#post({ type, job: ++this.#numJobs, rows });
  }

  /** Waits for the job under way, holding the thread. */
  wait(): JobResult {
    const control = this.#control;
    const limitMs = JOB_MS + (this.#isReady ? 0 : START_MS) + COMPILE_MS * this.#pending.size;
    const endMs = performance.now() + limitMs;
    for (;;) {
      const done = Atomics.load(control, CONTROL.done);
      if (done === this.#numJobs) break;
      const leftMs = endMs - performance.now();
      if (leftMs > 0 && !this.#isBroken) Atomics.wait(control, CONTROL.done, done, leftMs);
      else {
        const sessionId = Atomics.load(control, CONTROL.current);
        return { type: 'failed', sessionId, reason: `it took longer than ${limitMs} ms` };
      }
    }
    this.#isReady = true;
    const numAccepted = Atomics.load(control, CONTROL.result);
    if (numAccepted !== JOB_FAILED) return { type: 'done', numAccepted };
    const sessionId = Atomics.load(control, CONTROL.current);
    return { type: 'failed', sessionId, reason: 'it does not accept its own text' };
  }

  /** What may come at a row of the last job: bit i is token i. i32 `[maskWords]` */
  mask(row: number): Int32Array {
    return this.#masks.subarray(row * this.#words, (row + 1) * this.#words);
  }

  /** Gives the worker up. Who waits to be opened is told. */
  discard(reason: string): void {
    if (this.#isBroken) return;
    this.#isBroken = true;
    void this.#worker.terminate();
    for (const { session, settle, timer } of [...this.#pending.values()]) {
      clearTimeout(timer);
      this.#pending.delete(session.sessionId);
      settle({ type: 'lost', reason });
    }
  }

  #post(message: HostMessage): void {
    this.#worker.postMessage(message);
    Atomics.add(this.#control, CONTROL.posted, 1);
    Atomics.notify(this.#control, CONTROL.posted);
  }

  #startClock(pending: PendingOpen): void {
    const limitMs = COMPILE_MS + (this.#isReady ? 0 : START_MS);
    pending.timer = setTimeout(() => {
      this.#settle(pending, { type: 'refused', reason: `it takes longer than ${COMPILE_MS} ms` });
      this.discard('another grammar took too long');
    }, limitMs);
  }

  #receive(message: WorkerMessage): void {
    if (message.type === 'ready') {
      this.#isReady = true;
      for (const pending of this.#pending.values()) {
        clearTimeout(pending.timer);
        this.#startClock(pending);
      }
      return;
    }
    const pending = this.#pending.get(message.sessionId);
    if (message.type === 'opened') {
      if (pending !== undefined) this.#settle(pending, { type: 'opened' });
      return;
    }
    const { reason } = message;
    if (pending !== undefined) this.#settle(pending, { type: 'refused', reason });
    this.discard('another grammar was refused');
  }

  #settle(pending: PendingOpen, result: OpenResult): void {
    clearTimeout(pending.timer);
    this.#pending.delete(pending.session.sessionId);
    if (this.#pending.size === 0) this.#worker.unref();
    if (result.type !== 'opened') this.#sessions.delete(pending.session);
    pending.settle(result);
  }
}
