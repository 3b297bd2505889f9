/** Every matmul kernel, as machine code on each instruction set of this machine, against plain arithmetic on decoded rows. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { RowGroupPacker } from '../../compiler/pack.ts';
import {
  encodeQ8Row,
  Q8_BLOCK_BYTES,
  Q8_BLOCK_VALUES,
  Q8_D_OFFSET,
  Q8_DSUM_OFFSET,
  q8RowBytes,
} from '../../kernels/activation-format.ts';
import type { VectorMachine } from '../../kernels/kernel-ir.ts';
import { matmulBlockInputs, matmulKernel, matmulTile } from '../../kernels/matmul.ts';
import { matmulQ8Kernel } from '../../kernels/matmul-q8.ts';
import { matvecKernel } from '../../kernels/matvec.ts';
import { matvecF32Groups, matvecF32Kernel } from '../../kernels/matvec-f32.ts';
import {
  PACKED_FORMATS,
  type PackableDType,
  packedBitsPerWeight,
  packedBytes,
  paddedRows,
  ROW_GROUP,
  rowGroupBytes,
} from '../../kernels/packed-format.ts';
import { DTYPES, rowBytes } from '../../tensor/dtype.ts';
import { createUnpackedRow, decodeRow, unpackBlocks } from '../../tensor/rows.ts';
import { fmaF32 } from '../reference/kernel-interpreter.ts';
import { NativeBuffer, nativeKernel, runnableMachines } from './testing/native-kernel.ts';

function randomSource(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

/** Stored rows with random codes; the few scale bytes of each block are made small and finite. */
function randomRows(dtype: PackableDType, rows: number, columns: number, seed: number): Uint8Array {
  const random = randomSource(seed);
  const bytes = new Uint8Array(rows * rowBytes(dtype, columns));
  const view = new DataView(bytes.buffer);
  if (dtype === 'f32') {
    for (let i = 0; i < rows * columns; i++) view.setFloat32(4 * i, random() - 0.5, true);
    return bytes;
  }
  if (dtype === 'f16' || dtype === 'bf16') {
    for (let i = 0; i < rows * columns; i++) {
      if (dtype === 'f16') view.setFloat16(2 * i, random() - 0.5, true);
      else {
        const f = new DataView(new ArrayBuffer(4));
        f.setFloat32(0, random() - 0.5, true);
        view.setUint16(2 * i, f.getUint16(2, true), true);
      }
    }
    return bytes;
  }
  for (let i = 0; i < bytes.length; i++) bytes[i] = Math.floor(random() * 256);
  const scaleOffsets: Record<string, [number, number[]]> = {
    q4_0: [18, [0]],
    q4_1: [20, [0, 2]],
    q5_0: [22, [0]],
    q5_1: [24, [0, 2]],
    q8_0: [34, [0]],
    q2_k: [84, [80, 82]],
    q3_k: [110, [108]],
    q4_k: [144, [0, 2]],
    q5_k: [176, [0, 2]],
    q6_k: [210, [208]],
    iq4_nl: [18, [0]],
    iq4_xs: [136, [0]],
  };
  const [blockBytes, offsets] = scaleOffsets[dtype]!;
  for (let b = 0; b < bytes.length; b += blockBytes) {
    for (const offset of offsets) view.setFloat16(b + offset, 0.01 + random() * 0.01, true);
  }
  return bytes;
}

function packed(
  dtype: PackableDType,
  stored: Uint8Array,
  rows: number,
  columns: number,
): NativeBuffer {
  const format = PACKED_FORMATS[dtype];
  const out = new NativeBuffer(packedBytes(format, rows, columns));
  const packer = new RowGroupPacker(dtype, format, columns);
  for (let r = 0; r < rows; r += ROW_GROUP) {
    packer.packGroup(
      stored,
      r * rowBytes(dtype, columns),
      Math.min(ROW_GROUP, rows - r),
      out.region.bytes(),
      (r / ROW_GROUP) * packer.groupBytes,
    );
  }
  return out;
}

interface Case {
  readonly dtype: PackableDType;
  readonly rows: number;
  readonly columns: number;
  readonly tokens: number;
}

