/** The file of outlier columns: what it gives, and everything in it that does not fit the model is refused by name. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { WeightFileError } from '../errors.ts';
import { HfQuantizedWeights } from '../hf-quantized-weights.ts';
import { writeSafetensors } from '../safetensors-writer.ts';
import type { TensorToWrite } from '../tensor-data.ts';
import { openWeights } from '../weight-source.ts';

const folder = mkdtempSync(join(tmpdir(), 'hasten-outlier-file-'));
after(() => rmSync(folder, { recursive: true }));
const ROWS = 4;
const COLUMNS = 64;

const i32 = (values: readonly number[], shape = [values.length]): TensorToWrite => ({
  ...{ name: 'X.outlier_columns', dtype: 'i32', shape },
  data: new Uint8Array(Int32Array.from(values).buffer),
});
const f16 = (numColumns: number, rows = ROWS): TensorToWrite => ({
  ...{ name: 'X.outliers', dtype: 'f16', shape: [rows, numColumns] },
  data: new Uint8Array(new Uint16Array(rows * numColumns).fill(0x3c00).buffer),
});

/** A model of one int8 matrix with this file of outliers. */
async function opened(...outliers: TensorToWrite[]): Promise<HfQuantizedWeights> {
  const model = join(folder, 'model.safetensors');
  const file = join(folder, 'outliers.safetensors');
  await writeSafetensors(model, {
    tensors: [
      {
        name: 'X.weight',
        dtype: 'i8',
        shape: [ROWS, COLUMNS],
        data: new Uint8Array(ROWS * COLUMNS),
      },
      { name: 'X.SCB', dtype: 'f32', shape: [ROWS], data: new Uint8Array(4 * ROWS) },
      { name: 'Y.weight', dtype: 'f32', shape: [1, 32], data: new Uint8Array(128) },
    ],
  });
  await writeSafetensors(file, { tensors: outliers });
  const config = { quant_method: 'bitsandbytes' };
  return new HfQuantizedWeights(openWeights(model), config, openWeights(file));
}

describe('a file of outlier columns', () => {
  it('gives the matrix its columns, and their weights as a tensor', async () => {
    using weights = await opened(i32([0, 5, 63]), f16(3));
    const { outliers } = weights.tensors.get('X.weight')!;
    assert.deepEqual(outliers, { columns: [0, 5, 63], tensor: 'X.outliers' });
    assert.deepEqual(weights.tensors.get('X.outliers')!.shape, [ROWS, 3]);
    assert.deepEqual([...weights.readF32('X.outliers')], new Array(ROWS * 3).fill(1));
    assert.equal(weights.tensors.has('X.outlier_columns'), false);
    assert.equal(weights.files.length, 2);
  });

  const cases: readonly (readonly [string, readonly TensorToWrite[], RegExp])[] = [
    ['a column out of range', [i32([5, 64]), f16(2)], /has 64 at 1; expected 6 to 63/],
    ['a negative column', [i32([-1, 5]), f16(2)], /has -1 at 0; expected 0 to 63/],
    ['a column twice', [i32([5, 5]), f16(2)], /has 5 at 1; expected 6 to 63/],
    ['columns out of order', [i32([9, 5]), f16(2)], /has 5 at 1; expected 10 to 63/],
    ['no column', [i32([]), f16(0)], /is i32 \[0\]; expected i32 \[1 to 64\]/],
    ['columns as a matrix', [i32([1, 2], [1, 2]), f16(2)], /is i32 \[1, 2\]/],
    ['columns of another type', [{ ...i32([1]), dtype: 'f32' }, f16(1)], /is f32 \[1\]/],
    [
      'too few weights',
      [i32([1, 2]), f16(1)],
      /"X.outliers": is f16 \[4, 1\]; expected f16 \[4, 2\]/,
    ],
    ['too many rows', [i32([1, 2]), f16(2, 5)], /"X.outliers": is f16 \[5, 2\]/],
    ['no weights', [i32([1, 2])], /"X.outliers": is missing; expected f16 \[4, 2\]/],
    [
      'columns of no matrix',
      [{ ...i32([1]), name: 'Z.outlier_columns' }],
      /"Z.outlier_columns": the model has no int8 "Z.weight"/,
    ],
    [
      'columns of a matrix in floats',
      [{ ...i32([1]), name: 'Y.outlier_columns' }],
      /the model has no int8 "Y.weight"/,
    ],
  ];
  for (const [what, tensors, message] of cases) {
    it(`is refused with ${what}`, async () => {
      await assert.rejects(opened(...tensors), (error: unknown) => {
        assert.ok(error instanceof WeightFileError && error.fault === 'corrupt');
        assert.match(error.message, message);
        return true;
      });
    });
  }
});
