/**
 * Who is let in, before any work is done: at most so many answers at once on the whole, and by key so many at once and so many requests a
 * minute. Beyond that a request is refused at once, with the time after which to try again, instead of waiting for who knows how long.
 */
import { ApiError } from './errors.ts';

export interface AdmissionLimits {
  /** Answers that wait beside those that the engine works on. */
  readonly maxQueue: number;
  /** Answers of one key at once; null: no limit. */
  readonly maxConcurrencyPerKey: number | null;
  /** Requests of one key within a minute; null: no limit. */
  readonly requestsPerMinutePerKey: number | null;
}

export const DEFAULT_ADMISSION_LIMITS: AdmissionLimits = {
  maxQueue: 1024,
  maxConcurrencyPerKey: null,
  requestsPerMinutePerKey: null,
};

export interface AdmissionOptions {
  readonly limits: AdmissionLimits;
  /** Answers that the engine works on side by side. */
  readonly maxRunning: () => number;
  /** What an answer takes at present, in milliseconds; null where that is not known yet. */
  readonly typicalRequestMs: () => number | null;
  readonly onRejected: (reason: RejectionReason) => void;
  /** Milliseconds from any origin; for tests. */
  readonly now?: () => number;
}

export type RejectionReason = 'queue_full' | 'key_concurrency' | 'key_rate';

const LONGEST_RETRY_S = 60;

interface KeyState {
  numRunning: number;
  /** Requests that may be made now; grows with time up to a minute's worth. */
  allowance: number;
  allowanceMs: number;
}

export class Admission {
  readonly #options: AdmissionOptions;
  readonly #now: () => number;
  readonly #keys = new Map<string, KeyState>();
  #numAdmitted = 0;

  constructor(options: AdmissionOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
  }

  /** Answers that run or wait. */
  get numAdmitted(): number {
    return this.#numAdmitted;
  }

  /**
   * Lets a request for `numAnswers` in.
   * @returns what must be called when its work has ended, once
   * @throws {ApiError} 429 with `Retry-After` if there is no room now, 400 if there never is
   */
  admit(key: string, numAnswers: number): () => void {
    const state = this.#stateOf(key);
    this.#checkKey(state, numAnswers);
    this.#checkRoom(numAnswers);
    state.allowance--;
    state.numRunning += numAnswers;
    this.#numAdmitted += numAnswers;
    return () => {
      state.numRunning -= numAnswers;
      this.#numAdmitted -= numAnswers;
      if (state.numRunning === 0 && state.allowance >= this.#fullAllowance) this.#keys.delete(key);
    };
  }

  get #fullAllowance(): number {
    return this.#options.limits.requestsPerMinutePerKey ?? 0;
  }

  #stateOf(key: string): KeyState {
    const now = this.#now();
    const full = this.#fullAllowance;
    let state = this.#keys.get(key);
    if (state === undefined) {
      state = { numRunning: 0, allowance: full, allowanceMs: now };
      this.#keys.set(key, state);
    }
    const earned = ((now - state.allowanceMs) * full) / 60_000;
    state.allowance = Math.min(full, state.allowance + earned);
    state.allowanceMs = now;
    return state;
  }

  #checkKey(state: KeyState, numAnswers: number): void {
    const { maxConcurrencyPerKey: most, requestsPerMinutePerKey: rate } = this.#options.limits;
    if (rate !== null && state.allowance < 1) {
      const seconds = ((1 - state.allowance) * 60) / rate;
      const message = `this key may make ${rate} requests a minute, which it has`;
      throw this.#reject('key_rate', message, seconds);
    }
    if (most !== null && state.numRunning + numAnswers > most) {
      if (numAnswers > most) throw tooMany(numAnswers, `one key may have ${most} answers at once`);
      const message = `this key may have ${most} answers at once, and has ${state.numRunning}`;
      throw this.#reject('key_concurrency', message, this.#secondsUntilRoom(1));
    }
  }

  #checkRoom(numAnswers: number): void {
    const room = this.#options.maxRunning() + this.#options.limits.maxQueue;
    if (numAnswers > room) throw tooMany(numAnswers, `the server takes ${room} at once`);
    const numBeyond = this.#numAdmitted + numAnswers - room;
    if (numBeyond <= 0) return;
    const message = `the server is busy: ${this.#numAdmitted} answers run or wait, and ${room} is the most`;
    throw this.#reject('queue_full', message, this.#secondsUntilRoom(numBeyond));
  }

  /** How long until so many answers have ended, by what they take at present. */
  #secondsUntilRoom(numAnswers: number): number {
    const requestS = (this.#options.typicalRequestMs() ?? 1000) / 1000;
    return (requestS * numAnswers) / Math.max(1, this.#options.maxRunning());
  }

  #reject(reason: RejectionReason, message: string, retryAfterS: number): ApiError {
    this.#options.onRejected(reason);
    const seconds = Math.min(LONGEST_RETRY_S, Math.max(1, Math.ceil(retryAfterS)));
    return new ApiError(429, `${message}; try again in ${seconds} s`, {
      type: 'rate_limit_error',
      code: reason,
      headers: { 'retry-after': String(seconds) },
    });
  }
}

function tooMany(numAnswers: number, limit: string): ApiError {
  return new ApiError(400, `the request asks for ${numAnswers} answers, but ${limit}`, {
    code: 'too_many_answers',
  });
}
