/**
 * The other end of an `EngineServer`'s port: an `EngineApi` like the engine on one's own thread. It keeps what every open request has given so
 * far, so that it can go on over a new port, with a new engine, as if nothing had happened: numbers drawn depend on seed and token index only.
 */

import { InternalError } from '../platform/errors.ts';
import type { RunnerLimits } from '../targets/model-runner.ts';
import { abortWith, type EngineApi, type SubmitOptions } from './engine.ts';
import { type EngineCall, type EngineCallResults, engineCalls } from './engine-calls.ts';
import type { EngineStats } from './engine-stats.ts';
import { EngineCallError, EngineClosedError, RequestError } from './errors.ts';
import { type EngineEvent, unservedFinish } from './events.ts';
import type { ClientMessage, EnginePort, ServerMessage } from './protocol.ts';
import { type EngineRequest, type PreparedRequest, prepareRequest } from './request.ts';
import { RequestHandle } from './request-handle.ts';
import type { SamplingParams } from './sampling-params.ts';

/** Sees all that passes, when it passes; for figures. */
export interface EngineObserver {
  submitted(request: PreparedRequest): void;
  delivered(event: EngineEvent): void;
}

export interface EngineClientOptions {
  /** What parameters that a request leaves out mean. */
  readonly defaults?: SamplingParams;
  /**
   * Told when the port closes unasked. The open requests then wait for `attach`; without this callback they end with an error.
   */
  readonly onDisconnect?: () => void;
  readonly observer?: EngineObserver | undefined;
}

interface OpenRequest {
  readonly handle: RequestHandle;
  /** Output so far, that of engines before included. */
  readonly outputTokenIds: number[];
}

