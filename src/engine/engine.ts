/**
 * The engine as its users see it, wherever it runs (`EngineApi`), and the one that runs on the caller's own thread (`Engine`).
 */

import type { RunnerLimits } from '../targets/model-runner.ts';
import { answerCall, type EngineCalls, engineCalls } from './engine-calls.ts';
import { EngineCore, type EngineCoreOptions } from './engine-core.ts';
import type { EngineStats } from './engine-stats.ts';
import { EngineClosedError } from './errors.ts';
import type { EngineEvent } from './events.ts';
import { type EngineRequest, prepareRequest } from './request.ts';
import { RequestHandle } from './request-handle.ts';
import type { SamplingParams } from './sampling-params.ts';
import { StepLoop } from './step-loop.ts';

export interface SubmitOptions {
  /** Aborting it aborts the request. */
  readonly signal?: AbortSignal;
}

export interface EngineApi extends AsyncDisposable {
  readonly limits: RunnerLimits;
  /** What can be asked of an engine beside requests. */
  readonly calls: EngineCalls;
  /**
   * Queues a request. Exactly one finish event ends its events.
   *
   * @throws {RequestError | RequestTooLongError} if it is wrong or can never fit
   * @throws {EngineClosedError} after `close`
   */
  submit(request: EngineRequest, options?: SubmitOptions): RequestHandle;
  stats(): Promise<EngineStats>;
  /** Takes no more requests; aborts those that run, or with `drain` waits for them. */
  close(options?: { readonly drain?: boolean }): Promise<void>;
}

export interface EngineOptions extends EngineCoreOptions {
  /** What parameters that a request leaves out mean. */
  readonly defaults?: SamplingParams;
}

export class Engine implements EngineApi {
  readonly limits: RunnerLimits;
  readonly calls: EngineCalls;
  readonly #core: EngineCore;
  readonly #loop: StepLoop;
  readonly #defaults: SamplingParams | undefined;
  readonly #handles = new Map<string, RequestHandle>();
  #isClosed = false;

  constructor(options: EngineOptions) {
    this.limits = options.runner.limits;
    this.#defaults = options.defaults;
    this.#core = new EngineCore(options);
    this.#loop = new StepLoop(this.#core, (events) => this.#deliver(events));
    this.calls = engineCalls(async (call) => {
      if (this.#isClosed) throw new EngineClosedError();
      return answerCall(this.#core, () => this.#loop.wake(), call);
    });
  }

  submit(request: EngineRequest, options: SubmitOptions = {}): RequestHandle {
    if (this.#isClosed) throw new EngineClosedError();
    const prepared = prepareRequest(request, this.limits, this.#defaults);
    this.#core.submit(prepared);
    const handle = new RequestHandle(prepared, () => {
      this.#core.abort(prepared.requestId);
      this.#loop.wake();
    });
    this.#handles.set(prepared.requestId, handle);
    this.#loop.wake();
    abortWith(handle, options.signal);
    return handle;
  }

  async stats(): Promise<EngineStats> {
    return this.#core.stats();
  }

  async close(options: { readonly drain?: boolean } = {}): Promise<void> {
    this.#isClosed = true;
    if (options.drain !== true) {
      this.#core.abortAll();
      this.#loop.wake();
    }
    await this.#loop.idle();
    await this.#core.prefixes.idle();
    this.#core[Symbol.dispose]();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #deliver(events: readonly EngineEvent[]): void {
    for (const event of events) {
      this.#handles.get(event.requestId)?.deliver(event);
      if (event.type === 'finish') this.#handles.delete(event.requestId);
    }
  }
}

/** Ties a request to a signal for as long as it runs. */
export function abortWith(handle: RequestHandle, signal: AbortSignal | undefined): void {
  if (signal === undefined) return;
  const abort = (): void => handle.abort();
  if (signal.aborted) {
    abort();
    return;
  }
  signal.addEventListener('abort', abort, { once: true });
  handle.finished.then(() => signal.removeEventListener('abort', abort));
}
