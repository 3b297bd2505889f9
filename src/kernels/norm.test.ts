import assert from 'node:assert/strict';
import { test } from 'node:test';
import { encodeQ8Row, q8RowBytes } from './activation-format.ts';
import { KernelShapeError } from './errors.ts';
import { layerNormKernel, rmsNormKernel } from './norm.ts';
import {
  f32Of,
  nativeMachineNames,
  paddedMatrix,
  randomF32,
  range,
  runEverywhere,
} from './testing/run-kernel.ts';

const WIDTHS = [1, 7, 9, 15, 17, 31, 33, 64, 100, 576, 640, 1536, 2048];
const ROWS = 3;

function rmsNormReference(x: Float32Array, weight: Float32Array, eps: number): Float64Array {
  const n = weight.length;
  const out = new Float64Array(x.length);
  for (let g = 0; g < x.length; g += n) {
    let squares = 0;
    for (let i = 0; i < n; i++) squares += x[g + i]! ** 2;
    const factor = 1 / Math.sqrt(squares / n + eps);
    for (let i = 0; i < n; i++) out[g + i] = x[g + i]! * factor * weight[i]!;
  }
  return out;
}

function layerNormReference(
  x: Float32Array,
  weight: Float32Array,
  bias: Float32Array,
  eps: number,
): Float64Array {
  const n = x.length;
  let mean = 0;
  for (const value of x) mean += value / n;
  let variance = 0;
  for (const value of x) variance += (value - mean) ** 2 / n;
  const factor = 1 / Math.sqrt(variance + eps);
  return Float64Array.from(x, (value, i) => (value - mean) * factor * weight[i]! + bias[i]!);
}

function assertClose(actual: ArrayLike<number>, expected: ArrayLike<number>, what: string): void {
  for (let i = 0; i < expected.length; i++) {
    const difference = Math.abs(actual[i]! - expected[i]!);
    const bound = 2e-6 * (1 + Math.abs(expected[i]!));
    assert.ok(difference <= bound, `${what}: [${i}] is ${actual[i]}, expected ${expected[i]}`);
  }
}

test(`rmsNorm of whole rows, f32, at ragged widths (${nativeMachineNames()})`, () => {
  for (const width of WIDTHS) {
    for (const residual of [false, true]) {
      const values = randomF32(ROWS * width, width, 3);
      const added = randomF32(ROWS * width, width + 1);
      const weight = randomF32(width, 7);
      const x = paddedMatrix(ROWS, width, values);
      const r = paddedMatrix(ROWS, width, added);
      runEverywhere({
        record: (machine) =>
          rmsNormKernel(machine, { width, groupSize: width, eps: 1e-5, residual, output: 'f32' }),
        fields: {
          x: x.data,
          xStride: x.strideBytes,
          weight,
          residual: r.data,
          residualStride: r.strideBytes,
          out: new Float32Array(x.data.length).fill(-7),
          outStride: x.strideBytes,
          numRows: ROWS,
          rowsPerChunk: 2,
        },
        chunks: [0, 1],
        nativeOnly: width > 600,
        onResult: ({ out }, { name }) => {
          const actual = f32Of(out!);
          for (const row of range(ROWS)) {
            const expected = rmsNormReference(
              values.subarray(row * width, (row + 1) * width),
              weight,
              1e-5,
            );
            for (const i of range(residual ? width : 0)) expected[i]! += added[row * width + i]!;
            const start = (row * x.strideBytes) / 4;
            assertClose(actual.subarray(start), expected, `${name}, width ${width}, row ${row}`);
            assert.equal(actual[start + width], -7, 'writes behind the row');
          }
        },
      });
    }
  }
});

test('rmsNorm of groups normalises each head by itself', () => {
  for (const groupSize of [8, 24, 64, 80, 256]) {
    const width = 3 * groupSize;
    const values = randomF32(ROWS * width, groupSize, 2);
    const weight = randomF32(groupSize, 9);
    const x = paddedMatrix(ROWS, width, values);
    runEverywhere({
      record: (machine) =>
        rmsNormKernel(machine, { width, groupSize, eps: 1e-6, residual: false, output: 'f32' }),
      fields: {
        x: x.data,
        xStride: x.strideBytes,
        weight,
        out: new Float32Array(x.data.length),
        outStride: x.strideBytes,
        numRows: ROWS,
        rowsPerChunk: ROWS,
      },
      chunks: [0],
      onResult: ({ out }, { name }) => {
        for (const row of range(ROWS)) {
          const expected = rmsNormReference(
            values.subarray(row * width, (row + 1) * width),
            weight,
            1e-6,
          );
          const actual = f32Of(out!).subarray((row * x.strideBytes) / 4);
          assertClose(actual, expected, `${name}, groups of ${groupSize}`);
        }
      },
    });
  }
});

