/** Buffers of one KV block each, used again instead of made again: each is a few hundred kilobytes of fresh pages otherwise. */

const MOST_SPARE = 16;

export class BlockBuffers {
  readonly #blockBytes: number;
  readonly #spare: Uint8Array[] = [];

  constructor(blockBytes: number) {
    this.#blockBytes = blockBytes;
  }

  /** With any content. */
  take(): Uint8Array {
    return this.#spare.pop() ?? new Uint8Array(this.#blockBytes);
  }

  giveBack(buffer: Uint8Array): void {
    if (this.#spare.length < MOST_SPARE) this.#spare.push(buffer);
  }
}
