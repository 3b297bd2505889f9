/**
 * Keeps an engine alive in a process of its own: when the process dies, another one is started and the requests that were running go on from
 * their tokens so far, so that whoever reads them notices a pause and nothing else. Which of them may have been the cause is
 * `suspect-gate.ts`'s business.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { EngineApi } from '../engine/engine.ts';
import { EngineClient, type EngineObserver } from '../engine/engine-client.ts';
import { InternalError } from '../platform/errors.ts';
import { EngineChild } from './engine-child.ts';
import {
  type ConnectOptions,
  EngineDiedError,
  type EngineHostOptions,
  type EngineKeeper,
  type ModelText,
} from './engine-host.ts';
import type { EngineSetup } from './engine-setup.ts';
import { EngineWatchdog } from './engine-watchdog.ts';
import { SuspectGate } from './suspect-gate.ts';

/** What the supervisor tells of an engine that was running. */
export type SupervisorEvent =
  | { readonly type: 'died'; readonly reason: string; readonly restartInMs: number }
  | { readonly type: 'start-failed'; readonly reason: string; readonly restartInMs: number }
  | {
      readonly type: 'restarted';
      readonly enginePid: number;
      readonly numResumed: number;
      readonly tookMs: number;
    };

export interface SupervisorOptions {
  readonly onEvent?: (event: SupervisorEvent) => void;
  /** Sees every request and every event of it. */
  readonly observer?: EngineObserver;
  /** Time without a sign of life after which a running engine is ended; `null` (default): any. */
  readonly timeoutMs?: number | null;
}

/** The first restart comes at once; the pause doubles from the second within a minute on. */
const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 10_000;
const CALM_MS = 60_000;
/** Starts in a row that fail before the engine is given up. */
const MAX_FAILED_STARTS = 5;
/** Time that a closed engine has to let go of its memory before its process is ended from outside. */
const CLOSE_TIMEOUT_MS = 5000;

/** @param numDeaths engines that died or did not start within the last minute, this one included */
export function restartPauseMs(numDeaths: number): number {
  if (numDeaths <= 1) return 0;
  return Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (numDeaths - 2));
}

export class EngineSupervisor implements EngineKeeper {
  readonly #onEvent: (event: SupervisorEvent) => void;
  readonly #observer: EngineObserver | undefined;
  readonly #gate = new SuspectGate();
  readonly #failure = Promise.withResolvers<Error>();
  readonly #closing = new AbortController();
  #setup: EngineSetup | undefined;
  #options: EngineHostOptions = {};
  #text: ModelText | undefined;
  #child: EngineChild | undefined;
  #client: EngineClient | undefined;
  #restarting: Promise<void> | undefined;
  #deathTimes: number[] = [];
  #numRestarts = 0;
  readonly #timeoutMs: number | null;
  #watchdog: EngineWatchdog | undefined;

  constructor({ onEvent = () => {}, observer, timeoutMs = null }: SupervisorOptions = {}) {
    this.#timeoutMs = timeoutMs;
    this.#onEvent = onEvent;
    this.#observer = observer;
  }

  /** Engines started after the first. */
  get numRestarts(): number {
    return this.#numRestarts;
  }

  /** Of the engine's process. */
  get pid(): number | undefined {
    return this.#child?.pid;
  }

  open(setup: EngineSetup, options: EngineHostOptions = {}): void {
    this.#setup = setup;
    this.#options = options;
    this.#child = new EngineChild(setup, options.onProgress);
  }

  get failure(): Promise<Error> {
    return this.#failure.promise;
  }

  async connect({ defaults, ...text }: ConnectOptions): Promise<EngineApi> {
    const child = this.#child;
    if (child === undefined) throw new InternalError('connect comes after open');
    const { signal } = this.#options;
    const giveUp = (): void => void child.kill();
    signal?.addEventListener('abort', giveUp, { once: true });
    try {
      signal?.throwIfAborted();
      this.#text = ownText(text);
      child.tellText(this.#text);
      this.#client = await EngineClient.connect(this.#gate.connect(child.port), {
        defaults,
        observer: this.#observer,
        onDisconnect: () => {
          this.#restarting = this.#restart();
        },
      });
      this.#watch();
      return this.#client;
    } catch (error) {
      await child.kill();
      signal?.throwIfAborted();
      // A fault that the engine told of says more than that it went away.
      const reason = await child.ended;
      throw reason ?? error;
    } finally {
      signal?.removeEventListener('abort', giveUp);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#watchdog?.[Symbol.dispose]();
    this.#closing.abort();
    await this.#restarting;
    const child = this.#child;
    if (child === undefined) return;
    if (this.#client === undefined) {
      await child.kill();
      return;
    }
    await this.#client.close();
    const timer = setTimeout(() => void child.kill(), CLOSE_TIMEOUT_MS);
    await child.ended;
    clearTimeout(timer);
  }

  /** Starts engines until one runs, or too many in a row have failed to. */
  async #restart(): Promise<void> {
    this.#watchdog?.[Symbol.dispose]();
    const { signal } = this.#closing;
    const startMs = performance.now();
    let numFailedStarts = 0;
    while (!signal.aborted) {
      const reason = (await this.#child!.ended).message;
      if (signal.aborted) return;
      if (numFailedStarts >= MAX_FAILED_STARTS) {
        this.#client!.abandon();
        this.#failure.resolve(
          new EngineDiedError(`${numFailedStarts} starts in a row failed, the last: ${reason}`),
        );
        return;
      }
      const restartInMs = this.#pauseAfterDeath();
      const type = numFailedStarts === 0 ? 'died' : 'start-failed';
      this.#onEvent({ type, reason, restartInMs });
      await delay(restartInMs, undefined, { signal }).catch(() => {});
      if (signal.aborted) return;
      this.#numRestarts++;
      // Requests wait already: they warm it up.
      this.#child = new EngineChild({ ...this.#setup!, warmUpMs: undefined }, undefined);
      this.#child.tellText(this.#text!);
      const numResumed = this.#client!.openRequests.length;
      const isRunning = await this.#client!.attach(this.#gate.connect(this.#child.port)).then(
        () => true,
        () => false,
      );
      if (isRunning) {
        this.#watch();
        const tookMs = Math.round(performance.now() - startMs);
        this.#onEvent({ type: 'restarted', enginePid: this.#child.pid ?? 0, numResumed, tookMs });
        return;
      }
      numFailedStarts++;
    }
  }

  /** Ends the engine that runs now when it hangs; what follows is as after a crash. */
  #watch(): void {
    const timeoutMs = this.#timeoutMs;
    const [child, client] = [this.#child!, this.#client!];
    if (timeoutMs === null || this.#closing.signal.aborted) return;
    this.#watchdog = new EngineWatchdog({
      timeoutMs,
      ask: () => client.stats(),
      onHang: () => void child.kill(`it made no progress for ${timeoutMs / 1000} s and was ended`),
    });
  }

  #pauseAfterDeath(): number {
    const now = performance.now();
    this.#deathTimes = this.#deathTimes.filter((time) => now - time < CALM_MS);
    this.#deathTimes.push(now);
    return restartPauseMs(this.#deathTimes.length);
  }
}

/** A copy that is no shared memory, which cannot be sent to another process. */
function ownText({ tokenText, eosTokenIds }: ModelText): ModelText {
  if (tokenText === null) return { tokenText, eosTokenIds };
  const { offsets, bytes, isSpecial } = tokenText;
  const own = { offsets: offsets.slice(), bytes: bytes.slice(), isSpecial: isSpecial.slice() };
  return { tokenText: own, eosTokenIds };
}
