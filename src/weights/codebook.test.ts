/** NF4 against bitsandbytes' bytes (test/fixtures/compress/nf4.safetensors). */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { decodeCodebook, encodeCodebook, FP4_CODE, NF4_CODE } from '../tensor/codebook.ts';
import { openWeights } from './weight-source.ts';

const GOLDEN = fileURLToPath(
  new URL('../../test/fixtures/compress/nf4.safetensors', import.meta.url),
);

describe('code books', () => {
  it('NF4 has the values of bitsandbytes', () => {
    using golden = openWeights(GOLDEN);
    assert.deepEqual(NF4_CODE, golden.readF32('codebook'));
  });

  for (const name of ['square', 'odd_cols', 'partial_block']) {
    it(`NF4 encodes and decodes "${name}" as bitsandbytes does`, () => {
      using golden = openWeights(GOLDEN);
      const values = golden.readF32(`${name}.input`);
      const encoded = encodeCodebook(values, 'nf4');
      assert.deepEqual(encoded.absmax, golden.readF32(`${name}.absmax`));
      const packed = golden.readRows(`${name}.packed`).slice();
      // The unused low nibble after an odd count is anybody's.
      if (values.length % 2 === 1) {
        packed[packed.length - 1]! &= 0xf0;
        encoded.packed[packed.length - 1]! &= 0xf0;
      }
      assert.deepEqual(encoded.packed, packed);
      assert.deepEqual(decodeCodebook(encoded), golden.readF32(`${name}.dequantized`));
    });
  }

  it('FP4 takes each of its values to itself', () => {
    const values = FP4_CODE.map((value) => value * 3);
    const back = decodeCodebook(encodeCodebook(values, 'fp4', 32));
    for (const [i, value] of values.entries()) assert.ok(Math.abs(back[i]! - value) < 1e-6);
  });

  it('refuses other block sizes', () => {
    assert.throws(() => encodeCodebook(new Float32Array(64), 'nf4', 48), /block size 48/);
  });
});
