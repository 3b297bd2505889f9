/** Comparing logits bit for bit: 0 and -0 differ, and so do two kinds of NaN. */
import assert from 'node:assert/strict';

/** Says at the first difference which row and which logit it is, and both values. */
export function assertSameBits(
  rows: readonly Float32Array[],
  expected: readonly Float32Array[],
  what: string,
): void {
  assert.equal(rows.length, expected.length, `${what}: number of rows`);
  for (const [row, logits] of rows.entries()) {
    const wanted = expected[row]!;
    assert.equal(logits.length, wanted.length, `${what}: length of row ${row}`);
    const bits = bitsOf(logits);
    const wantedBits = bitsOf(wanted);
    const at = bits.findIndex((value, i) => value !== wantedBits[i]);
    if (at >= 0) {
      const differing = bits.filter((value, i) => value !== wantedBits[i]).length;
      assert.fail(
        `${what}: row ${row}, logit ${at} is ${logits[at]}, expected ${wanted[at]} (${differing} of ${bits.length} differ)`,
      );
    }
  }
}

function bitsOf(values: Float32Array): Uint32Array {
  return new Uint32Array(values.buffer, values.byteOffset, values.length);
}
