/**
 * One sequence on a runner, without scheduler and sampling: what benchmarks and scoring need. Takes KV blocks 0, 1, 2, ... in order.
 */

import { CapacityError } from '../runtime/kv-budget.ts';
import type { ModelRunner } from '../targets/model-runner.ts';

/** Which tokens' logits a feed computes. */
export type LogitRows = 'none' | 'last' | 'all';

/** @param position of the token whose next token the logits speak of; `row` is that of the runner's last step */
export type RowListener = (position: number, row: number) => void | Promise<void>;

export class SequenceDriver {
  readonly #runner: ModelRunner;
  #numTokens = 0;

  constructor(runner: ModelRunner) {
    this.#runner = runner;
    const { batch, limits } = runner;
    for (let i = 0; i < Math.min(batch.maxBlocksPerSeq, limits.numBlocks); i++)
      batch.blockTables[i] = i;
  }

  /** Tokens fed so far. */
  get numTokens(): number {
    return this.#numTokens;
  }

  /** Forgets the sequence; the next feed starts at position 0. */
  reset(): void {
    this.#numTokens = 0;
  }

  /**
   * Appends tokens to the sequence, in as few steps as the runner's limits allow.
   * @throws {CapacityError} if they do not fit
   */
  async feed(tokenIds: ArrayLike<number>, rows: LogitRows, onRow?: RowListener): Promise<void> {
    const { limits } = this.#runner;
    const end = this.#numTokens + tokenIds.length;
    const capacity = Math.min(limits.maxModelLen, limits.numBlocks * limits.blockSize);
    if (end > capacity) {
      throw new CapacityError(`${end} tokens do not fit: the longest sequence here is ${capacity}`);
    }
    const chunk =
      rows === 'all' ? Math.min(limits.maxTokens, limits.maxLogitRows) : limits.maxTokens;
    for (let start = 0; start < tokenIds.length; start += chunk) {
      const count = Math.min(chunk, tokenIds.length - start);
      const isLast = start + count === tokenIds.length;
      const firstRow = rows === 'all' ? 0 : rows === 'last' && isLast ? count - 1 : count;
      await this.#step(tokenIds, start, count, firstRow);
      for (let token = firstRow; token < count; token++) {
        await onRow?.(this.#numTokens - count + token, token - firstRow);
      }
    }
  }

  /** @param firstRow index in the step of the first token whose logits are computed; `count` for none */
  async #step(
    tokenIds: ArrayLike<number>,
    start: number,
    count: number,
    firstRow: number,
  ): Promise<void> {
    const { batch } = this.#runner;
    for (let i = 0; i < count; i++) {
      const position = this.#numTokens + i;
      batch.tokenIds[i] = tokenIds[start + i]!;
      batch.positions[i] = position;
      batch.slotMapping[i] = position; // block b holds the positions from b * blockSize
    }
    for (let i = firstRow; i < count; i++) batch.logitRows[i - firstRow] = i;
    this.#numTokens += count;
    batch.queryStarts[0] = 0;
    batch.queryStarts[1] = count;
    batch.contextLens[0] = this.#numTokens;
    batch.numTokens = count;
    batch.numSeqs = 1;
    batch.numLogitRows = count - firstRow;
    const ticket = this.#runner.submit();
    if (!ticket.isDone) await ticket.wait();
  }
}