/** Activations (row t the same for any number of tokens) with their exact q8 values where the kernel takes q8, in f64 for the expected sums. */
function setUp({ dtype, rows, columns, tokens }: Case, activation: 'q8' | 'f32') {
  const random = randomSource(rows * 31 + columns);
  const x = new Float32Array(tokens * columns).map(() => random() * 2 - 1);
  const stored = randomRows(dtype, rows, columns, 7);
  const decoded = new Float32Array(rows * columns);
  decodeRow(dtype, stored, 0, decoded, rows * columns);
  const stride = activation === 'q8' ? q8RowBytes(columns) : 4 * columns;
  const xBytes = new Uint8Array(tokens * stride);
  const used = new Float64Array(tokens * columns);
  const view = new DataView(xBytes.buffer);
  for (let t = 0; t < tokens; t++) {
    const row = x.subarray(t * columns, (t + 1) * columns);
    if (activation === 'q8') {
      encodeQ8Row(row, view, t * stride);
      for (let i = 0; i < columns; i++) {
        const block = t * stride + Math.floor(i / 32) * 48;
        used[t * columns + i] = view.getInt8(block + (i % 32)) * view.getFloat32(block + 32, true);
      }
    } else {
      new Float32Array(xBytes.buffer, t * stride, columns).set(row);
      used.set(row, t * columns);
    }
  }
  const extra = new Float32Array((tokens + 1) * paddedRows(rows)).map(randomSource(rows + columns));
  const bias = extra.subarray(0, paddedRows(rows));
  const residual = extra.subarray(paddedRows(rows));
  const expected = (t: number, r: number): { value: number; magnitude: number } => {
    let value = bias[r]! + residual[t * paddedRows(rows) + r]!;
    let magnitude = Math.abs(value);
    for (let i = 0; i < columns; i++) {
      const product = decoded[r * columns + i]! * used[t * columns + i]!;
      value += product;
      magnitude += Math.abs(product);
    }
    return { value, magnitude };
  };
  return { stored, xBytes, stride, bias, residual, expected };
}

/** The product of a case, all values of it near the plain one. */
function checked(c: Case, activation: 'q8' | 'f32', result: Float32Array): Float32Array {
  const { dtype, rows, columns, tokens } = c;
  const data = setUp(c, activation);
  for (let t = 0; t < tokens; t++) {
    for (let r = 0; r < rows; r++) {
      const { value, magnitude } = data.expected(t, r);
      const got = result[t * paddedRows(rows) + r]!;
      assert.ok(
        Math.abs(got - value) <= 2e-6 * magnitude + 1e-6,
        `${dtype} ${rows}x${columns} token ${t} row ${r}: ${got}, expected ${value}`,
      );
    }
  }
  return result;
}

function runMatmul(machine: VectorMachine, c: Case, activation: 'q8' | 'f32'): Float32Array {
  const { dtype, rows, columns, tokens } = c;
  const format = PACKED_FORMATS[dtype];
  const data = setUp(c, activation);
  const prefetch = c.tokens < 6;
  const kernel = nativeKernel(
    matmulKernel(machine, { format, activation, bias: true, residual: true, prefetch }),
  );
  const outRow = paddedRows(rows);
  const out = new NativeBuffer(4 * outRow * tokens);
  const numUnits = outRow / matmulTile(machine, { format, activation }).unitRows;
  kernel.run(
    {
      weight: packed(dtype, data.stored, rows, columns),
      groupStride: rowGroupBytes(format, columns),
      numUnits,
      unitsPerChunk: 2,
      inputs: columns,
      blockInputs: matmulBlockInputs(activation, format, columns),
      x: NativeBuffer.of(data.xBytes),
      xStride: data.stride,
      out,
      outStride: 4 * outRow,
      numRows: tokens,
      bias: NativeBuffer.of(data.bias),
      residual: NativeBuffer.of(data.residual),
      residualStride: 4 * outRow,
    },
    Math.ceil(numUnits / 2),
  );
  return checked(c, activation, out.f32(outRow * tokens));
}

