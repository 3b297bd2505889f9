/** Layouts of other toolkits against golden tensors (test/fixtures/compress/packed.safetensors), both ways. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { DTypeError } from '../tensor/errors.ts';
import {
  dequantizeIndexed,
  packAwq,
  packCompressedTensors,
  packGptq,
  unpackAwq,
  unpackCompressedTensors,
  unpackGptq,
} from '../weights/hf-packed.ts';
import { openWeights } from '../weights/weight-source.ts';
import { dequantize } from './group-quantizer.ts';
import { roundPlainly } from './testing/round-plainly.ts';

using golden = openWeights(
  fileURLToPath(new URL('../../test/fixtures/compress/packed.safetensors', import.meta.url)),
);
const ints = (name: string): Int32Array => {
  const bytes = golden.readRows(name).slice();
  return new Int32Array(bytes.buffer);
};
const cases = [...new Set([...golden.tensors.keys()].map((name) => name.split('.')[0]!))].map(
  (name) => {
    const [rows, columns] = golden.tensors.get(`${name}.dequantized`)!.shape as [number, number];
    const part = (of: string): string => `${name}.${of}`;
    const has = (of: string): boolean => golden.tensors.has(part(of));
    return {
      ...{ name, rows, columns },
      bits: Number(/(\d)bit/.exec(name)![1]),
      groupSize: Number(/_g(\d+)$/.exec(name)![1]),
      expected: golden.readF32(part('dequantized')),
      scales: golden.readF32(part(has('scales') ? 'scales' : 'weight_scale')),
      qweight: ints(part(has('qweight') ? 'qweight' : 'weight_packed')),
      qzeros: has('qzeros')
        ? ints(part('qzeros'))
        : has('weight_zero_point')
          ? ints(part('weight_zero_point'))
          : null,
      gIdx: has('g_idx') ? ints(part('g_idx')) : null,
    };
  },
);

describe('layouts of other toolkits', () => {
  for (const each of cases) {
    const { name, qweight, qzeros, scales, gIdx, expected } = each;
    it(name, () => {
      if (name.startsWith('gptq')) {
        const version = name.startsWith('gptq_v2') ? 2 : 1;
        const matrix = unpackGptq({ qweight, qzeros: qzeros!, scales, gIdx }, each, version, false);
        assert.deepEqual(dequantizeIndexed(matrix), expected);
        assert.equal(matrix.groupOf !== null, name.includes('actorder'));
        const packed = packGptq(matrix, version);
        assert.deepEqual(packed.qweight, qweight);
        assert.deepEqual(packed.qzeros, qzeros);
        assert.deepEqual(packed.scales, scales);
      } else if (name.startsWith('awq')) {
        const matrix = unpackAwq({ qweight, qzeros: qzeros!, scales }, each);
        assert.deepEqual(dequantize(matrix), expected);
        assert.deepEqual(packAwq(matrix), { qweight, qzeros, scales });
      } else {
        const matrix = unpackCompressedTensors(
          { packed: qweight, scales, zeroPoints: qzeros },
          each,
        );
        assert.deepEqual(dequantize(matrix), expected);
        assert.deepEqual(packCompressedTensors(matrix), {
          packed: qweight,
          scales,
          zeroPoints: qzeros,
        });
      }
    });
  }

  it('there and back for every number of bits, 3 bits across words included', () => {
    const values = Float32Array.from({ length: 64 * 96 }, (_, i) => Math.sin(i * i));
    for (let bits = 2; bits <= 8; bits++) {
      const scheme = { bits, groupSize: 32, symmetry: 'asymmetric', searchesRange: false } as const;
      const matrix = roundPlainly(values, 64, 96, scheme);
      const shape = { rows: 64, columns: 96, bits, groupSize: 32 };
      assert.deepEqual(unpackGptq(packGptq(matrix, 2), shape, 2, false), {
        ...matrix,
        groupOf: null,
      });
      assert.deepEqual(unpackCompressedTensors(packCompressedTensors(matrix), shape), matrix);
      if (bits === 4) assert.deepEqual(unpackAwq(packAwq(matrix), shape), matrix);
      else assert.throws(() => packAwq(matrix), DTypeError);
    }
  });

  it('GPTQ v1 refuses a zero point of 0', () => {
    const scheme = {
      bits: 4,
      groupSize: 32,
      symmetry: 'asymmetric',
      searchesRange: false,
    } as const;
    const matrix = roundPlainly(new Float32Array(32 * 32).fill(1), 32, 32, scheme);
    assert.throws(() => packGptq(matrix, 1), /write v2/);
  });
});
