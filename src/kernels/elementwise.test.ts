import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ActivationKind } from '../graph/ir.ts';
import { encodeQ8Row, q8RowBytes } from './activation-format.ts';
import {
  activationKernel,
  elementwiseKernel,
  gatedActivationKernel,
  scaleKernel,
  softcapKernel,
} from './elementwise.ts';
import type { KernelProgram, VectorMachine } from './kernel-ir.ts';
import { quantizeKernel } from './quantize.ts';
import { segmentsPerRow } from './rows.ts';
import {
  f32Of,
  nativeMachineNames,
  paddedMatrix,
  randomF32,
  range,
  runEverywhere,
} from './testing/run-kernel.ts';

const WIDTHS = [1, 7, 9, 15, 17, 31, 33, 63, 576, 640, 1536, 2048];
const ROWS = 3;
const ROWS_PER_CHUNK = 2;

const ACTIVATIONS: Record<ActivationKind, (x: number) => number> = {
  silu: (x) => x / (1 + Math.exp(-x)),
  gelu: (x) => (x * (1 + erf(x / Math.SQRT2))) / 2,
  geluTanh: (x) => (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
  relu: (x) => Math.max(0, x),
  tanh: Math.tanh,
};

/** Taylor series, for arguments up to about 5. */
function erf(x: number): number {
  let term = x;
  let sum = x;
  for (let n = 1; n < 150; n++) {
    term *= (-x * x) / n;
    sum += term / (2 * n + 1);
  }
  return (2 / Math.sqrt(Math.PI)) * sum;
}

interface MapCase {
  readonly width: number;
  readonly segmentColumns?: number;
  readonly inputs: readonly string[];
  record(machine: VectorMachine): KernelProgram;
  expected(...values: number[]): number;
}

function checkMap({ width, segmentColumns, inputs, record, expected }: MapCase): void {
  const values = inputs.map((_, i) => randomF32(ROWS * width, width + i, 2));
  const matrices = values.map((v) => paddedMatrix(ROWS, width, v));
  const fields: Record<string, number | ArrayBufferView> = {
    numRows: ROWS,
    rowsPerChunk: ROWS_PER_CHUNK,
    out: new Float32Array(ROWS * (width + 3)).fill(-7),
    outStride: 4 * (width + 3),
  };
  inputs.forEach((input, i) => {
    fields[input] = matrices[i]!.data;
    fields[`${input}Stride`] = matrices[i]!.strideBytes;
  });
  const numChunks = segmentsPerRow({ width, ...(segmentColumns ? { segmentColumns } : {}) }) * 2;
  runEverywhere({
    record,
    fields,
    chunks: range(numChunks).reverse(),
    nativeOnly: width > 700,
    onResult: ({ out }, { name }) => {
      const actual = f32Of(out!);
      for (const row of range(ROWS)) {
        for (const i of range(width)) {
          const y = actual[row * (width + 3) + i]!;
          const wanted = expected(...values.map((v) => v[row * width + i]!));
          const bound = 1.5e-6 * (1 + Math.abs(wanted));
          assert.ok(
            Math.abs(y - wanted) <= bound,
            `${name}, width ${width}: [${row}, ${i}] is ${y}, expected ${wanted}`,
          );
        }
        assert.equal(actual[row * (width + 3) + width], -7, 'writes behind the row');
      }
    },
  });
}

test(`sums, products, scale and softcap at ragged widths (${nativeMachineNames()})`, () => {
  for (const width of WIDTHS) {
    for (const op of ['add', 'mul'] as const) {
      checkMap({
        width,
        inputs: ['x', 'y'],
        record: (machine) => elementwiseKernel(machine, { width, op }),
        expected: (x, y) => (op === 'add' ? x! + y! : x! * y!),
      });
    }
    checkMap({
      width,
      inputs: ['x'],
      record: (machine) => scaleKernel(machine, { width, factor: 0.3 }),
      expected: (x) => x! * 0.3,
    });
    checkMap({
      width,
      inputs: ['x'],
      record: (machine) => softcapKernel(machine, { width, cap: 3 }),
      expected: (x) => 3 * Math.tanh(x! / 3),
    });
  }
});

test('activations, alone and gated, whole rows and segments', () => {
  for (const kind of Object.keys(ACTIVATIONS) as ActivationKind[]) {
    for (const [width, segmentColumns] of [
      [1, undefined],
      [33, undefined],
      [70, 32],
      [576, 192],
      [1536, 512],
    ] as const) {
      const shape = { width, kind, ...(segmentColumns ? { segmentColumns } : {}) };
      checkMap({
        ...shape,
        inputs: ['x'],
        record: (machine) => activationKernel(machine, shape),
        expected: (x) => ACTIVATIONS[kind](x!),
      });
      checkMap({
        ...shape,
        inputs: ['gate', 'up'],
        record: (machine) => gatedActivationKernel(machine, { ...shape, output: 'f32' }),
        expected: (gate, up) => ACTIVATIONS[kind](gate!) * up!,
      });
    }
  }
});

test('gated activation with q8 output holds the quantized bits of its f32 output', () => {
  for (const [width, segmentColumns] of [
    [40, 32],
    [576, 128],
    [1536, 768],
  ] as const) {
    const gate = randomF32(ROWS * width, 1);
    const up = randomF32(ROWS * width, 2);
    const common = {
      gate,
      gateStride: 4 * width,
      up,
      upStride: 4 * width,
      numRows: ROWS,
      rowsPerChunk: ROWS_PER_CHUNK,
    };
    const outStride = q8RowBytes(width) + 16;
    const shape = { width, segmentColumns, kind: 'silu' } as const;
    const chunks = range(2 * segmentsPerRow(shape));
    runEverywhere({
      record: (machine) => gatedActivationKernel(machine, { ...shape, output: 'q8' }),
      fields: { ...common, out: new Uint8Array(ROWS * outStride), outStride },
      chunks,
      nativeOnly: width > 700,
      onResult: ({ out }, { machine, run }) => {
        const plain = run(
          gatedActivationKernel(machine, { ...shape, output: 'f32' }),
          { ...common, out: new Float32Array(ROWS * width), outStride: 4 * width },
          chunks,
        );
        const expected = new Uint8Array(ROWS * outStride);
        for (const row of range(ROWS)) {
          const values = f32Of(plain.out!).subarray(row * width, (row + 1) * width);
          encodeQ8Row(values, new DataView(expected.buffer), row * outStride);
        }
        assert.deepEqual(out, expected);
      },
    });
  }
});

test('quantize gives the bits of the plain encoder, blocks of zeros and tiny values included', () => {
  for (const width of [1, 31, 32, 33, 100, 576, 1536, 2048]) {
    const values = randomF32(ROWS * width, width, 100);
    values.fill(0, 0, Math.min(32, width));
    for (let i = 32; i < Math.min(64, width); i++) values[i] = i * 1e-35;
    if (width > 70) values[70] = 127.5;
    const x = paddedMatrix(ROWS, width, values);
    const outStride = q8RowBytes(width);
    const expected = new Uint8Array(ROWS * outStride);
    for (const row of range(ROWS)) {
      encodeQ8Row(
        values.subarray(row * width, (row + 1) * width),
        new DataView(expected.buffer),
        row * outStride,
      );
    }
    runEverywhere({
      record: (machine) => quantizeKernel(machine, { width }),
      fields: {
        x: x.data,
        xStride: x.strideBytes,
        out: new Uint8Array(ROWS * outStride).fill(99),
        outStride,
        numRows: ROWS,
        rowsPerChunk: 1,
      },
      chunks: range(ROWS),
      nativeOnly: width > 700,
      onResult: ({ out }, { name }) => {
        assert.deepEqual(out, expected, `${name}, width ${width}`);
      },
    });
  }
});
