/**
 * Who goes first. Requests have a class, and in it sink by the work that was done for them (a multi-level feedback queue: short requests pass long
 * ones without anybody saying which is which). Knows no queues; the scheduler decides by these numbers.
 *
 *   level   0  1  2  3  4  5  6      a request starts at its class and sinks by up to two levels
 *   high    x  x  x
 *   normal        x  x  x
 *   low                 x  x  x
 */

export const PRIORITIES = ['high', 'normal', 'low'] as const;
export type Priority = (typeof PRIORITIES)[number];

/** Levels between the starts of two classes: as far apart as it takes for one to displace the other. */
export const LEVELS_PER_CLASS = 2;
export const MAX_SINK = 2;

export interface PriorityOptions {
  /** Tokens computed for a request before it sinks one level; it sinks another after four times as many. */
  readonly sinkTokens: number;
  /** A waiting request that has sunk climbs back one level in this time, up to where its class starts. */
  readonly climbMs: number;
  /** Running requests of a lower class may be left out of steps for this long while prompts of a higher one are computed. */
  readonly maxPauseMs: number;
  /**
   * A class that waits and had nobody taken in for this long gets its first request in ahead of everybody, until that has given `escortTokens`
   * more. So the first in line of each class gives that many in this time, whatever the load of higher classes.
   */
  readonly starvationMs: number;
  readonly escortTokens: number;
}

export const DEFAULT_PRIORITY_OPTIONS: PriorityOptions = {
  sinkTokens: 2048,
  climbMs: 10_000,
  maxPauseMs: 1000,
  starvationMs: 15_000,
  escortTokens: 64,
};

/** @param numServed tokens computed for the request so far */
export function sinkOf(numServed: number, sinkTokens: number): number {
  if (numServed < sinkTokens) return 0;
  return numServed < 4 * sinkTokens ? 1 : MAX_SINK;
}
