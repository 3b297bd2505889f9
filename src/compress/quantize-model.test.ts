import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { loadModelDescription } from '../models/load-model.ts';
import type { DType } from '../tensor/dtype.ts';
import { decodeRow, encodeRow } from '../tensor/rows.ts';
import { readGgufHeader } from '../weights/gguf-header.ts';
import { writeGguf } from '../weights/gguf-writer.ts';
import { PositionedFile } from '../weights/positioned-file.ts';
import { openWeights } from '../weights/weight-source.ts';
import { NonFiniteWeightError } from './errors.ts';
import { FILE_TYPE_NAMES, recipeType } from './ggml-recipe.ts';
import { readMatrix } from './matrix-rows.ts';
import { quantizeModel } from './quantize-model.ts';

const FIXTURE = fileURLToPath(
  new URL('../../test/fixtures/tiny-gguf/llama-q8_0.gguf', import.meta.url),
);
const folder = mkdtempSync(join(tmpdir(), 'hasten-quantize-'));
after(() => rmSync(folder, { recursive: true }));

describe('the rule of which tensor gets which type', () => {
  const model = { numLayers: 16, queriesPerKv: 4, tiedEmbeddings: false, hasImportance: false };
  const typeOf = (
    name: string,
    columns = 2048,
    fileType: 'q4_k_m' | 'q4_k_s' | 'q3_k_m' = 'q4_k_m',
  ) => recipeType(fileType, { name, shape: [64, columns], dtype: 'f16' }, model);

  it('Q4_K_M: output and the sensitive layers of attn_v and ffn_down in Q6_K', () => {
    const sensitive = [0, 1, 4, 7, 10, 13, 14, 15];
    for (let layer = 0; layer < 16; layer++) {
      const expected = sensitive.includes(layer) ? 'q6_k' : 'q4_k';
      assert.equal(typeOf(`blk.${layer}.attn_v.weight`), expected, `layer ${layer}`);
      assert.equal(typeOf(`blk.${layer}.ffn_down.weight`), expected, `layer ${layer}`);
    }
    assert.equal(typeOf('output.weight'), 'q6_k');
    assert.equal(typeOf('token_embd.weight'), 'q4_k');
    assert.equal(typeOf('blk.3.attn_q.weight'), 'q4_k');
    assert.equal(typeOf('blk.3.attn_v.weight', 2048, 'q4_k_s'), 'q5_k');
  });

  it('rows that are no whole super-blocks take the type with blocks of 32, or f16', () => {
    assert.equal(typeOf('blk.3.attn_q.weight', 576), 'q5_0');
    assert.equal(typeOf('blk.0.ffn_down.weight', 576), 'q8_0');
    assert.equal(typeOf('blk.3.attn_q.weight', 576, 'q3_k_m'), 'q4_0');
    assert.equal(typeOf('blk.3.attn_q.weight', 40), 'f16');
  });

  it('norms and vectors stay as they are', () => {
    const stays = (name: string, shape: number[]): DType =>
      recipeType('q4_0', { name, shape, dtype: 'f32' }, model);
    assert.equal(stays('blk.0.attn_norm.weight', [64, 64]), 'f32');
    assert.equal(stays('blk.0.attn_q.bias', [64]), 'f32');
  });
});

describe('quantizeModel', () => {
  for (const fileType of FILE_TYPE_NAMES) {
    it(`makes a ${fileType} file that opens as the same model`, async () => {
      using before = loadModelDescription(FIXTURE);
      const path = join(folder, `${fileType}.gguf`);
      let done = 0;
      const report = await quantizeModel(FIXTURE, before.config, path, {
        types: fileType,
        onProgress: (bytes, total) => {
          done = bytes / total;
        },
      });
      assert.equal(done, 1);
      assert.ok(report.bitsPerWeight > 2 && report.bitsPerWeight <= 32);
      using made = loadModelDescription(path);
      assert.deepEqual({ ...made.config }, { ...before.config });
    });
  }

  it('encodes what the stored weights decode to, and keeps metadata with their types', async () => {
    using before = loadModelDescription(FIXTURE);
    const path = join(folder, 'twice.gguf');
    await quantizeModel(FIXTURE, before.config, path, { types: 'q4_1' });
    using source = openWeights(FIXTURE);
    using made = openWeights(path);
    const name = 'blk.0.ffn_down.weight';
    const values = readMatrix(source, name);
    const tensor = made.tensors.get(name)!;
    assert.equal(tensor.dtype, 'q4_1');
    const expected = new Uint8Array(tensor.sizeBytes);
    encodeRow('q4_1', values, values.length, expected);
    assert.deepEqual(made.readRows(name).slice(), expected);
    using a = new PositionedFile(FIXTURE);
    using b = new PositionedFile(path);
    const entries = new Map(readGgufHeader(b).entries);
    for (const [key, entry] of readGgufHeader(a).entries) {
      if (key !== 'general.file_type') assert.deepEqual(entries.get(key), entry, key);
    }
    assert.equal(entries.get('general.file_type')?.value, 3);
  });

  it('names a weight that is no number, and leaves no file', async () => {
    using source = openWeights(FIXTURE);
    const broken = join(folder, 'broken.gguf');
    using file = new PositionedFile(FIXTURE);
    await writeGguf(broken, {
      metadata: readGgufHeader(file).entries,
      tensors: [...source.tensors.values()].map(({ name, dtype, shape }) => {
        if (name !== 'blk.1.ffn_up.weight')
          return { name, dtype, shape, data: source.readRows(name).slice() };
        const values = new Float32Array(shape[0]! * shape[1]!);
        decodeRow(dtype, source.readRows(name), 0, values, values.length);
        values[3 * shape[1]! + 5] = Number.NaN;
        return { name, dtype: 'f32' as const, shape, data: new Uint8Array(values.buffer) };
      }),
    });
    using before = loadModelDescription(FIXTURE);
    const out = join(folder, 'never.gguf');
    await assert.rejects(
      quantizeModel(broken, before.config, out, { types: 'q4_0' }),
      (error: unknown) =>
        error instanceof NonFiniteWeightError &&
        error.tensor === 'blk.1.ffn_up.weight' &&
        error.row === 3 &&
        error.column === 5,
    );
    assert.ok(!existsSync(out));
    assert.deepEqual(
      readdirSync(folder).filter((name) => name.startsWith('never') || name.startsWith('.never')),
      [],
    );
  });

  it('stops when asked to, leaving no file', async () => {
    using before = loadModelDescription(FIXTURE);
    const out = join(folder, 'stopped.gguf');
    const stop = new AbortController();
    await assert.rejects(
      quantizeModel(FIXTURE, before.config, out, {
        types: 'q4_0',
        signal: stop.signal,
        onProgress: () => stop.abort(new Error('enough')),
      }),
      /enough/,
    );
    assert.ok(!existsSync(out));
  });
});
