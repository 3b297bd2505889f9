import assert from 'node:assert/strict';
import { test } from 'node:test';
import { encodeQ8Row, q8RowBytes } from './activation-format.ts';
import { KernelShapeError } from './errors.ts';
import { permuteColumnsKernel } from './permute-columns.ts';
import {
  f32Of,
  INTERPRETED_MACHINES,
  nativeMachineNames,
  paddedMatrix,
  randomF32,
  range,
  runEverywhere,
} from './testing/run-kernel.ts';

const numRows = 3;

/** Some order of so many columns. */
function shuffled(width: number): Int32Array {
  const keys = randomF32(width, width + 1);
  return Int32Array.from(keys.keys()).sort((a, b) => keys[a]! - keys[b]!);
}

/** Rows of `values` in the order `columns`, f32 [numRows, width]. */
function permuted(values: Float32Array, columns: Int32Array): Float32Array {
  const width = columns.length;
  return values.map((_, i) => values[i - (i % width) + columns[i % width]!]!);
}

for (const output of ['f32', 'q8'] as const) {
  test(`permuteColumns to ${output} (${nativeMachineNames()})`, () => {
    for (const shape of [
      { width: 32 },
      { width: 576 },
      { width: 576, segmentColumns: 288 },
      { width: 160, segmentColumns: 96 },
    ]) {
      const { width } = shape;
      const values = randomF32(numRows * width, width);
      const columns = shuffled(width);
      const expected = permuted(values, columns);
      const x = paddedMatrix(numRows, width, values);
      const rowBytes = output === 'q8' ? q8RowBytes(width) : 4 * width;
      const outStride = Math.ceil(rowBytes / 64) * 64;
      const perRow = 'segmentColumns' in shape ? 2 : 1;
      runEverywhere({
        record: (machine) => permuteColumnsKernel(machine, { ...shape, output }),
        fields: {
          x: x.data,
          xStride: x.strideBytes,
          columns,
          columnsStride: 0,
          out: new Uint8Array(numRows * outStride),
          outStride,
          numRows,
          rowsPerChunk: 2,
        },
        chunks: range(2 * perRow),
        onResult: ({ out }, { name }) => {
          for (let row = 0; row < numRows; row++) {
            const wanted = expected.slice(row * width, (row + 1) * width);
            const made = out!.slice(row * outStride, row * outStride + rowBytes);
            if (output === 'f32') {
              assert.deepEqual(f32Of(made), wanted, name);
              continue;
            }
            const codes = new Uint8Array(rowBytes);
            encodeQ8Row(wanted, new DataView(codes.buffer));
            assert.deepEqual(made, codes, name);
          }
        },
      });
    }
  });
}

test('permuteColumns takes whole blocks only', () => {
  for (const { machine } of INTERPRETED_MACHINES) {
    assert.throws(
      () => permuteColumnsKernel(machine, { width: 40, output: 'f32' }),
      (error: unknown) => error instanceof KernelShapeError && /width is 40/.test(error.message),
    );
  }
});
