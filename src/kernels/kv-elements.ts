/**
 * Heads of keys and values in registers: rounding a head to codes, rotating it, and loading vectors of the cache. The layout is kv-layout.ts, what the codes
 * mean is tensor/kv-row.ts. Knows nothing of tokens, blocks or attention.
 */
import { KV_CODES, LARGEST_KV, type QuantizedKvType, rotationSize } from '../tensor/kv-row.ts';
import type { KernelBuilder } from './builder.ts';
import type { Address, Scalar, Vector } from './kernel-ir.ts';
import { type FloatKvType, type KvShape, kvElements, valuePlace } from './kv-layout.ts';
import { absF } from './math.ts';

/** The smallest f16 above zero. */
export const SMALLEST_SCALE = 2 ** -24;
const SWAPS = { 1: 'f32.swap1', 2: 'f32.swap2', 4: 'f32.swap4', 8: 'f32.swap8' } as const;

/** A vector of the cache as f32; codes are not scaled. `isHighHalf`: of bytes that two codes share. */
export function loadKv(
  k: KernelBuilder,
  element: FloatKvType | QuantizedKvType,
  address: Address,
  isHighHalf: boolean,
): Vector {
  if (element === 'f16') return k.load(address, 'f16');
  if (element === 'f32') return k.load(address);
  const code = k.load(address, 'i8');
  if (element === 'q4') {
    if (!isHighHalf) k.shift('i32.shl', code, 28, code);
    k.shift('i32.sar', code, isHighHalf ? 4 : 28, code);
  }
  return k.unary('f32.fromI32', code, code);
}

/** Bounds the `headDim` f32 at `from` to what the formats hold, NaN included, and puts them to `to`. May be the same place. */
export function boundHead(k: KernelBuilder, headDim: number, from: Scalar, to: Scalar): void {
  const highest = k.splatF32(LARGEST_KV);
  const lowest = k.splatF32(-LARGEST_KV);
  k.unrolledLanes(headDim, (d, count) => {
    const bounded = k.minF(k.load(k.at(from, 4 * d), 'bits', count), highest);
    k.store(k.at(to, 4 * d), k.maxF(bounded, lowest, bounded), 'bits', count);
  });
}

/** The `headDim` f32 at `head` ← H of them (tensor/kv-row.ts), in place. The same bits on every machine. */
export function rotateHead(k: KernelBuilder, headDim: number, head: Scalar): void {
  const size = rotationSize(headDim);
  rotateWithinVectors(k, headDim, head, Math.min(size, k.lanes));
  for (let distance = k.lanes; distance < size; distance *= 2) {
    const at = k.copy(head);
    k.loop(headDim / (2 * distance), () => {
      k.loop(distance / k.lanes, () => {
        const [low, high] = [k.at(at), k.at(at, 4 * distance)];
        const a = k.load(low);
        const b = k.load(high);
        k.store(low, k.addF(a, b));
        k.store(high, k.subF(a, b));
        k.addTo(at, 4 * k.lanes);
      });
      k.addTo(at, 4 * distance);
    });
  }
}

function rotateWithinVectors(k: KernelBuilder, headDim: number, head: Scalar, size: number): void {
  const stages = ([1, 2, 4, 8] as const)
    .filter((distance) => distance < size)
    .map((distance) => {
      // The sign bit in lanes whose value is subtracted: those with the bit of `distance` in their index.
      const lane = k.shift('i32.shl', k.laneIndex(), 31 - Math.log2(distance));
      return { swap: SWAPS[distance], sign: k.binary('bits.and', lane, k.splatBits(1 << 31)) };
    });
  const rotate = (address: Address, count: number): void => {
    const x = k.load(address, 'bits', count);
    for (const { swap, sign } of stages) {
      const other = k.unary(swap, x);
      k.binary('bits.xor', x, sign, x);
      k.addF(other, x, x);
    }
    k.store(address, x, 'bits', count);
  };
  const whole = Math.floor(headDim / k.lanes);
  const at = k.copy(head);
  k.loop(whole, () => {
    rotate(k.at(at), k.lanes);
    k.addTo(at, 4 * k.lanes);
  });
  const rest = headDim - whole * k.lanes;
  if (rest > 0) rotate(k.at(head, 4 * whole * k.lanes), rest);
}

