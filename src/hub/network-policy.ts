/** How patient the network code is. Tests and the offline fallback use shorter times. */
export interface NetworkPolicy {
  /** Until the head of an answer is there, connecting included. */
  readonly responseTimeoutMs: number;
  /** Without a single byte in a body. */
  readonly stallTimeoutMs: number;
  /** Further tries in a row without any progress. */
  readonly maxRetries: number;
  /** Further tries while a host has never answered. */
  readonly unreachableRetries: number;
  readonly backoffBaseMs: number;
  readonly backoffMaxMs: number;
  /** A lock not renewed for so long belonged to a process that is gone. At least 2000. */
  readonly lockStaleMs: number;
}

export const DEFAULT_NETWORK_POLICY: NetworkPolicy = {
  responseTimeoutMs: 15_000,
  stallTimeoutMs: 30_000,
  maxRetries: 5,
  unreachableRetries: 1,
  backoffBaseMs: 500,
  backoffMaxMs: 15_000,
  lockStaleMs: 10_000,
};

/** For a model that has other sources: an offline machine goes on to the next one within seconds. */
export function impatient(policy: NetworkPolicy): NetworkPolicy {
  return {
    ...policy,
    responseTimeoutMs: Math.min(policy.responseTimeoutMs, 4000),
    unreachableRetries: 0,
  };
}
