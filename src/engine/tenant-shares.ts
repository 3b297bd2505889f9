/**
 * Fair shares between tenants (API keys, say): a counter of service for each, and whoever has had least goes next. A tenant that comes back after a
 * pause starts level with the others, so that nobody saves up. Virtual token counter: Sheng et al. 2024, "Fairness in Serving LLMs",
 * arXiv:2401.00588.
 */

/** A token of output weighs this many of a prompt, as in the paper. */
export const OUTPUT_WEIGHT = 2;
/** Counters of tenants without requests are forgotten beyond this many. */
const MAX_IDLE = 1000;

interface Share {
  counter: number;
  numRequests: number;
}

export class TenantShares {
  readonly #shares = new Map<string, Share>();
  #numActive = 0;

  /** A request of the tenant comes in. */
  enter(tenant: string): void {
    let share = this.#shares.get(tenant);
    if (share === undefined) {
      if (this.#shares.size - this.#numActive >= MAX_IDLE) this.#forgetIdle();
      share = { counter: 0, numRequests: 0 };
      this.#shares.set(tenant, share);
    }
    if (share.numRequests === 0) {
      share.counter = Math.max(share.counter, this.#leastActive());
      this.#numActive++;
    }
    share.numRequests++;
  }

  /** A request of the tenant is over. */
  leave(tenant: string): void {
    const share = this.#shares.get(tenant);
    if (share === undefined || share.numRequests === 0) return;
    share.numRequests--;
    if (share.numRequests === 0) this.#numActive--;
  }

  charge(tenant: string, weight: number): void {
    const share = this.#shares.get(tenant);
    if (share !== undefined) share.counter += weight;
  }

  /** Service that the tenant has had; comparable between tenants with requests. */
  counter(tenant: string): number {
    return this.#shares.get(tenant)?.counter ?? 0;
  }

  #leastActive(): number {
    if (this.#numActive === 0) return 0;
    let least = Number.POSITIVE_INFINITY;
    for (const { counter, numRequests } of this.#shares.values()) {
      if (numRequests > 0) least = Math.min(least, counter);
    }
    return least;
  }

  #forgetIdle(): void {
    for (const [tenant, { numRequests }] of this.#shares) {
      if (numRequests === 0) this.#shares.delete(tenant);
    }
  }
}
