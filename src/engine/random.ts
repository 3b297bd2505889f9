/**
 * Random numbers that depend on nothing but (seed, token index): not on the batch, the step, or what was drawn before. So a sequence that is
 * preempted, re-batched or taken up again after a crash draws what it would have drawn.
 *
 * Philox 4x32 with 10 rounds, a counter-based generator: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
 */

/** What a number is for; further uses of one token index (such as accepting a drafted token) get streams of their own. */
export const RandomStream = { sample: 0 } as const;
export type RandomStream = (typeof RandomStream)[keyof typeof RandomStream];

const MULTIPLIER_0 = 0xd2511f53;
const MULTIPLIER_1 = 0xcd9e8d57;
const WEYL_0 = 0x9e3779b9;
const WEYL_1 = 0xbb67ae85;

/** Upper 32 bits of the 64-bit product of two unsigned 32-bit numbers. */
function multiplyHigh(a: number, b: number): number {
  const aHigh = a >>> 16;
  const aLow = a & 0xffff;
  const bHigh = b >>> 16;
  const bLow = b & 0xffff;
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const carry = (middle & 0xffff) + aLow * bHigh;
  return (aHigh * bHigh + Math.floor(middle / 0x10000) + Math.floor(carry / 0x10000)) >>> 0;
}

/**
 * One block of Philox 4x32-10.
 *
 * @param counter four unsigned 32-bit words, overwritten with the four random words
 * @param key0    key words, unsigned 32 bits
 */
export function philox4x32(counter: Uint32Array, key0: number, key1: number): void {
  let c0 = counter[0]!;
  let c1 = counter[1]!;
  let c2 = counter[2]!;
  let c3 = counter[3]!;
  for (let round = 0; round < 10; round++) {
    const high0 = multiplyHigh(MULTIPLIER_0, c0);
    const high1 = multiplyHigh(MULTIPLIER_1, c2);
    const low0 = Math.imul(MULTIPLIER_0, c0) >>> 0;
    const low1 = Math.imul(MULTIPLIER_1, c2) >>> 0;
    c0 = (high1 ^ c1 ^ key0) >>> 0;
    c1 = low1;
    c2 = (high0 ^ c3 ^ key1) >>> 0;
    c3 = low0;
    key0 = (key0 + WEYL_0) >>> 0;
    key1 = (key1 + WEYL_1) >>> 0;
  }
  counter[0] = c0;
  counter[1] = c1;
  counter[2] = c2;
  counter[3] = c3;
}

const block = new Uint32Array(4);

/**
 * A number in [0, 1) with 53 random bits.
 *
 * @param seed       any safe integer; its low 32 bits and the rest make the key
 * @param tokenIndex place of the token in the output, from 0
 */
export function randomUnit(seed: number, tokenIndex: number, stream: RandomStream): number {
  block[0] = tokenIndex;
  block[1] = stream;
  block[2] = 0;
  block[3] = 0;
  philox4x32(block, seed >>> 0, Math.floor(seed / 0x100000000) >>> 0);
  return ((block[0]! >>> 5) * 0x4000000 + (block[1]! >>> 6)) / 0x20000000000000;
}

/** A seed for a request that named none: 48 random bits. */
export function freshSeed(): number {
  const words = crypto.getRandomValues(new Uint32Array(2));
  return words[0]! * 0x10000 + (words[1]! & 0xffff);
}
