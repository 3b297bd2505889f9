import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { ENCODED_DTYPES } from '../kernels/encode/encode-blocks.ts';
import { runnableMachines } from '../targets/x64/testing/native-kernel.ts';
import { EncodeKernels } from './encode-kernels.ts';
import { encodeRows } from './encode-rows.ts';

const random = (length: number): Float32Array =>
  Float32Array.from({ length }, (_, i) => Math.sin(i * i) * (1 + (i % 7)));

describe('rows encoded on native code', () => {
  for (const { name, machine } of runnableMachines()) {
    it(`have the bytes of plain encoding on ${name}, whatever their number and length`, () => {
      using kernels = new EncodeKernels(machine);
      // One block; some that do not fill the lanes; more than a piece; a row that is longer than one.
      const shapes = [
        [1, 256],
        [5, 768],
        [70, 1024],
        [2, 300 * 256],
      ] as const;
      for (const to of ENCODED_DTYPES) {
        // The plain search is slow: the large ones are of one type.
        for (const [rows, columns] of to === 'q6_k' ? shapes : shapes.slice(0, 2)) {
          const values = random(rows * columns);
          for (const channels of [null, random(columns).map((x) => x * x)]) {
            const job = { to, values, columns, channels };
            const made = kernels.encode(job);
            assert.ok(made !== null, 'there is a kernel');
            const isSame = Buffer.compare(made, encodeRows(job, null)) === 0;
            assert.ok(isSame, `${to}, ${rows} x ${columns}, ${channels && 'by importance'}`);
          }
        }
      }
    });
  }

  it('are left to others where there is no kernel, or no whole block', (t) => {
    using kernels = EncodeKernels.create();
    if (kernels === null) return t.skip('native code cannot run here');
    const job = { values: random(512), columns: 256, channels: null };
    assert.equal(kernels.encode({ ...job, to: 'f16' }), null);
    assert.equal(kernels.encode({ ...job, columns: 128, to: 'q4_k' }), null);
    assert.equal(encodeRows({ ...job, to: 'f16' }, kernels).length, 1024);
  });
});
