/**
 * Watches a stream of text for stop strings. What might still become one is held back, so no part of a stop string is ever shown; what turns
 * out not to be one is released. Knows nothing of tokens: where the pieces of text are cut makes no difference.
 *
 * One Knuth-Morris-Pratt automaton per stop string, so each character costs a few steps however long the text. The first place where any
 * stop string is complete ends the text; where several are complete at once, the longest counts.
 */

interface Automaton {
  readonly stop: string;
  /** `fallback[i]`: length of the longest proper prefix of stop that ends stop[0..i]. */
  readonly fallback: Int32Array;
  /** How much of the stop string the text ends with. */
  matched: number;
}

export interface StopResult {
  /** Text that is safe to show. */
  readonly text: string;
  /** The stop string that was completed, if any; nothing may be pushed after that. */
  readonly stop: string | null;
}

export class StopStrings {
  readonly #automata: Automaton[];
  #held = '';

  constructor(stops: readonly string[]) {
    this.#automata = stops.map((stop) => ({ stop, fallback: fallbackTable(stop), matched: 0 }));
  }

  /** Takes the next piece of text. */
  push(piece: string): StopResult {
    if (this.#automata.length === 0) return { text: piece, stop: null };
    const text = this.#held + piece;
    for (let i = this.#held.length; i < text.length; i++) {
      const stop = this.#step(text.charCodeAt(i));
      if (stop !== null) {
        this.#held = '';
        return { text: text.slice(0, i + 1 - stop.length), stop };
      }
    }
    let numHeld = 0;
    for (const automaton of this.#automata) numHeld = Math.max(numHeld, automaton.matched);
    this.#held = text.slice(text.length - numHeld);
    return { text: text.slice(0, text.length - numHeld), stop: null };
  }

  /** The text is over: releases what was held back. */
  end(): string {
    const text = this.#held;
    this.#held = '';
    return text;
  }

  #step(unit: number): string | null {
    let complete: string | null = null;
    for (const automaton of this.#automata) {
      const { stop, fallback } = automaton;
      let matched = automaton.matched;
      while (matched > 0 && stop.charCodeAt(matched) !== unit) matched = fallback[matched - 1]!;
      if (stop.charCodeAt(matched) === unit) matched++;
      automaton.matched = matched;
      if (matched === stop.length && stop.length > (complete?.length ?? 0)) complete = stop;
    }
    return complete;
  }
}

function fallbackTable(stop: string): Int32Array {
  const fallback = new Int32Array(stop.length);
  let matched = 0;
  for (let i = 1; i < stop.length; i++) {
    while (matched > 0 && stop[i] !== stop[matched]) matched = fallback[matched - 1]!;
    if (stop[i] === stop[matched]) matched++;
    fallback[i] = matched;
  }
  return fallback;
}
