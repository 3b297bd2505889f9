/**
 * LLM.int8 from a model with outliers to logits: four channels behind every norm of a tiny model are made 30 times larger, and the weights that take them
 * smaller; the model is written in int8 with and without its outlier columns, and both are run.
 */
import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, describe, it } from 'node:test';
import { F32Weights } from '../src/compress/f32-weights.ts';
import { findOutlierColumns } from '../src/compress/outlier-columns.ts';
import { writeRoundedModel } from '../src/compress/write-rounded.ts';
import { verifyGraph } from '../src/graph/verify.ts';
import { GgufView } from '../src/models/gguf-view.ts';
import { loadModelDescription } from '../src/models/load-model.ts';
import { lowerModel } from '../src/runtime/compile-model.ts';
import { ReferenceRunner } from '../src/targets/reference/reference-runner.ts';
import { X64_ISAS } from '../src/targets/x64/isa.ts';
import { writeSafetensors } from '../src/weights/safetensors-writer.ts';
import { openWeights } from '../src/weights/weight-source.ts';
import { nativeIsas, nativeRunner, sameLimits, skipNative, skipOf } from './native-models.ts';
import { oneAnswerSuite } from './one-answer-suite.ts';
import { assertSameBits } from './same-bits.ts';
import { relativeDifference, StepDriver } from './step-driver.ts';

const SOURCE = path.join(import.meta.dirname, 'fixtures', 'tiny', 'llama-bf16');
const CHANNELS = [7, 31, 32, 90];
const BEHIND_NORM = /(q|k|v|gate|up)_proj\.weight$/;
const LIMITS = { maxTokens: 64, maxSeqs: 16, maxLogitRows: 64, maxModelLen: 64, numBlocks: 32 };
const TEXTS = Array.from({ length: 16 }, (_, t) =>
  Array.from({ length: 4 }, (_, i) => (t * 37 + i * 11 + t * i) % 320),
);

const folder = mkdtempSync(path.join(tmpdir(), 'hasten-outliers-'));
after(() => rmSync(folder, { recursive: true }));
const planted = path.join(folder, 'planted');
const plain = path.join(folder, 'int8');
const split = path.join(folder, 'llm-int8');

async function plantOutliers(): Promise<void> {
  cpSync(SOURCE, planted, { recursive: true });
  using source = openWeights(SOURCE);
  const tensors = [...source.tensors.values()].map(({ name, dtype, shape }) => {
    const isNorm = /layernorm\.weight$/.test(name);
    if (!isNorm && !/_proj\.weight$/.test(name)) {
      return { name, dtype, shape, data: source.readRows(name).slice() };
    }
    const factor = isNorm ? 30 : BEHIND_NORM.test(name) ? 1 / 30 : 1;
    const width = shape.at(-1)!;
    const values = source
      .readF32(name)
      .map((value, i) => (CHANNELS.includes(i % width) ? factor * value : value));
    if (!isNorm) giveRowsOneMaximum(values, width);
    return { name, dtype: 'f32' as const, shape, data: new Uint8Array(values.buffer) };
  });
  await writeSafetensors(path.join(planted, 'model.safetensors'), { tensors });
}

/** The scale of each row in 8 bits is then 2^-10, which packed weights hold as exactly as the reference target does. */
function giveRowsOneMaximum(values: Float32Array, width: number): void {
  for (let start = 0; start < values.length; start += width) {
    const row = values.subarray(start, start + width);
    const most = row.reduce((largest, value) => Math.max(largest, Math.abs(value)), 0);
    for (let i = 0; i < width; i++) row[i] = (row[i]! / most) * 127 * 2 ** -10;
  }
}

