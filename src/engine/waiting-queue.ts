/**
 * Sequences that wait to be taken in. Knows who is next; not what there is room for.
 *
 * Each class, sink and tenant has a line of its own, so the best of all is the best of the lines' first ones: with one tenant, a look or two.
 */

import { MAX_SINK, PRIORITIES } from './priority.ts';
import type { Sequence } from './sequence.ts';
import type { TenantShares } from './tenant-shares.ts';

const NUM_SINKS = MAX_SINK + 1;

export class WaitingQueue {
  readonly #shares: TenantShares;
  readonly #climbMs: number;
  /** Per class and sink: tenant → sequences in order. No line is empty. */
  readonly #lines = Array.from(
    { length: PRIORITIES.length * NUM_SINKS },
    () => new Map<string, Sequence[]>(),
  );
  #length = 0;

  constructor(shares: TenantShares, climbMs: number) {
    this.#shares = shares;
    this.#climbMs = climbMs;
  }

  get length(): number {
    return this.#length;
  }

  /** At the end of its line. */
  push(sequence: Sequence): void {
    this.#lineFor(sequence).push(sequence);
    this.#length++;
  }

  /** At the start of its line: it had been taken in before. */
  unshift(sequence: Sequence): void {
    this.#lineFor(sequence).unshift(sequence);
    this.#length++;
  }

  /** Returns whether it was there. */
  remove(sequence: Sequence): boolean {
    const lines = this.#linesOf(sequence);
    const line = lines.get(sequence.tenant);
    const index = line?.indexOf(sequence) ?? -1;
    if (line === undefined || index < 0) return false;
    if (line.length === 1) lines.delete(sequence.tenant);
    else if (index === 0) line.shift();
    else line.splice(index, 1);
    this.#length--;
    return true;
  }

  /** The next one to take in: of the best class, then by level (those that have sunk climb while they wait), tenant's share, and arrival. */
  best(nowMs: number): Sequence | null {
    if (this.#length === 0) return null;
    for (let c = 0; c < PRIORITIES.length; c++) {
      const best = this.bestOfClass(c, nowMs);
      if (best !== null) return best;
    }
    return null;
  }

  /** The next one of a class (an index into `PRIORITIES`). */
  bestOfClass(classIndex: number, nowMs: number): Sequence | null {
    let best: Sequence | null = null;
    let bestSink = 0;
    for (let sink = 0; sink < NUM_SINKS; sink++) {
      for (const line of this.#lines[classIndex * NUM_SINKS + sink]!.values()) {
        const first = line[0]!;
        const climbed = Math.floor((nowMs - first.waitingSinceMs) / this.#climbMs);
        const left = Math.max(0, sink - climbed);
        if (best === null || this.#isBefore(first, left, best, bestSink)) {
          best = first;
          bestSink = left;
        }
      }
    }
    return best;
  }

  #isBefore(a: Sequence, sinkOfA: number, b: Sequence, sinkOfB: number): boolean {
    if (sinkOfA !== sinkOfB) return sinkOfA < sinkOfB;
    if (a.tenant !== b.tenant) {
      const difference = this.#shares.counter(a.tenant) - this.#shares.counter(b.tenant);
      if (difference !== 0) return difference < 0;
    }
    return a.order < b.order;
  }

  #linesOf(sequence: Sequence): Map<string, Sequence[]> {
    return this.#lines[sequence.classIndex * NUM_SINKS + sequence.sink]!;
  }

  #lineFor(sequence: Sequence): Sequence[] {
    const lines = this.#linesOf(sequence);
    let line = lines.get(sequence.tenant);
    if (line === undefined) {
      line = [];
      lines.set(sequence.tenant, line);
    }
    return line;
  }
}