/** Memory that `quantizeHead` needs beside the codes: one vector of f16. */
export const SCALE_SCRATCH_BYTES = 64;

/**
 * Codes of the `headDim` f32 at `from`, which are bounded and rotated already: `codes` is called with each vector of them, i32, zero behind `count`
 * dimensions. The scale is left as f16 at `scale` (SCALE_SCRATCH_BYTES).
 */
export function quantizeHead(
  k: KernelBuilder,
  type: QuantizedKvType,
  { headDim, from, scale }: { headDim: number; from: Scalar; scale: Address },
  codes: (dimension: number, code: Vector) => void,
): void {
  const d = storedScale(k, type, headDim, from, scale);
  const inverse = k.keepWhereGe(k.divF(k.splatF32(1), d), absF(k, d), k.splatF32(SMALLEST_SCALE));
  const high = k.splatF32(KV_CODES[type].high);
  const low = k.splatF32(KV_CODES[type].low);
  k.unrolledLanes(headDim, (dimension, count) => {
    const x = k.load(k.at(from, 4 * dimension), 'bits', count);
    k.mulF(x, inverse, x);
    k.minF(x, high, x);
    k.maxF(x, low, x);
    codes(dimension, k.unary('i32.fromF32', x, x));
  });
}

/** The scale as f16 holds it, in every lane; its bytes at `place`. */
function storedScale(
  k: KernelBuilder,
  type: QuantizedKvType,
  headDim: number,
  from: Scalar,
  place: Address,
): Vector {
  const high = k.zero();
  const negatedLow = k.zero();
  const zero = k.zero();
  k.unrolledLanes(headDim, (dimension, count) => {
    const x = k.load(k.at(from, 4 * dimension), 'bits', count);
    k.maxF(high, x, high);
    k.maxF(negatedLow, k.subF(zero, x, x), negatedLow);
  });
  const most = k.unary('f32.reduceMax', high);
  const least = k.unary('f32.reduceMax', negatedLow);
  let exact: Vector;
  if (type === 'q8') exact = k.mulF(k.maxF(most, least), k.splatF32(1 / 127));
  else {
    // The value of the largest magnitude becomes the lowest code, of which there is one more than of high ones.
    const positive = k.keepWhereGe(most, most, least);
    const negative = k.subF(least, k.keepWhereGe(least, most, least));
    exact = k.mulF(k.subF(positive, negative), k.splatF32(1 / KV_CODES.q4.low));
  }
  k.store(place, exact, 'f16');
  return k.broadcast(place, 'f16');
}

/**
 * The `headDim` codes of a token's values, bytes at `codeRow` of scratch, to where they stand in the cache, two to a byte if they have 4 bits; zeros
 * behind them.
 */
export function storeValueCodes(
  k: KernelBuilder,
  { headDim, kvType }: Omit<KvShape, 'numKvHeads'>,
  codeRow: number,
  to: Scalar,
): void {
  const codes = (d: number): Vector => {
    const count = Math.min(k.lanes, headDim - d);
    return count > 0 ? k.load(k.at(k.scratch, codeRow + d), 'i8', count) : k.zero();
  };
  for (let d = 0; d < headDim; d += k.lanes) {
    const { offsetBytes, isHighHalf } = valuePlace(kvType, d);
    if (isHighHalf) continue;
    let bytes = codes(d);
    if (kvElements(kvType).values === 'q4') {
      const low = k.binary('bits.and', bytes, k.splatBits(15));
      bytes = k.binary('bits.or', low, k.shift('i32.shl', codes(d + 16), 4));
    }
    k.store(k.at(to, offsetBytes), bytes, 'i8');
  }
}
