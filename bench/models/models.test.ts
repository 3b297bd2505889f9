import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { verifyGraph } from '../../src/graph/verify.ts';
import { loadModelDescription } from '../../src/models/load-model.ts';
import { stepGraphOf } from '../../src/models/step-graph.ts';
import { rowBytes } from '../../src/tensor/dtype.ts';
import { decodeRow } from '../../src/tensor/rows.ts';
import { tokenizerFromGguf } from '../../src/tokenizer/tokenizer.ts';
import { openWeights } from '../../src/weights/weight-source.ts';
import { modelWork } from '../compare/model-work.ts';
import { RandomWords, randomBlocks } from './random-blocks.ts';
import { SHAPE_GLM4_TINY, SHAPE_TINY, writeRandomModel } from './random-model.ts';
import { requantizeGguf } from './requantize.ts';

const folder = mkdtempSync(join(tmpdir(), 'hasten-bench-'));
after(() => rmSync(folder, { recursive: true }));

const FIXTURE = fileURLToPath(
  new URL('../../test/fixtures/tiny-gguf/llama-q4_1.gguf', import.meta.url),
);

describe('randomBlocks', () => {
  for (const dtype of ['q4_0', 'q8_0', 'q6_k'] as const) {
    it(`gives ${dtype} values around zero of the deviation asked for`, () => {
      const elements = 1 << 16;
      const values = new Float32Array(elements);
      const [bytes] = randomBlocks(dtype, elements, 0.02, new RandomWords(7));
      decodeRow(dtype, bytes!.slice(), 0, values, elements);
      const mean = values.reduce((a, b) => a + b, 0) / elements;
      const variance = values.reduce((a, b) => a + (b - mean) ** 2, 0) / elements;
      assert.ok(Math.abs(mean) < 0.002, `mean ${mean}`);
      assert.ok(Math.abs(Math.sqrt(variance) / 0.02 - 1) < 0.05, `deviation ${variance ** 0.5}`);
    });
  }

  it('makes whole tensors in chunks', () => {
    const elements = 20 << 20;
    let bytes = 0;
    for (const chunk of randomBlocks('q4_0', elements, 1, new RandomWords(1)))
      bytes += chunk.length;
    assert.equal(bytes, rowBytes('q4_0', elements));
  });
});

describe('writeRandomModel', () => {
  it('writes the same sound model for the same seed, and its costs are those of its shape', async () => {
    const paths = ['a', 'b', 'c'].map((name) => join(folder, `${name}.gguf`));
    await writeRandomModel(paths[0]!, SHAPE_TINY, 1);
    await writeRandomModel(paths[1]!, SHAPE_TINY, 1);
    await writeRandomModel(paths[2]!, SHAPE_TINY, 2);
    const [a, b, c] = paths.map((path) => readFileSync(path));
    assert.deepEqual(a, b);
    assert.notDeepEqual(a, c);

    using weights = openWeights(paths[0]!);
    assert.equal(weights.tensors.get('output.weight')?.dtype, 'q6_k');
    const tokenizer = tokenizerFromGguf(weights.metadata);
    assert.equal(tokenizer.decode(tokenizer.encode('any text, Ω')), 'any text, Ω');

    // 2 layers: q, o [256, 256]; k, v [128, 256]; gate, up, down [512, 256].
    const work = modelWork(paths[0]!);
    assert.equal(work.layerOps, 2 * 2 * (2 * 256 * 256 + 2 * 128 * 256 + 3 * 512 * 256));
    assert.equal(work.headOps, 2 * 1024 * 256);
    const norms = 5 * 256 * 4;
    const q4 = (work.layerOps / 2 / 32) * 18;
    assert.equal(work.decodeBytes, q4 + norms + rowBytes('q6_k', 1024 * 256));
  });
});

test('a random GLM-4 is one that the readers know', async () => {
  const path = join(folder, 'glm4.gguf');
  await writeRandomModel(path, SHAPE_GLM4_TINY);
  using model = loadModelDescription(path);
  assert.equal(model.config.architecture, 'glm4');
  assert.equal(model.config.layers[0]?.rope.rotaryDim, 64);
  verifyGraph(stepGraphOf(model), 'model');
  const work = modelWork(path);
  assert.equal(work.layerOps, 2 * 2 * (2 * 256 * 512 + 2 * 256 * 256 + 3 * 512 * 256));
});

describe('requantizeGguf', () => {
  it('encodes the tensors of one type again, within a step of the coarser format, and copies the rest', async () => {
    const path = join(folder, 'requantized.gguf');
    await requantizeGguf(FIXTURE, path, { from: 'q4_1', to: 'q4_0' });
    using before = openWeights(FIXTURE);
    using after = openWeights(path);
    assert.deepEqual([...after.tensors.keys()], [...before.tensors.keys()]);
    let numEncoded = 0;
    for (const { name, dtype, shape } of before.tensors.values()) {
      const other = after.tensors.get(name)!;
      assert.deepEqual(other.shape, shape);
      assert.equal(other.dtype, dtype === 'q4_1' ? 'q4_0' : dtype);
      const [x, y] = [before.readF32(name), after.readF32(name)];
      if (dtype !== 'q4_1') {
        assert.deepEqual(y, x);
        continue;
      }
      numEncoded++;
      for (let block = 0; block < x.length; block += 32) {
        const span = Math.max(...x.subarray(block, block + 32).map(Math.abs));
        for (let i = block; i < block + 32; i++) {
          assert.ok(Math.abs(x[i]! - y[i]!) <= span / 7.9, `${name}[${i}]: ${x[i]} became ${y[i]}`);
        }
      }
    }
    assert.ok(numEncoded > 0);
    assert.deepEqual(
      after.metadata.get('llama.rope.freq_base'),
      before.metadata.get('llama.rope.freq_base'),
    );
  });

  it('refuses a file with nothing to encode', async () => {
    const work = requantizeGguf(FIXTURE, join(folder, 'none.gguf'), { from: 'q5_0', to: 'q4_0' });
    await assert.rejects(work, /no tensor is q5_0/);
  });
});
