/** A growing list of token ids in one typed array. */

/** What readers of a list need: `ids` may be longer than `length`. */
export interface TokenSpan {
  readonly ids: Int32Array;
  readonly length: number;
}

export class TokenList implements TokenSpan {
  #ids: Int32Array<ArrayBuffer>;
  #length: number;

  constructor(ids: ArrayLike<number>) {
    this.#ids = new Int32Array(Math.max(ids.length + 64, 64));
    this.#ids.set(ids);
    this.#length = ids.length;
  }

  get ids(): Int32Array {
    return this.#ids;
  }

  get length(): number {
    return this.#length;
  }

  push(id: number): void {
    if (this.#length === this.#ids.length) {
      this.#ids = new Int32Array(this.#ids.buffer.transfer(this.#length * 8));
    }
    this.#ids[this.#length++] = id;
  }
}
