/** Models of other toolkits, made of golden tensors (test/fixtures/compress): what the adapter gives must decode to the golden values, exactly. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type DType, rowBytes } from '../tensor/dtype.ts';
import { decodeRow, encodeRow } from '../tensor/rows.ts';
import { WeightFileError } from './errors.ts';
import { HfQuantizedWeights } from './hf-quantized-weights.ts';
import type { QuantizationConfig } from './quantized/foreign-matrix.ts';
import { writeSafetensors } from './safetensors-writer.ts';
import type { TensorToWrite } from './tensor-data.ts';
import { openWeights } from './weight-source.ts';

const fixture = (name: string): string =>
  fileURLToPath(new URL(`../../test/fixtures/compress/${name}`, import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'hasten-hf-'));
after(() => rmSync(folder, { recursive: true }));

/** A file whose tensors `X.…` are those of one golden case. */
async function modelOf(
  file: string,
  name: string,
  change: Record<string, string> = {},
  more: TensorToWrite[] = [],
) {
  using golden = openWeights(fixture(file));
  const tensors: TensorToWrite[] = [];
  for (const tensor of golden.tensors.values()) {
    if (!tensor.name.startsWith(`${name}.`)) continue;
    const part = tensor.name.slice(name.length + 1);
    if (part === 'dequantized' || part === 'input') continue;
    const { dtype, shape } = tensor;
    const data = golden.readRows(tensor.name).slice();
    tensors.push({ name: `X.${change[part] ?? part}`, dtype, shape, data });
  }
  const path = join(folder, `${name}.safetensors`);
  await writeSafetensors(path, { tensors: [...tensors, ...more] });
  return { path, expected: golden.readF32(`${name}.dequantized`) };
}

function valuesOf(weights: HfQuantizedWeights): { values: Float32Array; dtype: DType } {
  const { dtype, shape, columnOrder } = weights.tensors.get('X.weight')!;
  const values = new Float32Array(shape[0]! * shape[1]!);
  // In two pieces, as a packer reads.
  const half = shape[0]! >> 1;
  decodeRow(dtype, weights.readRows('X.weight', 0, half), 0, values, half * shape[1]!);
  const rest = (shape[0]! - half) * shape[1]!;
  decodeRow(dtype, weights.readRows('X.weight', half), 0, values, rest, half * shape[1]!);
  return { values: columnOrder?.toNatural(values) ?? values, dtype };
}

/** The tensor of the groups of inputs. */
const groupsTensor = (name: string, groupOf: Int32Array): TensorToWrite => ({
  ...{ name, dtype: 'i32', shape: [groupOf.length], data: new Uint8Array(groupOf.buffer) },
});

const packed = (num_bits: number): QuantizationConfig => ({
  ...{ quant_method: 'compressed-tensors', format: 'pack-quantized' },
  config_groups: { group_0: { weights: { num_bits } } },
});
const CASES: readonly (readonly [string, DType, QuantizationConfig])[] = [
  ['gptq_4bit_sym_g32', 'q5_0', { quant_method: 'gptq', bits: 4, sym: false }],
  ['gptq_4bit_asym_g64', 'q5_0', { quant_method: 'gptq', bits: 4, sym: false }],
  [
    'gptq_v2_4bit_asym_g32',
    'q5_0',
    { quant_method: 'gptq', bits: 4, sym: false, checkpoint_format: 'gptq_v2' },
  ],
  ['gptq_2bit_asym_g32', 'q4_0', { quant_method: 'gptq', bits: 2, sym: false }],
  ['gptq_8bit_sym_g128', 'q8_0', { quant_method: 'gptq', bits: 8, sym: true }],
  ['gptq_4bit_actorder_g32', 'q5_0', { quant_method: 'gptq', bits: 4, desc_act: true }],
  ['awq_4bit_g32', 'q5_0', { quant_method: 'awq', bits: 4, version: 'gemm' }],
  ['awq_4bit_g64', 'q5_0', { quant_method: 'awq', bits: 4, version: 'GEMM' }],
  ['compressed_4bit_sym_g32', 'q4_0', packed(4)],
  ['compressed_4bit_asym_g64', 'q5_0', packed(4)],
];

