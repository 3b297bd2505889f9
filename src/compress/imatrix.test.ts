import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { loadModelDescription } from '../models/load-model.ts';
import { HastenError } from '../platform/errors.ts';
import { chooseTarget } from '../runtime/target-choice.ts';
import { openWeights } from '../weights/weight-source.ts';
import { F32Weights } from './f32-weights.ts';
import { gatherImportance } from './gather-importance.ts';
import { readImatrix, writeImatrix } from './imatrix.ts';
import { quantizeModel } from './quantize-model.ts';

const MODEL = fileURLToPath(
  new URL('../../test/fixtures/tiny-gguf/llama-rope3-f32.gguf', import.meta.url),
);
const folder = mkdtempSync(join(tmpdir(), 'hasten-imatrix-'));
after(() => rmSync(folder, { recursive: true }));

const importance = new Map([
  ['blk.0.attn_q.weight', Float32Array.of(0.5, 0, 3.25, 1e-9)],
  ['blk.0.ffn_down.weight', Float32Array.of(7, 8)],
]);
const imatrix = { importance, dataset: 'a book.txt', numChunks: 6 };
const skip = chooseTarget().target === 'x64' ? false : 'native code cannot run here';

describe('importance files', () => {
  for (const extension of ['gguf', 'dat']) {
    it(`.${extension} reads back`, async () => {
      const path = join(folder, `a.${extension}`);
      await writeImatrix(path, imatrix, 512);
      const read = readImatrix(path);
      assert.deepEqual([read.dataset, read.numChunks], ['a book.txt', 6]);
      assert.deepEqual([...read.importance.keys()], [...importance.keys()]);
      for (const [name, values] of read.importance) {
        const expected = importance.get(name)!;
        assert.ok(values.every((v, i) => Math.abs(v - expected[i]!) <= 1e-6 * expected[i]!));
      }
    });

    it(`.${extension}, cut anywhere, is refused or still whole`, async () => {
      const path = join(folder, `b.${extension}`);
      await writeImatrix(path, imatrix, 512);
      const bytes = readFileSync(path);
      const cut = join(folder, `cut.${extension}`);
      let refused = 0;
      for (let length = 0; length < bytes.length; length += 3) {
        writeFileSync(cut, bytes.subarray(0, length));
        try {
          assert.deepEqual([...readImatrix(cut).importance.keys()], [...importance.keys()]);
        } catch (error) {
          assert.ok(error instanceof HastenError, String(error));
          refused++;
        }
      }
      assert.ok(refused > 20, `${refused}`);
    });
  }

  it('names what is no importance', async () => {
    const path = join(folder, 'nan.dat');
    const wrong = new Map([['x', Float32Array.of(1, Number.NaN)]]);
    await writeImatrix(path, { ...imatrix, importance: wrong }, 512);
    assert.throws(() => readImatrix(path), /importance 1 of tensor "x" is NaN/);
    assert.throws(() => readImatrix(MODEL), /no importance matrix/);
    assert.throws(() => readImatrix(join(folder, 'nowhere')), /cannot be read/);
  });
});

describe('gathering importance', { skip }, () => {
  it('is the mean square of what a layer sees, by GGUF names', async () => {
    using model = loadModelDescription(MODEL);
    const { config, weights } = model;
    const windows = [
      [3, 14, 15, 9],
      [2, 6, 5, 35],
    ];
    const gathered = await gatherImportance({
      ...{ weights: new F32Weights(weights), config, windows, threads: 1 },
    });
    const stored = openWeights(MODEL);
    const linears = [...stored.tensors.keys()].filter((name) =>
      /^blk\.\d+\.(attn|ffn)_(q|k|v|output|gate|up|down)\.weight$/.test(name),
    );
    assert.deepEqual([...gathered.keys()].toSorted(), linears.toSorted());
    // The first layer's inputs: embeddings, normalized.
    const { hiddenSize, normEps } = config;
    const embeddings = stored.readF32('token_embd.weight');
    const norm = stored.readF32('blk.0.attn_norm.weight');
    const expected = new Float64Array(hiddenSize);
    for (const id of windows.flat()) {
      const x = embeddings.subarray(id * hiddenSize, (id + 1) * hiddenSize);
      const meanSquare = x.reduce((sum, v) => sum + v * v, 0) / hiddenSize;
      for (let i = 0; i < hiddenSize; i++) {
        expected[i]! += (x[i]! * norm[i]!) ** 2 / (meanSquare + normEps) / 8;
      }
    }
    for (const part of ['q', 'k', 'v']) {
      const values = gathered.get(`blk.0.attn_${part}.weight`)!;
      assert.ok(values.every((v, i) => Math.abs(v - expected[i]!) <= 1e-4 * expected[i]! + 1e-9));
    }
    stored.close();
  });

  it('changes what is written, and the file says so', async () => {
    using model = loadModelDescription(MODEL);
    const { config, weights } = model;
    const gathered = await gatherImportance({
      ...{ weights: new F32Weights(weights), config, windows: [[1, 2, 3, 4, 5]], threads: 1 },
    });
    const [plain, weighted] = [join(folder, 'plain.gguf'), join(folder, 'weighted.gguf')];
    await quantizeModel(MODEL, config, plain, { types: 'q4_0' });
    await quantizeModel(MODEL, config, weighted, {
      types: 'q4_0',
      imatrix: { file: 'auto', ...imatrix, importance: gathered },
    });
    using a = openWeights(plain);
    using b = openWeights(weighted);
    assert.equal(b.metadata.get('quantize.imatrix.file'), 'auto');
    assert.equal(b.metadata.get('quantize.imatrix.chunks_count'), 6);
    assert.notDeepEqual(a.readRows('blk.1.attn_q.weight'), b.readRows('blk.1.attn_q.weight'));
  });
});