/** @param rowsPerBlock activation rows per walk over the weights of a chunk */
function runMatmulQ8(machine: VectorMachine, c: Case, rowsPerBlock: number): Float32Array {
  const { dtype, rows, columns, tokens } = c;
  const format = PACKED_FORMATS[dtype];
  if (format.kind !== 'quantized') throw new Error('matmulQ8 is for quantized weights');
  const data = setUp(c, 'q8');
  const kernel = nativeKernel(matmulQ8Kernel(machine, { format, bias: true, residual: true }));
  const outRow = paddedRows(rows);
  const out = new NativeBuffer(4 * outRow * tokens);
  const numGroups = outRow / ROW_GROUP;
  kernel.run(
    {
      weight: packed(dtype, data.stored, rows, columns),
      groupStride: rowGroupBytes(format, columns),
      numGroups,
      groupsPerChunk: 4,
      numBlocks: columns / 32,
      x: NativeBuffer.of(data.xBytes),
      xStride: data.stride,
      out,
      outStride: 4 * outRow,
      numRows: tokens,
      rowsPerBlock,
      bias: NativeBuffer.of(data.bias),
      residual: NativeBuffer.of(data.residual),
      residualStride: 4 * outRow,
    },
    Math.ceil(numGroups / 4),
  );
  return checked(c, 'q8', out.f32(outRow * tokens));
}

function runMatvecF32(machine: VectorMachine, c: Case): Float32Array {
  const { dtype, rows, columns } = c;
  const format = PACKED_FORMATS[dtype];
  const data = setUp(c, 'f32');
  const kernel = nativeKernel(matvecF32Kernel(machine, { format, bias: true, residual: true }));
  const outRow = paddedRows(rows);
  const out = new NativeBuffer(4 * outRow);
  const numUnits = outRow / ROW_GROUP / matvecF32Groups(machine, format);
  kernel.run(
    {
      weight: packed(dtype, data.stored, rows, columns),
      groupStride: rowGroupBytes(format, columns),
      numUnits,
      unitsPerChunk: 2,
      inputs: columns,
      x: NativeBuffer.of(data.xBytes),
      out,
      bias: NativeBuffer.of(data.bias),
      residual: NativeBuffer.of(data.residual),
    },
    Math.ceil(numUnits / 2),
  );
  return out.f32(outRow);
}

function runMatvec(machine: VectorMachine, c: Case): Float32Array {
  const { dtype, rows, columns } = c;
  const format = PACKED_FORMATS[dtype];
  if (format.kind !== 'quantized') throw new Error('matvec is for quantized weights');
  const data = setUp(c, 'q8');
  const kernel = nativeKernel(matvecKernel(machine, { format, bias: true, residual: true }));
  const outRow = paddedRows(rows);
  const out = new NativeBuffer(4 * outRow);
  const numGroups = outRow / ROW_GROUP;
  kernel.run(
    {
      weight: packed(dtype, data.stored, rows, columns),
      groupStride: rowGroupBytes(format, columns),
      numGroups,
      groupsPerChunk: 3,
      numBlocks: columns / 32,
      x: NativeBuffer.of(data.xBytes),
      out,
      bias: NativeBuffer.of(data.bias),
      residual: NativeBuffer.of(data.residual),
    },
    Math.ceil(numGroups / 3),
  );
  return out.f32(outRow);
}

/** The order of operations that every kernel on q8 activations keeps: what the first activation row gives, to the bit. */
function sumsInOrder(c: Case): Float32Array {
  const { dtype, rows, columns } = c;
  const { stored, xBytes, bias, residual } = setUp(c, 'q8');
  const x = new DataView(xBytes.buffer);
  const row = createUnpackedRow(dtype, columns);
  const { groupSize, zero } = row;
  const result = new Float32Array(rows);
  for (let r = 0; r < rows; r++) {
    unpackBlocks(dtype, stored, r * rowBytes(dtype, columns), columns, row);
    let sum = 0;
    for (let g = 0; g < columns / groupSize; g++) {
      const block = Math.floor((g * groupSize) / Q8_BLOCK_VALUES) * Q8_BLOCK_BYTES;
      const d = x.getFloat32(block + Q8_D_OFFSET, true);
      let dot = 0;
      let sumOfX = 0;
      for (let i = g * groupSize; i < (g + 1) * groupSize; i++) {
        const xCode = x.getInt8(block + (i % Q8_BLOCK_VALUES));
        dot += (row.codes[i]! - zero) * xCode;
        sumOfX += xCode;
      }
      sum = fmaF32(Math.fround(dot * row.scales[g]!), d, sum);
      if (!row.mins) continue;
      const dsum =
        groupSize === Q8_BLOCK_VALUES
          ? x.getFloat32(block + Q8_DSUM_OFFSET, true)
          : Math.fround(sumOfX * d);
      sum = fmaF32(row.mins[g]!, dsum, sum);
    }
    result[r] = Math.fround(Math.fround(sum + bias[r]!) + residual[r]!);
  }
  return result;
}

