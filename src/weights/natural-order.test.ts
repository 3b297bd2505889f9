/** Matrices of act-order as who looks at weights sees them: all rows, some rows, into a buffer. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, it } from 'node:test';
import type { QuantizedMatrix } from '../tensor/quantized-matrix.ts';
import { packGptq } from './hf-packed.ts';
import { HfQuantizedWeights } from './hf-quantized-weights.ts';
import { inNaturalOrder } from './natural-order.ts';
import { writeSafetensors } from './safetensors-writer.ts';
import { openWeights } from './weight-source.ts';

const folder = mkdtempSync(join(tmpdir(), 'hasten-order-'));
after(() => rmSync(folder, { recursive: true }));

const [rows, columns, groupSize] = [8, 128, 32];
const codes = Uint8Array.from({ length: rows * columns }, (_, i) => (i * 7 + (i >> 5)) % 16);
const scales = Float32Array.from({ length: rows * 4 }, (_, i) => 2 ** -((i * 5) % 7));
const matrix: QuantizedMatrix = {
  ...{ rows, columns, bits: 4, groupSize, codes, scales },
  ...{ zeros: new Uint8Array(rows * 4).fill(8), isSymmetric: true },
};
/** Group of column c: every fourth column is of one. */
const groupOf = (column: number): number => (column * 3) % 4;

async function model(): Promise<HfQuantizedWeights> {
  const { qweight, qzeros, scales: halves } = packGptq(matrix, 2);
  const bytes = ({ buffer }: Int32Array | Float32Array) => new Uint8Array(buffer);
  const gIdx = Int32Array.from({ length: columns }, (_, column) => groupOf(column));
  const plain = Float32Array.of(1, 2, 3, 4);
  const path = join(folder, 'model.safetensors');
  await writeSafetensors(path, {
    tensors: [
      { name: 'X.qweight', dtype: 'i32', shape: [columns / 8, rows], data: bytes(qweight) },
      { name: 'X.qzeros', dtype: 'i32', shape: [4, 1], data: bytes(qzeros) },
      { name: 'X.scales', dtype: 'f32', shape: [4, rows], data: bytes(halves) },
      { name: 'X.g_idx', dtype: 'i32', shape: [columns], data: bytes(gIdx) },
      { name: 'norm', dtype: 'f32', shape: [2, 2], data: bytes(plain) },
    ],
  });
  const config = { quant_method: 'gptq', bits: 4, checkpoint_format: 'gptq_v2', desc_act: true };
  return new HfQuantizedWeights(openWeights(path), config);
}

it('sees matrices with their columns where the inputs are', async () => {
  using stored = await model();
  assert.equal(stored.tensors.get('X.weight')!.dtype, 'q4_0');
  assert.ok(stored.tensors.get('X.weight')!.columnOrder);
  const natural = inNaturalOrder(stored);
  const expected = Float32Array.from(codes, (code, i) => {
    const [row, column] = [Math.floor(i / columns), i % columns];
    return scales[row * 4 + groupOf(column)]! * (code - 8);
  });
  const { dtype, columnOrder, sizeBytes } = natural.tensors.get('X.weight')!;
  assert.deepEqual([dtype, columnOrder, sizeBytes], ['f32', undefined, 4 * rows * columns]);
  const valuesOf = (bytes: Uint8Array) => new Float32Array(bytes.slice().buffer);
  assert.deepEqual(natural.readF32('X.weight'), expected);
  assert.deepEqual(valuesOf(natural.readRows('X.weight')), expected);
  const some = expected.slice(3 * columns, 5 * columns);
  assert.deepEqual(valuesOf(natural.readRows('X.weight', 3, 5)), some);
  const into = new Uint8Array(10 * columns * 4);
  const read = natural.readRows('X.weight', 3, 5, into);
  assert.equal(read.buffer, into.buffer);
  assert.deepEqual(valuesOf(read), some);
  assert.deepEqual(natural.readRows('norm', 1), stored.readRows('norm', 1));
  assert.throws(() => natural.readRows('X.weight', 3, 9), /rows 3 to 9 of 8/);
});

it('is the source itself where nothing is stored in another order', async () => {
  using stored = await model();
  const natural = inNaturalOrder(stored);
  assert.equal(inNaturalOrder(natural), natural);
});
