/** Slice statistics of a row as a runner computes them: f32, by the obvious loop. */
export function sliceStats(
  logits: Float32Array,
  sliceSize: number,
  inverseTemperature = 1,
): { sliceMax: Float32Array; sliceExpSum: Float32Array } {
  const numSlices = Math.ceil(logits.length / sliceSize);
  const sliceMax = new Float32Array(numSlices);
  const sliceExpSum = new Float32Array(numSlices);
  for (let s = 0; s < numSlices; s++) {
    const slice = logits.subarray(s * sliceSize, (s + 1) * sliceSize);
    sliceMax[s] = slice.reduce((a, b) => Math.max(a, b));
    for (const logit of slice) {
      sliceExpSum[s] =
        sliceExpSum[s]! + Math.fround(Math.exp((logit - sliceMax[s]!) * inverseTemperature));
    }
  }
  return { sliceMax, sliceExpSum };
}
