/** Our encoders against llama.cpp's own (test/fixtures/compress/ggml-encoded.safetensors). Lies here and not in tensor/, which knows no files. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { DType } from '../tensor/dtype.ts';
import { encodeRow, encodeRowWeighted } from '../tensor/rows.ts';
import { openWeights } from './weight-source.ts';

const GOLDEN = fileURLToPath(
  new URL('../../test/fixtures/compress/ggml-encoded.safetensors', import.meta.url),
);

describe('encoded rows have the bytes that llama.cpp writes', () => {
  using golden = openWeights(GOLDEN);
  const values = golden.readF32('values');
  const importance = golden.readF32('importance');
  const columns = importance.length;
  const cases = [...golden.tensors.keys()].filter((name) => name.includes('.'));

  for (const name of cases) {
    const [dtype, kind] = name.split('.') as [DType, string];
    const expected = golden.readRows(name);
    it(`${dtype}, ${kind}`, () => {
      const [rows, rowSize] = [
        values.length / columns,
        (expected.length * columns) / values.length,
      ];
      for (let row = 0; row < rows; row++) {
        const into = new Uint8Array(rowSize).fill(0xa5);
        const x = values.subarray(row * columns, (row + 1) * columns);
        if (kind === 'weighted') encodeRowWeighted(dtype, x, importance, into);
        else encodeRow(dtype, x, columns, into);
        assert.deepEqual(into, expected.slice(row * rowSize, (row + 1) * rowSize), `row ${row}`);
      }
    });
  }

  it('are of eleven formats', () => assert.equal(cases.length, 22));
});