export class EngineClient implements EngineApi {
  readonly #options: EngineClientOptions;
  #limits: RunnerLimits | null = null;
  #port: EnginePort | null = null;
  #isClosed = false;
  readonly #open = new Map<string, OpenRequest>();
  readonly calls = engineCalls((call) => this.#call(call));
  readonly #calls = new Map<number, PromiseWithResolvers<unknown>>();
  /** Prefixes that a new engine is to pin again. */
  readonly #pinned: EngineCall[] = [];
  #lastCallId = 0;

  private constructor(options: EngineClientOptions) {
    this.#options = options;
  }

  /** Waits until the engine at the other end is ready. */
  static async connect(port: EnginePort, options: EngineClientOptions = {}): Promise<EngineClient> {
    const client = new EngineClient(options);
    await client.attach(port);
    return client;
  }

  get limits(): RunnerLimits {
    if (this.#limits === null) throw new InternalError('the engine is not connected yet');
    return this.#limits;
  }

  /** Requests without their finish event, with what they have given so far: as they would be submitted again. */
  get openRequests(): PreparedRequest[] {
    return [...this.#open.values()].map(resumed);
  }

  /**
   * Goes on over a new port after the old one closed: open requests are submitted again from their tokens so far.
   *
   * @throws {EngineClosedError} if the port closes before the engine is ready
   */
  async attach(port: EnginePort): Promise<void> {
    if (this.#port !== null) throw new InternalError('the engine is still connected');
    const ready = Promise.withResolvers<void>();
    port.on('message', (data) => {
      const message = data as ServerMessage;
      if (message.type === 'ready') {
        this.#limits = message.limits;
        this.#port = port;
        for (const open of this.#open.values())
          this.#send({ type: 'submit', request: resumed(open) });
        this.#pinAgain();
        ready.resolve();
      } else if (this.#port === port) {
        this.#receive(message);
      }
    });
    port.on('close', () => {
      ready.reject(new EngineClosedError('the engine went away before it was ready'));
      if (this.#port === port) this.#disconnected();
    });
    await ready.promise;
  }

  submit(request: EngineRequest, options: SubmitOptions = {}): RequestHandle {
    if (this.#isClosed) throw new EngineClosedError();
    const prepared = prepareRequest(request, this.limits, this.#options.defaults);
    const { requestId } = prepared;
    if (this.#open.has(requestId)) {
      throw new RequestError('requestId', `requestId: "${requestId}" is already in use`);
    }
    const handle = new RequestHandle(prepared, () => this.#abort(requestId));
    this.#open.set(requestId, { handle, outputTokenIds: [...prepared.outputTokenIds] });
    this.#options.observer?.submitted(prepared);
    this.#send({ type: 'submit', request: prepared });
    abortWith(handle, options.signal);
    return handle;
  }

  /** @throws {EngineClosedError} if there is no engine, or it goes away before it answers */
  async stats(): Promise<EngineStats> {
    const { callId, answer } = this.#expectAnswer();
    this.#send({ type: 'stats', callId });
    return answer as Promise<EngineStats>;
  }

  async #call(call: EngineCall): Promise<EngineCallResults[EngineCall['name']]> {
    if (this.#isClosed) throw new EngineClosedError();
    const { callId, answer } = this.#expectAnswer();
    this.#send({ type: 'call', callId, call });
    const value = (await answer) as EngineCallResults[EngineCall['name']];
    if (call.name === 'pinPrefix') this.#pinned.push(call);
    return value;
  }

  /** Nobody waits for these: what cannot be pinned is computed when it is asked for. One that an engine has died of is not among them again. */
  #pinAgain(): void {
    for (const call of this.#pinned.splice(0)) void this.#call(call).catch(() => {});
  }

  #expectAnswer(): { readonly callId: number; readonly answer: Promise<unknown> } {
    if (this.#port === null) throw new EngineClosedError('the engine is not connected');
    const callId = ++this.#lastCallId;
    const call = Promise.withResolvers<unknown>();
    this.#calls.set(callId, call);
    return { callId, answer: call.promise };
  }

  async close(options: { readonly drain?: boolean } = {}): Promise<void> {
    const handles = [...this.#open.values()].map(({ handle }) => handle.finished);
    this.#isClosed = true;
    if (this.#port === null) this.#endAll('abort');
    else this.#send({ type: 'shutdown', drain: options.drain ?? false });
    await Promise.all(handles);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** There will be no other engine: open requests end with an error, later ones are refused. */
  abandon(): void {
    this.#isClosed = true;
    this.#endAll('error');
  }

  /** Without an engine messages are dropped: `attach` submits what is open then. */
  #send(message: ClientMessage): void {
    this.#port?.postMessage(message);
  }

  #receive(message: Exclude<ServerMessage, { type: 'ready' }>): void {
    switch (message.type) {
      case 'events':
        for (const event of message.events) this.#deliver(event);
        break;
      case 'stats':
        this.#calls.get(message.callId)?.resolve(message.stats);
        this.#calls.delete(message.callId);
        break;
      case 'answer':
        this.#calls.get(message.callId)?.resolve(message.value);
        this.#calls.delete(message.callId);
        break;
      case 'refusal': {
        const { code, message: text, param } = message;
        const error =
          param === undefined ? new EngineCallError(code, text) : new RequestError(param, text);
        this.#calls.get(message.callId)?.reject(error);
        this.#calls.delete(message.callId);
        break;
      }
      case 'closed':
        this.#isClosed = true;
        this.#disconnected();
        break;
      default:
        message satisfies never;
    }
  }

  #deliver(event: EngineEvent): void {
    const open = this.#open.get(event.requestId);
    if (open === undefined) return;
    if (event.type === 'token') open.outputTokenIds.push(event.tokenId);
    else this.#open.delete(event.requestId);
    open.handle.deliver(event);
    this.#options.observer?.delivered(event);
  }

  #abort(requestId: string): void {
    const open = this.#open.get(requestId);
    if (open === undefined) return;
    if (this.#port !== null) this.#send({ type: 'abort', requestId });
    else this.#deliver(unservedFinish(resumed(open), 'abort'));
  }

  #disconnected(): void {
    this.#port = null;
    for (const call of this.#calls.values()) {
      call.reject(new EngineClosedError('the engine went away before it answered'));
    }
    this.#calls.clear();
    if (this.#isClosed) this.#endAll('abort');
    else if (this.#options.onDisconnect === undefined) this.#endAll('error');
    else this.#options.onDisconnect();
  }

  #endAll(reason: 'abort' | 'error'): void {
    const error = { code: 'engine_closed', message: 'the engine went away' };
    for (const open of [...this.#open.values()]) {
      this.#deliver(unservedFinish(resumed(open), reason, reason === 'error' ? error : undefined));
    }
  }
}

function resumed({ handle, outputTokenIds }: OpenRequest): PreparedRequest {
  return { ...handle.request, outputTokenIds: Int32Array.from(outputTokenIds) };
}
