/**
 * Stands between an engine's client and engines that may die, and decides which requests may run together. A request that was running when
 * an engine died is a suspect. Suspects of one crash run again side by side with all others; those of two run alone, one after the other,
 * and nothing else runs meanwhile; one that was alone when an engine died for the second time is not tried again but ends with an error.
 * Knows the protocol, and nothing of processes.
 */
import { unservedFinish } from '../engine/events.ts';
import type { ClientMessage, EnginePort, ServerMessage } from '../engine/protocol.ts';
import type { PreparedRequest } from '../engine/request.ts';

/** Crashes after which a request runs alone, or is refused if it was alone already. */
const CRASHES_TO_ISOLATE = 2;

/** Error code of a request that is not tried again. */
export const CRASHED_ENGINE_CODE = 'engine_crashed';

type Listener = (message: unknown) => void;

/** The client's end of one connection to one engine. */
interface Connection {
  readonly engine: EnginePort;
  readonly onMessage: Listener[];
  readonly onClose: Listener[];
}

export class SuspectGate {
  #connection: Connection | undefined;
  /** Handed to the engine and not finished. */
  readonly #running = new Map<string, PreparedRequest>();
  /** Waiting because others must not run beside them, in the order they came. */
  readonly #held = new Map<string, PreparedRequest>();
  /** A shutdown that waits for requests held back. */
  #shutdown: ClientMessage | undefined;
  /** Engines that died while the request was running. */
  readonly #crashes = new Map<string, number>();

  /** Requests that run alone, now or when it is their turn. */
  get numIsolated(): number {
    return [...this.#running.keys(), ...this.#held.keys()].filter((id) => this.#isIsolated(id))
      .length;
  }

  /** Puts the gate before a new engine. The one before must have closed its port. */
  connect(engine: EnginePort): EnginePort {
    this.#running.clear();
    this.#held.clear();
    this.#shutdown = undefined;
    const connection: Connection = { engine, onMessage: [], onClose: [] };
    this.#connection = connection;
    engine.on('message', (message) => {
      this.#observe(message as ServerMessage);
      for (const listener of connection.onMessage) listener(message);
      this.#release();
    });
    engine.on('close', () => {
      this.#died();
      for (const listener of connection.onClose) listener(undefined);
    });
    return {
      postMessage: (message) => this.#pass(message as ClientMessage),
      on: (event, listener) =>
        (event === 'message' ? connection.onMessage : connection.onClose).push(listener),
      close: () => engine.close(),
    };
  }

  #pass(message: ClientMessage): void {
    if (message.type === 'submit') {
      this.#held.set(message.request.requestId, message.request);
      // Whether others that must run alone are about to come is known when all were submitted again.
      queueMicrotask(() => this.#release());
      return;
    }
    const held = message.type === 'abort' ? this.#held.get(message.requestId) : undefined;
    if (held !== undefined) {
      this.#end(held, unservedFinish(held, 'abort'));
      return;
    }
    if (message.type === 'shutdown' && message.drain && this.#held.size > 0) {
      this.#shutdown = message;
      return;
    }
    if (message.type === 'shutdown') {
      for (const request of [...this.#held.values()]) {
        this.#end(request, unservedFinish(request, 'abort'));
      }
    }
    this.#connection?.engine.postMessage(message);
  }

  /** Hands over what may run now. */
  #release(): void {
    const isAloneRunning = [...this.#running.keys()].some((id) => this.#isIsolated(id));
    if (isAloneRunning) return;
    const next = [...this.#held.keys()].find((id) => this.#isIsolated(id));
    if (next !== undefined) {
      if (this.#running.size === 0) this.#start(next);
      return;
    }
    for (const id of [...this.#held.keys()]) this.#start(id);
    if (this.#shutdown !== undefined) this.#connection?.engine.postMessage(this.#shutdown);
    this.#shutdown = undefined;
  }

  #start(id: string): void {
    const request = this.#held.get(id);
    if (request === undefined) return;
    this.#held.delete(id);
    this.#running.set(id, request);
    this.#connection?.engine.postMessage({ type: 'submit', request });
  }

  #observe(message: ServerMessage): void {
    if (message.type !== 'events') return;
    for (const event of message.events) {
      if (event.type !== 'finish') continue;
      this.#running.delete(event.requestId);
      this.#crashes.delete(event.requestId);
    }
  }

  #died(): void {
    const wasAlone = this.#running.size === 1;
    for (const id of this.#crashes.keys()) {
      if (!this.#running.has(id) && !this.#held.has(id)) this.#crashes.delete(id);
    }
    for (const [id, request] of [...this.#running]) {
      const numCrashes = (this.#crashes.get(id) ?? 0) + 1;
      this.#crashes.set(id, numCrashes);
      if (!wasAlone || numCrashes < CRASHES_TO_ISOLATE) continue;
      const message = `the engine died ${numCrashes} times while it worked on this request, the last time on nothing else; it is not tried again`;
      this.#end(request, unservedFinish(request, 'error', { code: CRASHED_ENGINE_CODE, message }));
    }
    this.#running.clear();
    this.#held.clear();
  }

  /** Ends a request here, as the engine would. */
  #end(request: PreparedRequest, event: ReturnType<typeof unservedFinish>): void {
    this.#held.delete(request.requestId);
    this.#running.delete(request.requestId);
    this.#crashes.delete(request.requestId);
    const message: ServerMessage = { type: 'events', events: [event] };
    for (const listener of this.#connection?.onMessage ?? []) listener(message);
  }

  #isIsolated(id: string): boolean {
    return (this.#crashes.get(id) ?? 0) >= CRASHES_TO_ISOLATE;
  }
}