describe('quantized models of other toolkits', () => {
  for (const [name, expectedType, config] of CASES) {
    it(`${name} has its exact values as ${expectedType}`, async () => {
      const { path, expected } = await modelOf('packed.safetensors', name);
      using weights = new HfQuantizedWeights(openWeights(path), config);
      assert.deepEqual([...weights.tensors.keys()], ['X.weight']);
      const { values, dtype } = valuesOf(weights);
      assert.deepEqual(values, expected);
      // A symmetric file whose zero points are not all in the middle takes a wider format, or f32.
      if (name !== 'gptq_8bit_sym_g128') assert.equal(dtype, expectedType);
    });
  }

  it('act-order of compressed-tensors, symmetric or not, and one that was never filled', async () => {
    for (const [name, groupSize] of [
      ['compressed_4bit_sym_g32', 32],
      ['compressed_4bit_asym_g64', 64],
    ] as const) {
      const plain = await modelOf('packed.safetensors', name);
      const columns = openWeights(plain.path).readF32('X.weight_shape')[1]!;
      const numGroups = columns / groupSize;
      const groupOf = Int32Array.from({ length: columns }, (_, k) => (5 * k + 1) % numGroups);
      const unfilled = new Int32Array(columns).fill(-1);
      const readWith = async (groups: Int32Array) => {
        const more = [groupsTensor('X.weight_g_idx', groups)];
        const { path } = await modelOf('packed.safetensors', name, {}, more);
        using weights = new HfQuantizedWeights(openWeights(path), packed(4));
        assert.deepEqual([...weights.tensors.keys()], ['X.weight']);
        return { ...valuesOf(weights), natural: weights.readF32('X.weight') };
      };
      assert.deepEqual((await readWith(unfilled)).values, plain.expected);
      const { values, dtype, natural } = await readWith(groupOf);
      assert.notEqual(dtype, 'f32');
      assert.deepEqual(values, natural);
      // The same codes with the scale and zero point of another group: what (w + zero * scale) / scale was stays a whole number.
      assert.notDeepEqual(values, plain.expected);
      using golden = openWeights(plain.path);
      const scales = golden.readF32('X.weight_scale');
      const isWhole = values.every((value, i) => {
        const row = Math.floor(i / columns);
        const code = value / scales[row * numGroups + groupOf[i % columns]!]!;
        return Math.abs(code - Math.round(code)) < 1e-3 && Math.abs(code) <= 15;
      });
      assert.ok(isWhole);
    }
  });

  it('scales in bf16 are halves where f16 has them; others stay exact in 8 bits', async () => {
    const name = 'compressed_4bit_sym_g32';
    using golden = openWeights(fixture('packed.safetensors'));
    const { shape } = golden.tensors.get(`${name}.weight_scale`)!;
    const scales = golden.readF32(`${name}.weight_scale`);
    const expected = golden.readF32(`${name}.dequantized`);
    const readWith = async (dtype: DType, values: Float32Array) => {
      const data = new Uint8Array(rowBytes(dtype, values.length));
      encodeRow(dtype, values, values.length, data);
      const more = [{ name: 'X.weight_scale', dtype, shape, data }];
      const { path } = await modelOf('packed.safetensors', name, { weight_scale: 'old' }, more);
      using weights = new HfQuantizedWeights(openWeights(path), packed(4));
      const read = valuesOf(weights);
      assert.deepEqual(read.values, weights.readF32('X.weight'));
      return read;
    };
    const powers = scales.map((scale) => 2 ** Math.round(Math.log2(scale)));
    assert.equal((await readWith('bf16', powers)).dtype, 'q4_0');
    const { values, dtype } = await readWith(
      'f32',
      scales.map((scale) => scale * 1.0001),
    );
    assert.equal(dtype, 'q8_f32');
    assert.ok(values.every((v, i) => Math.abs(v - 1.0001 * expected[i]!) <= 1e-6 * Math.abs(v)));
    // Smaller than f16 can say.
    assert.equal((await readWith('bf16', powers.with(3, 1.5 * 2 ** -24))).dtype, 'q8_f32');
  });

  it('act-order with groups of several sizes runs as f32, and no groups are refused', async () => {
    const name = 'gptq_4bit_actorder_g32';
    const config = { quant_method: 'gptq', bits: 4, desc_act: true };
    const readWith = async (tensor: TensorToWrite) => {
      const change = { g_idx: 'old_g_idx' };
      const { path } = await modelOf('packed.safetensors', name, change, [tensor]);
      return new HfQuantizedWeights(openWeights(path), config);
    };
    using golden = openWeights(fixture('packed.safetensors'));
    const [numGroups] = golden.tensors.get(`${name}.scales`)!.shape as [number];
    const [columns] = golden.tensors.get(`${name}.g_idx`)!.shape as [number];
    const uneven = Int32Array.from({ length: columns }, (_, k) => (k === 0 ? 1 : k % numGroups));
    using weights = await readWith(groupsTensor('X.g_idx', uneven));
    const { columnOrder } = weights.tensors.get('X.weight')!;
    const { values, dtype } = valuesOf(weights);
    assert.deepEqual([dtype, columnOrder], ['f32', undefined]);
    assert.deepEqual(values, weights.readF32('X.weight'));
    const hostile: readonly TensorToWrite[] = [
      groupsTensor('X.g_idx', uneven.slice(1)),
      groupsTensor('X.g_idx', uneven.with(3, numGroups)),
      groupsTensor('X.g_idx', uneven.with(3, -1)),
      groupsTensor('X.g_idx', uneven.with(3, -(2 ** 31))),
      { ...groupsTensor('X.g_idx', uneven), dtype: 'f32' },
      { name: 'X.g_idx', dtype: 'u8', shape: [3], data: new Uint8Array(3) },
      { name: 'X.g_idx', dtype: 'i32', shape: [0], data: new Uint8Array(0) },
    ];
    for (const tensor of hostile) {
      await assert.rejects(
        readWith(tensor),
        (error: unknown) => error instanceof WeightFileError && /g_idx/.test(error.message),
      );
    }
  });

  it('bitsandbytes NF4', async () => {
    const state = { quant_type: 'nf4', blocksize: 64, dtype: 'float16', shape: [64, 128] };
    const bytes = new TextEncoder().encode(JSON.stringify(state));
    const more: TensorToWrite[] = [
      {
        name: 'X.weight.quant_state.bitsandbytes__nf4',
        dtype: 'u8',
        shape: [bytes.length],
        data: bytes,
      },
    ];
    const names = { packed: 'weight', absmax: 'weight.absmax' };
    const { path, expected } = await modelOf('nf4.safetensors', 'square', names, more);
    using weights = new HfQuantizedWeights(openWeights(path), { quant_method: 'bitsandbytes' });
    assert.deepEqual([...weights.tensors.keys()], ['X.weight']);
    const { values, dtype } = valuesOf(weights);
    assert.equal(dtype, 'nf4');
    assert.deepEqual(values, expected);
    assert.deepEqual(weights.readF32('X.weight'), expected);
  });

  it('8 bits per row: compressed-tensors int-quantized, and bitsandbytes', async () => {
    const codes = Int8Array.from({ length: 3 * 64 }, (_, i) => ((i * 37) % 255) - 127);
    const scales = Float32Array.of(0.011, 0.0003, 0.7);
    const bytesOf = (array: Int8Array | Float32Array) => new Uint8Array(array.buffer);
    const weight: TensorToWrite = {
      ...{ name: 'X.weight', dtype: 'i8', shape: [3, 64], data: bytesOf(codes) },
    };
    const layouts = [
      {
        config: { quant_method: 'compressed-tensors', format: 'int-quantized' },
        tensor: { name: 'X.weight_scale', dtype: 'f32', shape: [3, 1], data: bytesOf(scales) },
        scaleOf: (row: number) => scales[row]!,
      },
      {
        config: { quant_method: 'bitsandbytes', load_in_8bit: true },
        tensor: { name: 'X.SCB', dtype: 'f32', shape: [3], data: bytesOf(scales) },
        scaleOf: (row: number) => Math.fround(scales[row]! / 127),
      },
    ] as const;
    for (const { config, tensor, scaleOf } of layouts) {
      const path = join(folder, `${config.quant_method}-int8.safetensors`);
      await writeSafetensors(path, { tensors: [weight, tensor] });
      using weights = new HfQuantizedWeights(openWeights(path), config);
      assert.deepEqual([...weights.tensors.keys()], ['X.weight']);
      const { values, dtype } = valuesOf(weights);
      assert.equal(dtype, 'q8_f32');
      const expected = Float32Array.from(codes, (code, i) => scaleOf(Math.floor(i / 64)) * code);
      assert.deepEqual(values, expected);
      assert.deepEqual(weights.readF32('X.weight'), expected);
    }
  });

  it('refuses what it does not know, by name', async () => {
    const { path } = await modelOf('packed.safetensors', 'awq_4bit_g32');
    const refused: readonly (readonly [QuantizationConfig, RegExp])[] = [
      [{ quant_method: 'hqq' }, /by "hqq"; accepted: gptq, awq/],
      [{ quant_method: 'awq', bits: 4, version: 'gemv' }, /version "gemv"/],
      [{ quant_method: 'gptq', bits: 16 }, /16 bits/],
      [
        { quant_method: 'gptq', bits: 4, dynamic: { '-:lm_head': {}, 'mlp\\.down': { bits: 8 } } },
        /"dynamic": "mlp\\.down"/,
      ],
      [
        { quant_method: 'compressed-tensors', format: 'nvfp4-pack-quantized' },
        /"nvfp4-pack-quantized"/,
      ],
    ];
    for (const [config, message] of refused) {
      using source = openWeights(path);
      assert.throws(
        () => new HfQuantizedWeights(source, config),
        (error: unknown) => error instanceof WeightFileError && message.test(error.message),
      );
    }
  });
});
