/** The parts of a block besides the codes of its weights: made for the blocks of all lanes at once, then copied into each. */
import type { KernelBuilder } from '../builder.ts';
import type { Vector } from '../kernel-ir.ts';
import type { OpenBlock } from './block-frame.ts';
import { LaneArray } from './lane-array.ts';

export interface BlockWord {
  /** i32 lanes; the low bits count. */
  readonly word: Vector;
  /** First byte in the block. */
  readonly at: number;
  readonly bits: 16 | 32;
}

export class BlockWords {
  readonly #k: KernelBuilder;
  readonly #words: LaneArray;
  readonly #places: Omit<BlockWord, 'word'>[] = [];

  /** @param most words that are kept */
  constructor(k: KernelBuilder, most: number) {
    this.#k = k;
    this.#words = new LaneArray(k, most);
  }

  keep({ word, at, bits }: BlockWord): void {
    this.#k.store(this.#words.at(this.#places.length), word);
    this.#places.push({ at, bits });
  }

  copyInto({ out, lane }: OpenBlock): void {
    const k = this.#k;
    const target = out.get();
    const from = lane.get();
    for (const [i, { at, bits }] of this.#places.entries()) {
      const { base, offsetBytes } = this.#words.at(i);
      k.storeScalar(bits, k.at(target, at), k.loadScalar(32, k.at(base, offsetBytes, from)));
    }
  }
}

/** One byte of each, the first lowest. */
export function packBytes(k: KernelBuilder, bytes: readonly Vector[]): Vector {
  return bytes.reduceRight((word, byte) => k.binary('bits.or', k.shift('i32.shl', word, 8), byte));
}
