/**
 * An engine at one end of a port: takes messages, drives the core, and sends the events of each step as one message. Knows nothing of what the
 * port is made of, or of how the runner came to be.
 */

import { HastenError } from '../platform/errors.ts';
import type { RunnerLimits } from '../targets/model-runner.ts';
import { answerCall, type EngineCall } from './engine-calls.ts';
import type { EngineCore } from './engine-core.ts';
import { EngineClosedError, RequestError } from './errors.ts';
import { unservedFinish } from './events.ts';
import type { ClientMessage, EnginePort, ServerMessage } from './protocol.ts';
import type { PreparedRequest } from './request.ts';
import { StepLoop } from './step-loop.ts';

export class EngineServer {
  readonly #core: EngineCore;
  readonly #port: EnginePort;
  readonly #loop: StepLoop;
  #isClosing = false;
  readonly #closed = Promise.withResolvers<void>();

  /** Says `ready` at once: the core must be able to run. */
  constructor(core: EngineCore, limits: RunnerLimits, port: EnginePort) {
    this.#core = core;
    this.#port = port;
    this.#loop = new StepLoop(core, (events) => this.#send({ type: 'events', events }));
    port.on('message', (message) => this.#receive(message as ClientMessage));
    port.on('close', () => this.#close(false));
    this.#send({ type: 'ready', limits });
  }

  /** Settles when the engine has ended its last request after a shutdown, or after the other end has gone. */
  get closed(): Promise<void> {
    return this.#closed.promise;
  }

  #send(message: ServerMessage): void {
    this.#port.postMessage(message);
  }

  #receive(message: ClientMessage): void {
    switch (message.type) {
      case 'submit':
        this.#submit(message.request);
        break;
      case 'abort':
        this.#core.abort(message.requestId);
        this.#loop.wake();
        break;
      case 'stats':
        this.#send({ type: 'stats', callId: message.callId, stats: this.#core.stats() });
        break;
      case 'call':
        void this.#answer(message.callId, message.call);
        break;
      case 'shutdown':
        this.#close(message.drain);
        break;
      default:
        message satisfies never;
    }
  }

  /** A request that is refused here, though its sender has checked it, ends like any other: with one finish event. */
  #submit(request: PreparedRequest): void {
    try {
      if (this.#isClosing) throw new EngineClosedError();
      this.#core.submit(request);
      this.#loop.wake();
    } catch (error) {
      const event = unservedFinish(request, 'error', faultOf(error));
      this.#send({ type: 'events', events: [event] });
    }
  }

  async #answer(callId: number, call: EngineCall): Promise<void> {
    try {
      if (this.#isClosing) throw new EngineClosedError();
      const value = await answerCall(this.#core, () => this.#loop.wake(), call);
      this.#send({ type: 'answer', callId, value });
    } catch (error) {
      const param = error instanceof RequestError ? { param: error.param } : {};
      this.#send({ type: 'refusal', callId, ...faultOf(error), ...param });
    }
  }

  async #close(isDraining: boolean): Promise<void> {
    if (!isDraining) {
      this.#core.abortAll();
      this.#loop.wake();
    }
    if (this.#isClosing) return;
    this.#isClosing = true;
    await this.#loop.idle();
    await this.#core.prefixes.idle();
    this.#send({ type: 'closed' });
    this.#port.close();
    this.#closed.resolve();
  }
}

function faultOf(error: unknown): { readonly code: string; readonly message: string } {
  const code = error instanceof HastenError ? error.code : 'internal';
  return { code, message: error instanceof Error ? error.message : String(error) };
}
