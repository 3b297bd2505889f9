/**
 * Drives an `EngineCore`: one step after the other while there is work, asleep while there is none.
 *
 * A step may hold the thread for its whole length. Between two steps the loop goes through `setImmediate`, that is through one turn of the event
 * loop, in which messages from ports, sockets and timers are delivered: a request, or the news that a client has gone, waits for one step at most.
 */

import type { EngineCore } from './engine-core.ts';
import type { EngineEvent } from './events.ts';

export class StepLoop {
  readonly #core: EngineCore;
  readonly #onEvents: (events: EngineEvent[]) => void;
  #isAwake = false;
  #idle: PromiseWithResolvers<void> | null = null;

  /** @param onEvents gets the events of each step in one list, and those of aborts */
  constructor(core: EngineCore, onEvents: (events: EngineEvent[]) => void) {
    this.#core = core;
    this.#onEvents = onEvents;
    core.onWork(() => this.wake());
  }

  /** Call after each `submit` and `abort`. */
  wake(): void {
    if (this.#isAwake) return;
    this.#isAwake = true;
    setImmediate(this.#turn);
  }

  /** Settles when there is nothing left to do. */
  idle(): Promise<void> {
    if (!this.#isAwake && this.#core.numUnfinished === 0) return Promise.resolve();
    this.#idle ??= Promise.withResolvers();
    return this.#idle.promise;
  }

  readonly #turn = (): void => {
    const ticket = this.#core.begin();
    if (ticket === null) {
      this.#endTurn();
    } else if (ticket.isDone) {
      this.#core.finish();
      this.#endTurn();
    } else {
      ticket.wait().then(
        () => {
          this.#core.finish();
          this.#endTurn();
        },
        (error: unknown) => {
          this.#core.failStep(error);
          this.#endTurn();
        },
      );
    }
  };

  #endTurn(): void {
    const events = this.#core.takeEvents();
    if (events.length > 0) this.#onEvents(events);
    if (this.#core.hasWork) {
      setImmediate(this.#turn);
      return;
    }
    this.#isAwake = false;
    if (this.#core.numUnfinished > 0) return; // They wait for something: `onWork` goes on.
    this.#idle?.resolve();
    this.#idle = null;
  }
}