test('q8 output holds the quantized bits of the f32 output', () => {
  for (const [width, groupSize] of [
    [1, 1],
    [33, 33],
    [576, 576],
    [640, 640],
    [192, 64],
  ] as const) {
    const values = randomF32(ROWS * width, width, 5);
    const weight = randomF32(groupSize, 3);
    const x = paddedMatrix(ROWS, width, values);
    const shape = { width, groupSize, eps: 1e-5, residual: false };
    const common = { x: x.data, xStride: x.strideBytes, weight, numRows: ROWS, rowsPerChunk: 1 };
    const outStride = Math.ceil(q8RowBytes(width) / 64) * 64;
    runEverywhere({
      record: (machine) => rmsNormKernel(machine, { ...shape, output: 'q8' }),
      fields: { ...common, out: new Uint8Array(ROWS * outStride), outStride },
      chunks: range(ROWS),
      onResult: ({ out }, { machine, run }) => {
        const plain = run(
          rmsNormKernel(machine, { ...shape, output: 'f32' }),
          { ...common, out: new Float32Array(ROWS * width), outStride: 4 * width },
          range(ROWS),
        );
        const expected = new Uint8Array(ROWS * outStride);
        for (const row of range(ROWS)) {
          const normed = f32Of(plain.out!).subarray(row * width, (row + 1) * width);
          encodeQ8Row(normed, new DataView(expected.buffer), row * outStride);
        }
        assert.deepEqual(out, expected);
      },
    });
  }
});

test('layerNorm, f32 and q8, at ragged widths', () => {
  for (const width of WIDTHS) {
    const values = randomF32(ROWS * width, width, 3).map((v) => v + 5);
    const weight = randomF32(width, 7);
    const bias = randomF32(width, 8);
    const x = paddedMatrix(ROWS, width, values);
    const shape = { width, eps: 1e-5 };
    const common = {
      x: x.data,
      xStride: x.strideBytes,
      weight,
      bias,
      numRows: ROWS,
      rowsPerChunk: 2,
    };
    runEverywhere({
      record: (machine) => layerNormKernel(machine, { ...shape, output: 'f32' }),
      fields: { ...common, out: new Float32Array(ROWS * width), outStride: 4 * width },
      chunks: [1, 0],
      nativeOnly: width > 600,
      onResult: ({ out }, { name, machine, run }) => {
        const q8Stride = Math.ceil(q8RowBytes(width) / 64) * 64;
        const expectedQ8 = new Uint8Array(ROWS * q8Stride);
        for (const row of range(ROWS)) {
          const actual = f32Of(out!).subarray(row * width, (row + 1) * width);
          const source = values.subarray(row * width, (row + 1) * width);
          assertClose(
            actual,
            layerNormReference(source, weight, bias, 1e-5),
            `${name}, width ${width}`,
          );
          encodeQ8Row(actual, new DataView(expectedQ8.buffer), row * q8Stride);
        }
        const q8 = run(
          layerNormKernel(machine, { ...shape, output: 'q8' }),
          { ...common, out: new Uint8Array(ROWS * q8Stride), outStride: q8Stride },
          [0, 1],
        );
        assert.deepEqual(q8.out, expectedQ8);
      },
    });
  }
});

test('a row gives the same bits alone and among others', () => {
  const width = 576;
  const values = randomF32(5 * width, 1);
  const weight = randomF32(width, 2);
  const shape = { width, groupSize: width, eps: 1e-5, residual: false, output: 'f32' } as const;
  const run = (x: Float32Array, numRows: number, rowsPerChunk: number): Uint8Array[] => {
    const results: Uint8Array[] = [];
    runEverywhere({
      record: (machine) => rmsNormKernel(machine, shape),
      fields: {
        x,
        xStride: 4 * width,
        weight,
        out: new Float32Array(x.length),
        outStride: 4 * width,
        numRows,
        rowsPerChunk,
      },
      chunks: range(Math.ceil(numRows / rowsPerChunk)),
      onResult: ({ out }) => results.push(out!),
    });
    return results;
  };
  const together = run(values, 5, 2);
  const alone = run(values.subarray(3 * width, 4 * width), 1, 1);
  together.forEach((all, i) => {
    assert.deepEqual(all.subarray(12 * width, 16 * width), alone[i]);
  });
});

test('groups that straddle q8 blocks are refused when recording', () => {
  const machine = {
    lanes: 8,
    vectorRegisters: 16,
    hasInt8Dot: false,
    hasBroadcastOperand: false,
  } as const;
  const shape = { eps: 1e-5, residual: false } as const;
  assert.throws(
    () => rmsNormKernel(machine, { ...shape, width: 48, groupSize: 24, output: 'q8' }),
    (error) => error instanceof KernelShapeError && /groups of 24 columns/.test(error.message),
  );
  assert.throws(
    () => rmsNormKernel(machine, { ...shape, width: 50, groupSize: 24, output: 'f32' }),
    KernelShapeError,
  );
});
