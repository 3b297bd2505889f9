import assert from 'node:assert/strict';
import { test } from 'node:test';
import { RowGroupPacker } from '../compiler/pack.ts';
import { rowBytes } from '../tensor/dtype.ts';
import { bf16Bits } from '../tensor/half.ts';
import { decodeRow } from '../tensor/rows.ts';
import { embedKernel } from './embed.ts';
import { KernelShapeError } from './errors.ts';
import { PACKED_FORMATS, type PackableDType, packedBytes, ROW_GROUP } from './packed-format.ts';
import {
  f32Of,
  nativeMachineNames,
  randomSource,
  range,
  runEverywhere,
} from './testing/run-kernel.ts';

const VOCAB = 40;
const IDS = Int32Array.of(0, 39, 16, 17, 17, 3, 31);
const STRIDE_EXTRA = 5;

/** Rows of random values, or of random codes and scales. */
function storedRows(dtype: PackableDType, width: number): Uint8Array {
  const random = randomSource(width + dtype.length);
  const rowLength = rowBytes(dtype, width);
  if (PACKED_FORMATS[dtype].kind === 'float') {
    const values = Float32Array.from({ length: VOCAB * width }, () => random() - 0.5);
    if (dtype === 'f16') return new Uint8Array(new Float16Array(values).buffer);
    if (dtype === 'bf16') return new Uint8Array(Uint16Array.from(values, bf16Bits).buffer);
    return new Uint8Array(values.buffer);
  }
  // Small bytes keep the scales in range, wherever they stand.
  const rows = new Uint8Array(VOCAB * rowLength);
  const decoded = new Float32Array(width);
  for (const r of range(VOCAB)) {
    const row = rows.subarray(r * rowLength, (r + 1) * rowLength);
    for (const limit of [256, 124]) {
      for (let i = 0; i < rowLength; i++) row[i] = Math.floor(random() * limit);
      decodeRow(dtype, row, 0, decoded, width);
      if (decoded.every((x) => Math.abs(x) < 1e30)) break;
    }
  }
  return rows;
}

function packedTable(dtype: PackableDType, rows: Uint8Array, width: number): Uint8Array {
  const format = PACKED_FORMATS[dtype];
  const packed = new Uint8Array(packedBytes(format, VOCAB, width));
  const packer = new RowGroupPacker(dtype, format, width);
  for (let r = 0; r < VOCAB; r += ROW_GROUP) {
    const numRows = Math.min(ROW_GROUP, VOCAB - r);
    packer.packGroup(
      rows,
      r * rowBytes(dtype, width),
      numRows,
      packed,
      (r / ROW_GROUP) * packer.groupBytes,
    );
  }
  return packed;
}

for (const dtype of Object.keys(PACKED_FORMATS) as PackableDType[]) {
  test(`embed takes rows of ${dtype} as they decode (${nativeMachineNames()})`, () => {
    const isFloat = PACKED_FORMATS[dtype].kind === 'float';
    for (const width of isFloat ? [1, 15, 17, 64, 100] : [256, 512]) {
      const rows = storedRows(dtype, width);
      const table = packedTable(dtype, rows, width);
      for (const scale of [1, 2.5]) {
        const outWidth = width + STRIDE_EXTRA;
        runEverywhere({
          record: (machine) =>
            embedKernel(machine, { width, scale, format: PACKED_FORMATS[dtype] }),
          fields: {
            table,
            tokenIds: IDS,
            out: new Float32Array(IDS.length * outWidth).fill(-7),
            outStride: 4 * outWidth,
            numRows: IDS.length,
            rowsPerChunk: 3,
          },
          chunks: [2, 1, 0],
          onResult: ({ out }, { name }) => {
            const expected = new Float32Array(width);
            for (const i of range(IDS.length)) {
              decodeRow(dtype, rows, IDS[i]! * rowBytes(dtype, width), expected, width);
              const actual = f32Of(out!).subarray(i * outWidth, (i + 1) * outWidth);
              expected.forEach((x, column) => {
                const wanted = x * scale;
                const bound = scale === 1 ? 0 : 1e-7 * Math.abs(wanted);
                assert.ok(
                  Math.abs(actual[column]! - wanted) <= bound,
                  `${name}: [${i}, ${column}] is ${actual[column]}, expected ${wanted}`,
                );
              });
              assert.equal(actual[width], -7, 'writes behind the row');
            }
          },
        });
      }
    }
  });
}

test('a row of part of a block is refused', () => {
  const machine = {
    lanes: 8,
    vectorRegisters: 16,
    hasInt8Dot: false,
    hasBroadcastOperand: false,
  } as const;
  assert.throws(
    () => embedKernel(machine, { width: 40, scale: 1, format: PACKED_FORMATS.q4_0 }),
    KernelShapeError,
  );
});
