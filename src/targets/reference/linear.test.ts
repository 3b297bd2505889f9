import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { linearF32 } from './linear.ts';
import { linearQ8, type QuantizedMatrix } from './linear-q8.ts';
import { dequantizeRow, quantizeRows } from './quantize.ts';
import { Random } from './testing/random.ts';
import { createF32Rows, createQ8Rows, type F32Rows } from './value-rows.ts';

const random = new Random(7);

function randomRows(numRows: number, width: number): F32Rows {
  const rows = createF32Rows(numRows, width);
  random.fill(rows.data);
  return rows;
}

function rowOf(rows: F32Rows, row: number): Float32Array {
  return rows.data.slice(rows.offset + row * rows.stride).subarray(0, rows.width);
}

/** Every output by the definition. */
function expectedOutput(x: Float32Array, weight: Float32Array, n: number): number {
  return x.reduce((sum, value, k) => sum + value * weight[n * x.length + k]!, 0);
}

describe('linearF32', () => {
  for (const [numRows, numOutputs, width] of [
    [1, 1, 1],
    [1, 5, 3],
    [2, 4, 8],
    [3, 7, 33],
    [5, 6, 64],
  ] as const) {
    it(`agrees with the definition for ${numRows} rows, ${width} inputs, ${numOutputs} outputs`, () => {
      const x = randomRows(numRows, width);
      const weight = random.fill(new Float32Array(numOutputs * width));
      const bias = random.fill(new Float32Array(numOutputs));
      const residual = randomRows(numRows, numOutputs);
      const out = createF32Rows(numRows, numOutputs);
      linearF32(x, numRows, weight, out, { bias, residual });
      for (let row = 0; row < numRows; row++) {
        for (let n = 0; n < numOutputs; n++) {
          const product = Math.fround(expectedOutput(rowOf(x, row), weight, n));
          const biased = Math.fround(product + bias[n]!);
          const expected = Math.fround(biased + rowOf(residual, row)[n]!);
          assert.equal(rowOf(out, row)[n], expected);
        }
      }
    });
  }

  it('reads and writes column ranges of wider rows, and nothing beside them', () => {
    const wide = randomRows(3, 20);
    const x = { ...wide, offset: 4, width: 8 };
    const weight = random.fill(new Float32Array(5 * 8));
    const target = createF32Rows(3, 11);
    target.data.fill(99);
    const out = { ...target, offset: 2, width: 5 };
    linearF32(x, 3, weight, out);
    const dense = createF32Rows(3, 5);
    linearF32(
      {
        data: Float32Array.from([0, 1, 2].flatMap((r) => [...rowOf(x, r)])),
        offset: 0,
        stride: 8,
        width: 8,
      },
      3,
      weight,
      dense,
    );
    for (const r of [0, 1, 2]) {
      assert.deepEqual(rowOf(out, r), rowOf(dense, r));
      const whole = rowOf(target, r);
      assert.ok([...whole.subarray(0, 2), ...whole.subarray(7)].every((value) => value === 99));
    }
  });
});

function randomMatrix(
  numRows: number,
  numColumns: number,
  groupSize: 16 | 32,
  hasMins: boolean,
): QuantizedMatrix {
  const numGroups = (numRows * numColumns) / groupSize;
  return {
    numRows,
    numColumns,
    groupSize,
    codes: Int8Array.from({ length: numRows * numColumns }, () => random.below(255) - 127),
    scales: random.fill(new Float32Array(numGroups)),
    mins: hasMins ? random.fill(new Float32Array(numGroups)) : null,
  };
}

describe('linearQ8', () => {
  for (const groupSize of [16, 32] as const) {
    for (const hasMins of [false, true]) {
      it(`is the product of the values that the codes stand for (groups of ${groupSize}, ${hasMins ? 'with' : 'without'} mins)`, () => {
        const [numRows, numOutputs, width] = [3, 6, 96];
        const matrix = randomMatrix(numOutputs, width, groupSize, hasMins);
        const weight = Float32Array.from(matrix.codes, (code, at) => {
          const group = Math.floor(at / groupSize);
          return code * matrix.scales[group]! + (matrix.mins?.[group] ?? 0);
        });
        const x = createQ8Rows(numRows, width);
        quantizeRows(randomRows(numRows, width), numRows, x);
        const out = createF32Rows(numRows, numOutputs);
        linearQ8(x, numRows, matrix, out);
        for (let row = 0; row < numRows; row++) {
          const values = dequantizeRow(x, row);
          for (let n = 0; n < numOutputs; n++) {
            const expected = expectedOutput(values, weight, n);
            const magnitude = values.reduce(
              (sum, value, k) => sum + Math.abs(value * weight[n * width + k]!),
              0,
            );
            const difference = Math.abs(rowOf(out, row)[n]! - expected);
            assert.ok(difference <= 1e-6 * magnitude, `${difference} of ${magnitude}`);
          }
        }
      });
    }
  }

  it('gives a row the same bits alone and among others', () => {
    const matrix = randomMatrix(7, 64, 32, true);
    const values = randomRows(5, 64);
    const all = createQ8Rows(5, 64);
    quantizeRows(values, 5, all);
    const out = createF32Rows(5, 7);
    linearQ8(all, 5, matrix, out);
    for (let row = 0; row < 5; row++) {
      const one = createQ8Rows(1, 64);
      quantizeRows({ ...values, offset: row * 64 }, 1, one);
      const alone = createF32Rows(1, 7);
      linearQ8(one, 1, matrix, alone);
      assert.deepEqual(rowOf(alone, 0), rowOf(out, row));
    }
  });
});
