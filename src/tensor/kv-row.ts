/**
 * The quantized formats of keys and values: how the values of one token and head become codes and one scale, and back; and how the keys of 32 tokens
 * become codes, with a scale and a minimum for each channel.
 *
 *     q8   scale = f16(largest magnitude / 127),            codes -127..127
 *     q4   scale = f16(value of the largest magnitude / -8),  codes -8..7
 *
 * both of the rotated head. The rotation is the Walsh-Hadamard transform H over each `rotationSize` values: it spreads what stands out in a few dimensions over all of them, so
 * that one scale serves a head (the mean KL divergence of q8 is a quarter of what it is without). H is its own inverse up to the factor n = rotationSize, a power of two: codes are of H x, not divided, so
 * q · k = (H q) · (H k) / n and x = H (H x) / n.
 *
 *     c4   minimum = f16(smallest), scale = f16((largest - minimum) / 15), codes 0..15, of one channel (dimension of a head) over 32 tokens
 *
 * of the head as it is: a channel that stands out does so in all tokens.
 *
 * Rotation before rounding: Ashkboos et al. 2024, "QuaRot", arXiv:2404.00456. Keys by channel: Liu et al. 2024, "KIVI", arXiv:2402.02750.
 * Knows nothing of how rows lie in a cache.
 */

export type QuantizedKvType = 'q8' | 'q4';

/** Values beyond this count as this: what f16 holds. */
export const LARGEST_KV = 65504;

/** Values that are rotated together: the largest power of two that divides the head size. */
export function rotationSize(headDim: number): number {
  return headDim & -headDim;
}

/** values ← H values, not divided by anything, for each `rotationSize` of them. */
export function rotateHead(values: Float32Array | Float64Array): void {
  const size = rotationSize(values.length);
  for (let distance = 1; distance < size; distance *= 2) {
    for (let i = 0; i < values.length; i++) {
      if ((i & distance) !== 0) continue;
      const a = values[i]!;
      const b = values[i + distance]!;
      values[i] = a + b;
      values[i + distance] = a - b;
    }
  }
}

/** Lowest and highest code. */
export const KV_CODES: Readonly<Record<QuantizedKvType, { readonly low: number; high: number }>> = {
  q8: { low: -127, high: 127 },
  q4: { low: -8, high: 7 },
};

function finite(value: number): number {
  if (Number.isNaN(value)) return LARGEST_KV;
  return Math.max(-LARGEST_KV, Math.min(LARGEST_KV, value));
}

function roundToEven(x: number): number {
  const floor = Math.floor(x);
  const fraction = x - floor;
  if (fraction !== 0.5) return fraction < 0.5 ? floor : floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}

/**
 * Codes of one head into `codes`, bit for bit as the kernels do.
 * @param values f32 `[headDim]`, left as it is
 * @returns the scale, exactly what f16 holds
 */
export function encodeKvHead(
  type: QuantizedKvType,
  values: Float32Array,
  codes: Int8Array,
): number {
  const x = Float32Array.from(values, finite);
  rotateHead(x);
  let low = 0;
  let high = 0;
  for (const value of x) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  const exact =
    type === 'q8'
      ? Math.fround(Math.max(high, -low) * Math.fround(1 / 127))
      : (high >= -low ? high : low) / -8;
  const scale = Math.f16round(Math.max(-LARGEST_KV, Math.min(LARGEST_KV, exact)));
  const inverse = scale === 0 ? 0 : Math.fround(1 / scale);
  const range = KV_CODES[type];
  for (let i = 0; i < x.length; i++) {
    const scaled = Math.fround(x[i]! * inverse);
    codes[i] = roundToEven(Math.max(range.low, Math.min(range.high, scaled)));
  }
  return scale;
}

/** The values that codes and scale stand for, in f64. */
export function decodeKvHead(codes: Int8Array, scale: number): Float64Array {
  const values = Float64Array.from(codes, (code) => code * scale);
  rotateHead(values);
  const size = rotationSize(values.length);
  for (let i = 0; i < values.length; i++) values[i]! /= size;
  return values;
}

/** Scale and minimum of a channel, exactly what f16 holds. */
export interface KvChannel {
  readonly scale: number;
  readonly minimum: number;
}

/**
 * Codes of one channel over some tokens into `codes`, bit for bit as the kernels do: value = minimum + scale * code.
 * @param values finite, what f16 holds; left as they are
 */
export function encodeKvChannel(values: Float32Array, codes: Uint8Array): KvChannel {
  let minimum = Number.POSITIVE_INFINITY;
  let largest = Number.NEGATIVE_INFINITY;
  for (const value of values) {
    minimum = Math.min(minimum, value);
    largest = Math.max(largest, value);
  }
  const range = Math.fround(largest - minimum);
  const scale = Math.f16round(Math.fround(range * Math.fround(1 / 15)));
  const inverse = scale === 0 ? 0 : Math.fround(1 / scale);
  for (let i = 0; i < values.length; i++) {
    const scaled = Math.fround(Math.fround(values[i]! - minimum) * inverse);
    codes[i] = roundToEven(Math.min(15, scaled));
  }
  return { scale, minimum };
}
