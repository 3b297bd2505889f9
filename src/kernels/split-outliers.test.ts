import assert from 'node:assert/strict';
import { test } from 'node:test';
import { encodeQ8Row, q8RowBytes } from './activation-format.ts';
import { splitOutliersKernel } from './split-outliers.ts';
import {
  f32Of,
  nativeMachineNames,
  paddedMatrix,
  randomF32,
  runEverywhere,
} from './testing/run-kernel.ts';

test(`splitOutliers gathers columns and rounds the others without them (${nativeMachineNames()})`, () => {
  const numRows = 3;
  for (const { width, columns } of [
    { width: 32, columns: [31] },
    { width: 64, columns: [0, 1, 33] },
    { width: 576, columns: [5, 32, 63, 64, 300, 575] },
    { width: 64, columns: Array.from({ length: 64 }, (_, i) => i) },
  ]) {
    const values = randomF32(numRows * width, width);
    for (const column of columns) values[width + column]! *= 100;
    const x = paddedMatrix(numRows, width, values);
    const codesBytes = Math.ceil(q8RowBytes(width) / 64) * 64;
    const outStride = codesBytes + 4 * Math.ceil(columns.length / 16) * 16;
    const out = new Uint8Array(numRows * outStride);
    runEverywhere({
      record: (machine) => splitOutliersKernel(machine, { width }),
      fields: {
        x: x.data,
        xStride: x.strideBytes,
        columns: Int32Array.from(columns),
        numColumns: columns.length,
        out,
        // A buffer of its own here; where plans have it behind the codes of the row, the stride is the same.
        outliers: new Float32Array(out.length / 4),
        outStride,
        numRows,
        rowsPerChunk: 2,
      },
      chunks: [1, 0],
      onResult: ({ out: made, outliers }, { name }) => {
        for (let row = 0; row < numRows; row++) {
          const regular = values.slice(row * width, (row + 1) * width);
          const kept = columns.map((column) => regular[column]!);
          for (const column of columns) regular[column] = 0;
          const expected = new Uint8Array(q8RowBytes(width));
          encodeQ8Row(regular, new DataView(expected.buffer));
          const start = row * outStride;
          assert.deepEqual(made!.slice(start, start + expected.length), expected, name);
          const gathered = f32Of(outliers!).slice(start / 4, start / 4 + columns.length);
          assert.deepEqual([...gathered], kept, name);
        }
      },
    });
  }
});
