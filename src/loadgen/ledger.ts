/**
 * Counts requests one by one, so that none is lost: sent = finished + refused + failed + in flight at every moment, and nothing is in flight at
 * the end. Knows nothing of how they are sent.
 */
import { InternalError } from '../platform/errors.ts';
import type { FailReason, RequestRecord } from './outcome.ts';

export interface Counts {
  readonly planned: number;
  readonly sent: number;
  readonly finished: number;
  readonly refused: number;
  readonly failed: number;
  readonly inFlight: number;
  /** Planned, but the run ended first, or an earlier turn of the conversation came to nothing. */
  readonly notSent: number;
  readonly failures: Readonly<Partial<Record<FailReason, number>>>;
  /** Refusals by HTTP status. */
  readonly refusals: Readonly<Record<string, number>>;
}

export class Ledger {
  readonly #planned: number | null;
  readonly #inFlight = new Set<number>();
  readonly #records = new Map<number, RequestRecord>();
  readonly #failures: Partial<Record<FailReason, number>> = {};
  readonly #refusals: Record<string, number> = {};
  #sent = 0;
  #finished = 0;
  #refused = 0;
  #failed = 0;
  #maxInFlight = 0;

  /** @param planned null where the run is bounded by time alone: what was not sent was then not planned either */
  constructor(planned: number | null) {
    this.#planned = planned;
  }

  /** @throws {InternalError} if this request was sent before */
  sent(index: number): void {
    if (this.#inFlight.has(index) || this.#records.has(index)) {
      throw new InternalError(`request ${index} was sent twice`);
    }
    this.#sent++;
    this.#inFlight.add(index);
    this.#maxInFlight = Math.max(this.#maxInFlight, this.#inFlight.size);
  }

  /** @throws {InternalError} if this request is not in flight */
  settled(record: RequestRecord): void {
    if (!this.#inFlight.delete(record.index)) {
      throw new InternalError(`request ${record.index} ended, but was not in flight`);
    }
    this.#records.set(record.index, record);
    const { outcome } = record;
    if (outcome.kind === 'finished') {
      this.#finished++;
    } else if (outcome.kind === 'refused') {
      this.#refused++;
      this.#refusals[outcome.status] = (this.#refusals[outcome.status] ?? 0) + 1;
    } else {
      this.#failed++;
      this.#failures[outcome.reason] = (this.#failures[outcome.reason] ?? 0) + 1;
    }
  }

  get maxInFlight(): number {
    return this.#maxInFlight;
  }

  counts(): Counts {
    const planned = this.#planned ?? this.#sent;
    return {
      planned,
      sent: this.#sent,
      finished: this.#finished,
      refused: this.#refused,
      failed: this.#failed,
      inFlight: this.#inFlight.size,
      notSent: planned - this.#sent,
      failures: { ...this.#failures },
      refusals: { ...this.#refusals },
    };
  }

  /**
   * The records, in the order of sending, once the run is over.
   * @throws {InternalError} if a request is unaccounted for
   */
  close(): RequestRecord[] {
    const { planned, sent, finished, refused, failed, inFlight } = this.counts();
    const records = [...this.#records.values()];
    const isSound =
      inFlight === 0 &&
      sent === finished + refused + failed &&
      sent === records.length &&
      sent <= planned;
    if (!isSound) {
      throw new InternalError(
        `requests unaccounted for: ${planned} planned, ${sent} sent, ${finished} finished, ${refused} refused, ${failed} failed, ${inFlight} in flight, ${records.length} on record`,
      );
    }
    return records.sort((a, b) => a.sentMs - b.sentMs || a.index - b.index);
  }
}
