/**
 * How attention goes through keys and values of one layout: blocks of a KV tile, vectors of tokens in them, bytes between things. Numbers only; records
 * nothing.
 */
import {
  type KvElement,
  type KvLayoutType,
  type KvShape,
  keyScalesBytes,
  kvBlockSize,
  kvElements,
  valueRowBytes,
  valueScalesBytes,
} from './kv-layout.ts';

/** Tokens of a KV tile. */
export const KV_TILE = 64;

/** Keys and values of some tokens: those in blocks, or of an open group. */
export class KvPart {
  readonly kvType: KvLayoutType;
  readonly blockSize: number;
  readonly blockShift: number;
  readonly blocksPerTile: number;
  readonly keyScalesBytes: number;
  readonly valueScalesBytes: number;
  /** Bytes of one token of V. */
  readonly valueStep: number;
  readonly keys: KvElement;
  readonly values: KvElement;
  /** Vectors of tokens that scores are made of at a time; together they have tokens of one block, or of all blocks of a KV tile. */
  readonly vectors: number;
  readonly stepsPerBlock: number;
  readonly #lanes: number;

  constructor(shape: KvShape, lanes: number, vectors: number) {
    const { kvType } = shape;
    this.kvType = kvType;
    this.blockSize = kvBlockSize(kvType);
    this.blockShift = Math.log2(this.blockSize);
    this.blocksPerTile = kvType === 'open' ? 1 : KV_TILE / this.blockSize;
    this.keyScalesBytes = keyScalesBytes(shape);
    this.valueScalesBytes = valueScalesBytes(kvType);
    this.valueStep = valueRowBytes(shape);
    const { keys, values } = kvElements(kvType);
    this.keys = keys;
    this.values = values;
    this.vectors = Math.min(vectors, (this.blocksPerTile * this.blockSize) / lanes);
    this.stepsPerBlock = Math.max(1, this.blockSize / (this.vectors * lanes));
    this.#lanes = lanes;
  }

  get takesWholeTile(): boolean {
    return this.vectors * this.#lanes === this.blocksPerTile * this.blockSize;
  }

  /** Where vector `v` of step `step` starts: its block among those of the step, and its token in it. Two vectors of c4 in a row share their bytes. */
  place(step: number, v: number): { readonly block: number; readonly token: number } {
    if (this.keys === 'c4') {
      const token = (step * (this.vectors / 2) + (v >> 1)) * this.#lanes;
      return { block: token >> 4, token: (token & 15) + 16 * (v & 1) };
    }
    const token = (step * this.vectors + v) * this.#lanes;
    return { block: Math.floor(token / this.blockSize), token: token % this.blockSize };
  }
}