const bitsOf = (values: Float32Array, length: number): Uint32Array =>
  new Uint32Array(values.buffer, values.byteOffset, length);

const machines = runnableMachines();
const reason = machines.length === 0 ? 'native code cannot run here' : false;

test('packed weights take at most a fifth of a bit more than stored ones, where formats are packed natively', () => {
  // Q3_K and Q2_K are widened to 4-bit codes: the one exception.
  const bits = (dtype: PackableDType): [number, number] => [
    packedBitsPerWeight(PACKED_FORMATS[dtype]),
    (DTYPES[dtype].blockBytes * 8) / DTYPES[dtype].blockElements,
  ];
  for (const dtype of Object.keys(PACKED_FORMATS) as PackableDType[]) {
    const [packed, stored] = bits(dtype);
    assert.ok(packed >= stored, `${dtype}: ${packed} bits packed, ${stored} stored`);
    if (dtype === 'q3_k' || dtype === 'q2_k') continue;
    assert.ok(packed - stored <= 0.2, `${dtype}: ${packed} bits packed, ${stored} stored`);
  }
  assert.deepEqual(bits('q6_k'), [6.5625, 6.5625]);
});

for (const { name, machine } of machines) {
  test(`${name}: chunks so long that they are read in two places give the same bits`, {
    skip: reason,
  }, () => {
    for (const [dtype, columns] of [
      ['q8_0', 16_384],
      ['q4_k', 32_768],
      ['iq4_nl', 32_768],
    ] as const) {
      const one = { dtype, rows: 72, columns, tokens: 1 };
      assert.deepEqual(bitsOf(runMatvec(machine, one), 72), bitsOf(sumsInOrder(one), 72), dtype);
    }
  });

  for (const dtype of Object.keys(PACKED_FORMATS) as PackableDType[]) {
    const isFloat = PACKED_FORMATS[dtype].kind === 'float';
    test(`${name}: ${dtype} weights by f32 activations are the decoded product`, {
      skip: reason,
    }, () => {
      const columns = isFloat ? 203 : 768;
      for (const tokens of [1, 2, 5, 6, 7, 13])
        runMatmul(machine, { dtype, rows: 40, columns, tokens }, 'f32');
      const one = { dtype, rows: 72, columns, tokens: 1 };
      assert.deepEqual(
        bitsOf(runMatvecF32(machine, one), 72),
        bitsOf(runMatmul(machine, one, 'f32'), 72),
      );
    });
    if (isFloat) continue;
    test(`${name}: ${dtype} weights by q8 activations, any number of rows, one row equal bit for bit`, {
      skip: reason,
    }, () => {
      // Tiles of every shape, of unlike size, and blocks of rows with a rest.
      const all = runMatmulQ8(machine, { dtype, rows: 72, columns: 1280, tokens: 35 }, 20);
      for (const tokens of [1, 2, 3, 4, 5, 6, 7, 8, 9, 14, 17, 35]) {
        const c = { dtype, rows: 72, columns: 1280, tokens };
        const results = [runMatmulQ8(machine, c, 64), runMatmul(machine, c, 'q8')];
        for (let t = 0; t < tokens; t++) {
          const row = (values: Float32Array) => values.slice(t * 96, t * 96 + 72);
          for (const result of results) {
            assert.deepEqual(row(result), row(all), `${dtype}: ${tokens} rows, row ${t}`);
          }
        }
      }
      const one = { dtype, rows: 72, columns: 1280, tokens: 1 };
      const first = runMatvec(machine, one);
      assert.deepEqual(bitsOf(first, 72), bitsOf(runMatmulQ8(machine, one, 8), 72));
      assert.deepEqual(bitsOf(first, 72), bitsOf(sumsInOrder(one), 72));
    });
  }
}
