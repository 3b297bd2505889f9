import assert from 'node:assert/strict';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { loadModelDescription } from '../models/load-model.ts';
import { encodeCodebook } from '../tensor/codebook.ts';
import { writeSafetensors } from '../weights/safetensors-writer.ts';
import { openWeights } from '../weights/weight-source.ts';
import { NonFiniteWeightError } from './errors.ts';
import { writeRoundedModel } from './write-rounded.ts';

const MODEL = fileURLToPath(new URL('../../test/fixtures/tiny/llama-bf16', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'hasten-rounded-'));
after(() => rmSync(folder, { recursive: true }));
const LINEAR = 'model.layers.1.mlp.down_proj.weight';

function largestOf(values: Float32Array): number {
  return values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
}

describe('folders that are rounded to nearest', () => {
  using stored = loadModelDescription(MODEL);
  const original = stored.weights.readF32(LINEAR);
  const [rows, columns] = stored.weights.tensors.get(LINEAR)!.shape as [number, number];
  const head = stored.weights.readF32('lm_head.weight');

  for (const layout of ['nf4', 'int8', 'w8a8'] as const) {
    it(`${layout} names a weight that is no number, and leaves nothing`, async () => {
      const broken = join(folder, `${layout}-broken`);
      mkdirSync(broken);
      cpSync(join(MODEL, 'config.json'), join(broken, 'config.json'));
      const values = new Float32Array(64 * 64).fill(0.5);
      values[3 * 64 + 5] = Number.POSITIVE_INFINITY;
      const data = new Uint8Array(values.buffer);
      await writeSafetensors(join(broken, 'model.safetensors'), {
        tensors: [{ name: LINEAR, dtype: 'f32', shape: [64, 64], data }],
      });
      await assert.rejects(
        writeRoundedModel(broken, layout, join(folder, `${layout}-never`)),
        (error: unknown) =>
          error instanceof NonFiniteWeightError &&
          error.tensor === LINEAR &&
          error.row === 3 &&
          error.column === 5,
      );
      assert.deepEqual(
        readdirSync(folder).filter((name) => name.includes('never')),
        [],
      );
    });
  }

  for (const layout of ['nf4', 'fp4'] as const) {
    it(`${layout} has the tensors of bitsandbytes and reads back`, async () => {
      const out = join(folder, layout);
      const progress: number[] = [];
      await writeRoundedModel(MODEL, layout, out, {
        onProgress: (done, total) => progress.push(done / total),
      });
      assert.equal(progress.at(-1), 1);
      assert.equal(progress.length, 21);
      using raw = openWeights(out);
      const shapes = Object.fromEntries(
        [...raw.tensors.values()]
          .filter(({ name }) => name.startsWith(LINEAR))
          .map(({ name, dtype, shape }) => [name.slice(LINEAR.length), `${dtype} ${shape}`]),
      );
      const numBlocks = (rows * columns) / 64;
      assert.deepEqual(shapes, {
        '': `u8 ${(rows * columns) / 2},1`,
        '.absmax': `u8 ${numBlocks}`,
        '.quant_map': 'f32 16',
        '.nested_absmax': `f32 ${Math.ceil(numBlocks / 256)}`,
        '.nested_quant_map': 'f32 256',
        [`.quant_state.bitsandbytes__${layout}`]: 'u8 320',
      });
      const state = JSON.parse(
        new TextDecoder().decode(raw.readRows(`${LINEAR}.quant_state.bitsandbytes__${layout}`)),
      );
      assert.deepEqual(
        [state.quant_type, state.blocksize, state.dtype, state.shape],
        [layout, 64, 'bfloat16', [rows, columns]],
      );
      assert.deepEqual(raw.readRows(LINEAR), encodeCodebook(original, layout).packed);
      const configText = readFileSync(join(out, 'config.json'), 'utf8');
      // transformers refuses whole numbers where floats belong.
      assert.match(configText, /"llm_int8_threshold": 6\.0/);
      assert.match(configText, /"rope_theta": 10000\.0/);
      const config = JSON.parse(configText);
      assert.equal(config.quantization_config.bnb_4bit_quant_type, layout);
      assert.equal(config.quantization_config.load_in_4bit, true);

      using made = loadModelDescription(out);
      assert.equal(made.weights.tensors.get(LINEAR)!.dtype, layout);
      const values = made.weights.readF32(LINEAR);
      // Half of the widest gap of the code book, and what rounding its scale adds.
      const bound = layout === 'nf4' ? 0.152 : 1 / 6;
      for (let i = 0; i < values.length; i++) {
        const largest = largestOf(original.subarray(i - (i % 64), i - (i % 64) + 64));
        const error = Math.abs(values[i]! - original[i]!);
        assert.ok(error <= largest * (bound + 0.02), `${i}: ${original[i]} became ${values[i]}`);
      }
      assert.deepEqual(made.weights.readF32('lm_head.weight'), head);
    });
  }

  for (const layout of ['int8', 'w8a8'] as const) {
    it(`${layout} reads back within half a step of each row`, async () => {
      const out = join(folder, layout);
      await writeRoundedModel(MODEL, layout, out);
      using made = loadModelDescription(out);
      assert.equal(made.weights.tensors.get(LINEAR)!.dtype, 'q8_f32');
      const values = made.weights.readF32(LINEAR);
      for (let row = 0; row < rows; row++) {
        const of = original.subarray(row * columns, (row + 1) * columns);
        const step = largestOf(of) / 127;
        const isNear = of.every(
          (value, i) => Math.abs(values[row * columns + i]! - value) <= 0.5001 * step,
        );
        assert.ok(isNear, `row ${row}`);
      }
      const config = JSON.parse(readFileSync(join(out, 'config.json'), 'utf8'));
      const { quant_method, format } = config.quantization_config;
      assert.deepEqual(
        [quant_method, format],
        layout === 'int8' ? ['bitsandbytes', undefined] : ['compressed-tensors', 'int-quantized'],
      );
    });
  }

  it('int8 has outlier columns in a file of their own, which no other reader sees', async () => {
    const out = join(folder, 'llm-int8');
    const byName = new Map([[LINEAR, [3, 200]]]);
    const size = await writeRoundedModel(MODEL, 'int8', out, {
      outliers: { threshold: 5, columns: byName },
    });
    using plain = openWeights(join(folder, 'int8'));
    using raw = openWeights(out);
    assert.deepEqual([...raw.tensors], [...plain.tensors]);
    for (const name of raw.tensors.keys())
      assert.deepEqual(raw.readRows(name), plain.readRows(name));
    using indexed = openWeights(join(out, 'model.safetensors.index.json'));
    assert.deepEqual([...indexed.tensors], [...plain.tensors]);
    // transformers refuses an integer.
    assert.match(readFileSync(join(out, 'config.json'), 'utf8'), /"llm_int8_threshold": 5\.0,/);

    using made = loadModelDescription(out);
    assert.equal(made.weights.sizeBytes, size);
    const prefix = LINEAR.slice(0, -'weight'.length);
    const { outliers } = made.weights.tensors.get(LINEAR)!;
    assert.deepEqual(outliers, { columns: [3, 200], tensor: `${prefix}outliers` });
    const values = made.weights.readF32(`${prefix}outliers`);
    for (let row = 0; row < rows; row++) {
      const stored = [3, 200].map((column) => Math.f16round(original[row * columns + column]!));
      assert.deepEqual([...values.subarray(2 * row, 2 * row + 2)], stored);
    }
  });

  it('leaves nothing behind when it is interrupted', async () => {
    const out = join(folder, 'never');
    const signal = AbortSignal.abort(new Error('enough'));
    await assert.rejects(writeRoundedModel(MODEL, 'nf4', out, { signal }), /enough/);
    assert.ok(!existsSync(out));
  });
});
