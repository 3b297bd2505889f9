/**
 * bitsandbytes' double quantization: scales of blocks, less their mean, as 8-bit indices into a "dynamic map" of 256 values, with a scale per 256 of them.
 * Dettmers et al. 2023, arXiv:2305.14314, section 3; the map is create_dynamic_map of bitsandbytes (signed, 7 exponent bits, 8 bits).
 */

const NESTED_BLOCK = 256;

/**
 * Seven decades of magnitudes with 1, 2, 4 … 64 values each, both signs, 0 and 1; ascending, f32 [256].
 */
export function dynamicMap(): Float32Array {
  const values = [0, 1];
  for (let i = 0; i < 7; i++) {
    const count = 2 ** i;
    const decade = Math.fround(10 ** (i - 6));
    const boundary = (j: number): number => Math.fround(0.1 + (0.9 * j) / count);
    for (let j = 0; j < count; j++) {
      const mean = Math.fround(Math.fround(boundary(j) + boundary(j + 1)) / 2);
      values.push(Math.fround(decade * mean), -Math.fround(decade * mean));
    }
  }
  return Float32Array.from(values.sort((a, b) => a - b));
}

export interface NestedScales {
  /** Indices into the map, u8 [scales]. */
  readonly codes: Uint8Array;
  /** Largest magnitude of each 256 scales less the mean, f32. */
  readonly absmax: Float32Array;
  /** The mean; scale = map[code] * absmax + offset. */
  readonly offset: number;
}

export function roundNested(scales: Float32Array): NestedScales {
  const map = dynamicMap();
  const offset = Math.fround(scales.reduce((sum, scale) => sum + scale, 0) / scales.length);
  const absmax = new Float32Array(Math.ceil(scales.length / NESTED_BLOCK));
  const codes = new Uint8Array(scales.length);
  for (let block = 0; block < absmax.length; block++) {
    const start = block * NESTED_BLOCK;
    const end = Math.min(start + NESTED_BLOCK, scales.length);
    for (let i = start; i < end; i++) {
      absmax[block] = Math.max(absmax[block]!, Math.abs(scales[i]! - offset));
    }
    const largest = absmax[block]!;
    for (let i = start; i < end; i++) {
      codes[i] = nearestIn(map, largest === 0 ? 0 : (scales[i]! - offset) / largest);
    }
  }
  return { codes, absmax, offset };
}

/** @param sorted ascending */
function nearestIn(sorted: Float32Array, value: number): number {
  let low = 0;
  let high = sorted.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (value > (sorted[middle]! + sorted[middle + 1]!) / 2) low = middle + 1;
    else high = middle;
  }
  return low;
}
