/** RMSNorm and LayerNorm, statistics in f64. */

/** Where a row is read and written; offsets in elements. */
export interface RowPlaces {
  readonly x: Float32Array;
  readonly xOffset: number;
  readonly out: Float32Array;
  readonly outOffset: number;
}

/**
 * RMSNorm of one group: out[i] = x[i] / sqrt(mean(x²) + eps) * weight[i], rounded to f32, plus residual[i].
 *
 * @param weight f32 [groupSize]
 * @param residual f32, read from `residualOffset`; null for none
 * @see Zhang & Sennrich 2019, arXiv:1910.07467
 */
export function rmsNormRow(
  { x, xOffset, out, outOffset }: RowPlaces,
  weight: Float32Array,
  eps: number,
  residual: Float32Array | null = null,
  residualOffset = 0,
): void {
  const groupSize = weight.length;
  let sumSquares = 0;
  for (let i = 0; i < groupSize; i++) {
    const value = x[xOffset + i]!;
    sumSquares += value * value;
  }
  const scale = 1 / Math.sqrt(sumSquares / groupSize + eps);
  for (let i = 0; i < groupSize; i++) {
    const value = Math.fround(x[xOffset + i]! * scale * weight[i]!);
    out[outOffset + i] = residual === null ? value : value + residual[residualOffset + i]!;
  }
}

/**
 * LayerNorm of one row: out[i] = (x[i] - mean) / sqrt(variance + eps) * weight[i] + bias[i].
 *
 * @param weight f32 [width]; `bias` alike
 */
export function layerNormRow(
  { x, xOffset, out, outOffset }: RowPlaces,
  weight: Float32Array,
  bias: Float32Array,
  eps: number,
): void {
  const width = weight.length;
  let sum = 0;
  for (let i = 0; i < width; i++) sum += x[xOffset + i]!;
  const mean = sum / width;
  let sumSquares = 0;
  for (let i = 0; i < width; i++) {
    const centered = x[xOffset + i]! - mean;
    sumSquares += centered * centered;
  }
  const scale = 1 / Math.sqrt(sumSquares / width + eps);
  for (let i = 0; i < width; i++) {
    out[outOffset + i] = (x[xOffset + i]! - mean) * scale * weight[i]! + bias[i]!;
  }
}
