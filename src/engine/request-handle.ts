/**
 * The caller's end of one request: its events as they come. Knows nothing of where the engine runs.
 */

import { InternalError } from '../platform/errors.ts';
import type { EngineEvent, FinishEvent } from './events.ts';
import type { PreparedRequest } from './request.ts';

/** All that one request gave. */
export interface RequestResult {
  readonly tokenIds: readonly number[];
  readonly text: string;
  readonly finish: FinishEvent;
}

/**
 * Events of one request, for one reader: `for await (const event of handle)`. Leaving the loop early aborts the request.
 */
export class RequestHandle implements AsyncIterable<EngineEvent> {
  readonly request: PreparedRequest;
  readonly #abort: () => void;
  #events: EngineEvent[] = [];
  #numRead = 0;
  #reader: PromiseWithResolvers<void> | null = null;
  readonly #finished = Promise.withResolvers<FinishEvent>();
  #isFinished = false;

  constructor(request: PreparedRequest, abort: () => void) {
    this.request = request;
    this.#abort = abort;
  }

  get requestId(): string {
    return this.request.requestId;
  }

  get isFinished(): boolean {
    return this.#isFinished;
  }

  /** The finish event; comes whether or not the others are read. Never rejects. */
  get finished(): Promise<FinishEvent> {
    return this.#finished.promise;
  }

  /** Events that wait to be read: what a slow reader is judged by. */
  get numBuffered(): number {
    return this.#events.length - this.#numRead;
  }

  /** Ends the request; its finish event, with reason `abort`, still comes. */
  abort(): void {
    if (!this.#isFinished) this.#abort();
  }

  /** For the engine: the next event. */
  deliver(event: EngineEvent): void {
    if (this.#isFinished)
      throw new InternalError(`"${this.requestId}" got an event after its last`);
    this.#events.push(event);
    if (event.type === 'finish') {
      this.#isFinished = true;
      this.#finished.resolve(event);
    }
    this.#reader?.resolve();
    this.#reader = null;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<EngineEvent, void, undefined> {
    try {
      for (;;) {
        while (this.numBuffered === 0) {
          if (this.#isFinished) return;
          this.#reader ??= Promise.withResolvers();
          await this.#reader.promise;
        }
        const event = this.#events[this.#numRead++]!;
        if (this.#numRead === this.#events.length) {
          this.#events = [];
          this.#numRead = 0;
        }
        yield event;
        if (event.type === 'finish') return;
      }
    } finally {
      this.abort();
    }
  }

  /** Reads to the end. */
  async collect(): Promise<RequestResult> {
    const tokenIds: number[] = [];
    let text = '';
    for await (const event of this) {
      text += event.text;
      if (event.type === 'finish') return { tokenIds, text, finish: event };
      tokenIds.push(event.tokenId);
    }
    throw new InternalError(`"${this.requestId}" was read by two readers`);
  }
}
