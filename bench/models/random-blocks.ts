/**
 * Random tensors already in their stored form: encoding billions of f32 values would take minutes, and a benchmark only needs that the values
 * are plausible. Same seed, same bytes. Knows block layouts, not models.
 */
import { DTYPES, type DType, rowBytes } from '../../src/tensor/dtype.ts';
import { f16Bits } from '../../src/tensor/half.ts';

const CHUNK_BYTES = 4 << 20;

/** Formats that can be made, and how a block's random bytes become values of standard deviation `deviation`. */
const SCALES = {
  /** d, then 16 bytes of nibbles 0..15, minus 8; their deviation is 4.61. */
  q4_0: { at: 0, perDeviation: 1 / 4.61 },
  /** d, then 32 signed bytes; their deviation is 73.9. */
  q8_0: { at: 0, perDeviation: 1 / 73.9 },
  /** Low and high bits (deviation 18.5), 16 signed scales (deviation 73.9), d last. */
  q6_k: { at: 208, perDeviation: 1 / (18.5 * 73.9) },
} as const satisfies Partial<Record<DType, { at: number; perDeviation: number }>>;

export type RandomDType = keyof typeof SCALES;

/** xoshiro128++ (Blackman & Vigna 2018, public domain): 2^128 - 1 long, and fast enough to fill gigabytes. */
export class RandomWords {
  readonly #state: Uint32Array;

  constructor(seed: number) {
    // splitmix32 spreads small seeds over the state.
    let x = seed >>> 0;
    this.#state = Uint32Array.from({ length: 4 }, () => {
      x = (x + 0x9e3779b9) >>> 0;
      let z = x;
      z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
      z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
      return (z ^ (z >>> 15)) >>> 0;
    });
  }

  fill(words: Uint32Array): void {
    let [a, b, c, d] = this.#state as unknown as [number, number, number, number];
    for (let i = 0; i < words.length; i++) {
      const sum = (a + d) | 0;
      words[i] = ((sum << 7) | (sum >>> 25)) + a;
      const t = b << 9;
      c ^= a;
      d ^= b;
      b ^= c;
      a ^= d;
      c ^= t;
      d = (d << 11) | (d >>> 21);
    }
    this.#state.set([a, b, c, d]);
  }
}

/**
 * The bytes of a random tensor of `elements` elements in chunks; a chunk is overwritten by the next one. Values are symmetric around zero (half
 * of the blocks have a negative scale) and uniform within a block, with standard deviation `deviation`.
 */
export function* randomBlocks(
  dtype: RandomDType,
  elements: number,
  deviation: number,
  random: RandomWords,
): Generator<Uint8Array> {
  const { blockBytes } = DTYPES[dtype];
  const { at, perDeviation } = SCALES[dtype];
  const plus = f16Bits(deviation * perDeviation);
  const chunkBytes = Math.floor(CHUNK_BYTES / blockBytes) * blockBytes;
  const words = new Uint32Array(Math.ceil(chunkBytes / 4));
  const bytes = new Uint8Array(words.buffer);
  for (let left = rowBytes(dtype, elements); left > 0; ) {
    const size = Math.min(left, chunkBytes);
    random.fill(words);
    for (let block = at; block < size; block += blockBytes) {
      const sign = bytes[block]! & 0x80;
      bytes[block] = plus & 0xff;
      bytes[block + 1] = (plus >>> 8) | sign;
    }
    yield bytes.subarray(0, size);
    left -= size;
  }
}
