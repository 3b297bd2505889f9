import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { ENCODED_DTYPES } from '../kernels/encode/encode-blocks.ts';
import { runnableMachines } from '../targets/x64/testing/native-kernel.ts';
import type { DType } from '../tensor/dtype.ts';
import { encodeRow } from '../tensor/rows.ts';
import { EncodeKernels } from './encode-kernels.ts';
import { encodeRows, type RowsToEncode } from './encode-rows.ts';
import { NonFiniteWeightError } from './errors.ts';

const random = (length: number): Float32Array =>
  Float32Array.from({ length }, (_, i) => Math.sin(i * i) * (1 + (i % 7)));

function jobOf(values: Float32Array, columns: number, from: DType, to: DType): RowsToEncode {
  const stored = new Uint8Array(4 * values.length);
  encodeRow(from, values, values.length, stored);
  const used = { f32: 4, f16: 2, bf16: 2 }[from as 'f32'] ?? 34 / 32;
  return {
    ...{ tensor: 'w', firstRow: 7, from, to, columns, channels: null },
    stored: stored.subarray(0, used * values.length),
  };
}

describe('rows encoded on native code', () => {
  for (const { name, machine } of runnableMachines()) {
    it(`have the bytes of plain encoding on ${name}, whatever their number, length and type`, () => {
      using kernels = new EncodeKernels(machine);
      // One block; some that do not fill the lanes; more than a piece; a row that is longer than one.
      const shapes = [
        [1, 256, 'f16'],
        [5, 768, 'bf16'],
        [70, 1024, 'q8_0'],
        [2, 300 * 256, 'f32'],
      ] as const;
      for (const to of ENCODED_DTYPES) {
        // The plain search is slow: the large ones are of one type.
        for (const [rows, columns, from] of to === 'q6_k' ? shapes : shapes.slice(0, 2)) {
          const plain = jobOf(random(rows * columns), columns, from, to);
          const weighted = { ...plain, channels: random(columns).map((x) => x * x) };
          for (const job of [plain, weighted]) {
            const made = kernels.encode(job);
            assert.ok(made !== null, 'there is a kernel');
            const isSame = Buffer.compare(made, encodeRows(job, null)) === 0;
            assert.ok(isSame, `${to}, ${rows} x ${columns}, ${job.channels && 'by importance'}`);
          }
        }
      }
    });
  }

  it('are left to others where there is no kernel, or no whole block', (t) => {
    using kernels = EncodeKernels.create();
    if (kernels === null) return t.skip('native code cannot run here');
    const job = jobOf(random(512), 256, 'f32', 'f16');
    assert.equal(kernels.encode(job), null);
    assert.equal(kernels.encode({ ...job, columns: 128, to: 'q4_k' }), null);
    assert.equal(encodeRows(job, kernels).length, 1024);
  });

  for (const from of ['f16', 'bf16', 'f32'] as const) {
    it(`are refused where one of ${from} is no number, and it is named`, (t) => {
      using kernels = EncodeKernels.create();
      if (kernels === null) return t.skip('native code cannot run here');
      for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
        const values = random(2048);
        values[3 * 512 + 17] = bad;
        for (const way of [kernels, null]) {
          assert.throws(
            () => encodeRows(jobOf(values, 512, from, 'q6_k'), way),
            (error) =>
              error instanceof NonFiniteWeightError &&
              error.row === 10 &&
              error.column === 17 &&
              Object.is(error.value, bad),
          );
        }
        assert.ok(encodeRows(jobOf(random(2048), 512, from, 'q6_k'), kernels).length > 0);
      }
    });
  }
});