/** Logits of the reference target in the given precision. */
function logitsOf(model: string, precision: 'fast' | 'f32', isSplit = true): Float32Array[] {
  using description = loadModelDescription(model);
  const { config, weights } = description;
  const { graph } = lowerModel({
    ...{ source: weights, config, precision },
    disabledPasses: isSplit ? [] : ['split-outliers'],
  });
  verifyGraph(graph, 'lowered');
  using runner = new ReferenceRunner({ graph, weights, limits: sameLimits(LIMITS) });
  return allLogits(new StepDriver(runner));
}

/** Of the last token of each text. */
function allLogits(driver: StepDriver): Float32Array[] {
  return driver.step(
    TEXTS.map((tokenIds) => ({
      sequence: driver.newSequence(),
      tokenIds,
      logitsOf: [tokenIds.length - 1],
    })),
  );
}

describe('outlier columns', { skip: skipNative }, async () => {
  if (skipNative) return;
  await plantOutliers();
  using model = loadModelDescription(planted);
  const { config, weights } = model;
  const columns = await findOutlierColumns({
    ...{ weights: new F32Weights(weights), config, windows: TEXTS, threads: 1 },
    ...{ threshold: 6, maxShare: 0.05 },
  });
  await writeRoundedModel(planted, 'int8', plain);
  await writeRoundedModel(planted, 'int8', split, { outliers: { threshold: 6, columns } });

  it('are found where they were planted', () => {
    const behindNorms = [...columns].filter(([name]) => BEHIND_NORM.test(name));
    assert.equal(behindNorms.length, 5 * config.numLayers);
    for (const [name, found] of behindNorms) assert.deepEqual(found, CHANNELS, name);
  });

  it('bring the logits nearer to those of the model in f32', () => {
    const exact = logitsOf(planted, 'f32');
    const without = relativeDifference(logitsOf(plain, 'fast'), exact);
    const apart = relativeDifference(logitsOf(split, 'fast'), exact);
    assert.ok(apart < without / 2 && without > 0.01, `${without} without, ${apart} with`);
  });

  it('change nothing in f32, and nothing for who leaves them out', () => {
    assertSameBits(logitsOf(split, 'f32'), logitsOf(plain, 'f32'), 'f32');
    assertSameBits(logitsOf(split, 'fast', false), logitsOf(plain, 'fast'), 'left out');
  });

  it('are left out of a GGUF file, and alone by what is quantized while loading', () => {
    using made = loadModelDescription(split);
    const view = new GgufView(made);
    assert.equal(view.tensors.size, weights.tensors.size);
    assert.ok([...view.tensors.values()].every((tensor) => tensor.outliers === undefined));
    using loaded = loadModelDescription(split, { loadIn: 'nf4' });
    const { outliers } = loaded.weights.tensors.get('model.layers.0.self_attn.q_proj.weight')!;
    assert.equal(loaded.weights.tensors.get(outliers!.tensor)!.dtype, 'f16');
  });

  for (const isa of nativeIsas) {
    it(`are the same on ${isa} as on the reference target`, async () => {
      using made = loadModelDescription(split);
      const settings = { isa, precision: 'fast', kvType: 'f32', threads: 2 } as const;
      using runner = await nativeRunner(made, settings, LIMITS);
      const seen = allLogits(new StepDriver(runner));
      const expected = logitsOf(split, 'fast');
      const differences = seen.map((row, i) => relativeDifference([row], [expected[i]!]));
      // Some text might have a value that falls on the other side of a rounding edge; measured: none, 3e-7.
      const same = differences.filter((difference) => difference < 1e-5);
      assert.ok(same.length >= TEXTS.length - 2, `${differences}`);
    });
  }
});

for (const isa of X64_ISAS) {
  if (skipOf(isa)) continue;
  oneAnswerSuite(
    { name: 'outlier columns', path: split, isa, precision: 'fast' },
    {
      lengths: [1, 2, 3, 5, 8, 17, 33],
      longLength: 80,
      chunkSizes: [1, 2, 3, 5, 8, 17, 64],
      batchSizes: [2, 5],
      threads: [2],
      deepLength: null,
    },
  );
}
