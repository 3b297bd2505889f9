/** f32 -> IQ4_NL and IQ4_XS (layouts: iq4-quants.ts), with and without an importance of each input channel. Bytes equal llama.cpp's. */
import { f16Bits } from '../half.ts';
import type { EncodeWeighted } from './block-format.ts';
import { IQ4_TABLE } from './iq4-table.ts';
import { nearestInt, SMALLEST } from './scale-search.ts';

const fround = Math.fround;
const TRIES = 7;

const weights = new Float32Array(32);
const scales = new Float32Array(8);
const codes = new Uint8Array(256);

/** For floor(2 * value) from -256 to 255: how many midpoints (whole numbers, once doubled) lie at or below it. */
const INDEX_OF_TWICE = Uint8Array.from({ length: 512 }, (_, i) => {
  let index = 0;
  while (index < 15 && i - 256 >= IQ4_TABLE[index]! + IQ4_TABLE[index + 1]!) index++;
  return index;
});

/** Index of the table's value nearest to `value`; a value half-way goes to the larger. */
function nearestIndex(value: number): number {
  const twice = Math.floor(fround(value + value));
  return INDEX_OF_TWICE[twice < -256 ? 0 : twice > 255 ? 511 : twice + 256]!;
}

/** Scales of `numGroups` groups of 32 from `o`, and the one of largest magnitude. */
function fitGroups(
  x: Float32Array,
  o: number,
  numGroups: number,
  importance: Float32Array | null,
): number {
  const size = 32 * numGroups;
  let sum = 0;
  for (let i = o; i < o + size; i++) sum = fround(sum + fround(x[i]! * x[i]!));
  const sigma2 = fround(sum * fround(2 / size));
  let most = 0;
  let signed = 0;
  for (let g = 0; g < numGroups; g++) {
    const first = o + 32 * g;
    let largest = 0;
    let max = 0;
    for (let i = 0; i < 32; i++) {
      const v = x[first + i]!;
      const square = fround(v * v);
      weights[i] =
        importance === null
          ? square
          : fround(importance[first + i]! * fround(Math.sqrt(fround(sigma2 + square))));
      if (Math.abs(v) > largest) {
        largest = Math.abs(v);
        max = v;
      }
    }
    scales[g] = largest < SMALLEST ? 0 : fitScale(x, first, max);
    if (Math.abs(scales[g]!) > most) {
      most = Math.abs(scales[g]!);
      signed = scales[g]!;
    }
  }
  return signed;
}

function fitScale(x: Float32Array, first: number, max: number): number {
  const lowest = IQ4_TABLE[0]!;
  let sumXq = 0;
  let sumQ2 = 0;
  const tryInverse = (inverse: number): void => {
    sumXq = 0;
    sumQ2 = 0;
    for (let i = 0; i < 32; i++) {
      const v = x[first + i]!;
      const q = IQ4_TABLE[nearestIndex(fround(inverse * v))]!;
      const wq = fround(weights[i]! * q);
      sumXq = fround(sumXq + fround(wq * v));
      sumQ2 = fround(sumQ2 + fround(wq * q));
    }
  };
  tryInverse(fround(1 / fround(-max / lowest)));
  let d = sumQ2 > 0 ? fround(sumXq / sumQ2) : 0;
  let best = fround(d * sumXq);
  for (let t = -TRIES; t <= TRIES; t++) {
    tryInverse(fround((t + lowest) / max));
    if (sumQ2 > 0 && fround(sumXq * sumXq) > fround(best * sumQ2)) {
      d = fround(sumXq / sumQ2);
      best = fround(d * sumXq);
    }
  }
  return d;
}

function storeNibbles(into: Uint8Array, at: number, numGroups: number): void {
  for (let g = 0; g < numGroups; g++) {
    for (let j = 0; j < 16; j++) {
      into[at + 16 * g + j] = codes[32 * g + j]! | (codes[32 * g + 16 + j]! << 4);
    }
  }
}

export const encodeIq4Nl: EncodeWeighted = (values, elements, into, byteOffset, importance) => {
  let at = byteOffset;
  for (let o = 0; o < elements; o += 32, at += 18) {
    fitGroups(values, o, 1, importance);
    const d = scales[0]!;
    const bits = f16Bits(d);
    into[at] = bits & 255;
    into[at + 1] = bits >> 8;
    const inverse = d === 0 ? 0 : fround(1 / d);
    for (let i = 0; i < 32; i++) codes[i] = nearestIndex(fround(inverse * values[o + i]!));
    storeNibbles(into, at + 2, 1);
  }
};

export const encodeIq4Xs: EncodeWeighted = (values, elements, into, byteOffset, importance) => {
  let at = byteOffset;
  for (let o = 0; o < elements; o += 256, at += 136) {
    const d = fround(-fitGroups(values, o, 8, importance) / 32);
    const bits = f16Bits(d);
    into[at] = bits & 255;
    into[at + 1] = bits >> 8;
    const inverse = d === 0 ? 0 : fround(1 / d);
    let high = 0;
    into.fill(0, at + 4, at + 8);
    for (let g = 0; g < 8; g++) {
      const rounded = nearestInt(fround(inverse * scales[g]!));
      const l = rounded < -32 ? -32 : rounded > 31 ? 31 : rounded;
      const scale = fround(d * l);
      const inverseScale = scale === 0 ? 0 : fround(1 / scale);
      for (let i = 0; i < 32; i++) {
        codes[32 * g + i] = nearestIndex(fround(inverseScale * values[o + 32 * g + i]!));
      }
      into[at + 4 + (g >> 1)]! |= ((l + 32) & 15) << (4 * (g & 1));
      high |= ((l + 32) >> 4) << (2 * g);
    }
    into[at + 2] = high & 255;
    into[at + 3] = high >> 8;
    storeNibbles(into, at + 8, 8);
  }
};
