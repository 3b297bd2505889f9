import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { loadModelDescription } from '../models/load-model.ts';
import { createRunner } from '../runtime/create-runner.ts';
import { chooseTarget } from '../runtime/target-choice.ts';
import { openWeights } from '../weights/weight-source.ts';
import { logSumExp, ReferenceRow } from './divergence.ts';
import { CompressError } from './errors.ts';
import { F32Weights } from './f32-weights.ts';
import { type MixModelOptions, mixModel, removeProbes } from './mix-model.ts';
import type { MixedPlan } from './mixed-precision.ts';
import { quantizeModel } from './quantize-model.ts';
import { TensorProbe } from './tensor-probe.ts';

const MODEL = fileURLToPath(
  new URL('../../test/fixtures/tiny-gguf/llama-rope3-f32.gguf', import.meta.url),
);
const folder = mkdtempSync(join(tmpdir(), 'hasten-mix-'));
after(() => rmSync(folder, { recursive: true }));
const skip = chooseTarget().target === 'x64' ? false : 'native code cannot run here';
const FORMATS = ['q2_k', 'q4_0', 'iq4_nl', 'q5_0', 'q6_k', 'q8_0'] as const;
const windows = [
  Array.from({ length: 24 }, (_, i) => (i * 29 + 3) % 61),
  Array.from({ length: 17 }, (_, i) => (i * 7 + 11) % 61),
];

describe('probing tensors', { skip }, () => {
  it('gives the divergence of a whole run with other values', async () => {
    using model = loadModelDescription(MODEL);
    const { config, weights } = model;
    const f32 = new F32Weights(weights);
    using probe = new TensorProbe({ weights: f32, config, windows: [windows[0]!], threads: 1 });
    assert.equal(probe.numRows, 24);
    const logits = async (): Promise<Float32Array[]> => {
      using runner = await createRunner({
        ...{ source: f32, config, target: 'auto', precision: 'f32', threads: 1 },
        ...{ maxModelLen: 24, maxSeqs: 1, maxLogitRows: 24, planCacheFolder: null },
      });
      const { batch } = runner;
      for (let i = 0; i < 24; i++) {
        batch.tokenIds[i] = windows[0]![i]!;
        batch.positions[i] = i;
        batch.slotMapping[i] = i;
        batch.logitRows[i] = i;
      }
      for (let block = 0; block * runner.limits.blockSize < 24; block++) {
        batch.blockTables[block] = block;
      }
      batch.queryStarts.set([0, 24]);
      batch.contextLens[0] = 24;
      [batch.numTokens, batch.numSeqs, batch.numLogitRows] = [24, 1, 24];
      await runner.submit().wait();
      return windows[0]!.map((_, r) => runner.logits(r).slice());
    };
    const exact = await logits();
    const row = new ReferenceRow(config.vocabSize);
    // The last of a layer, one merged with others, one of an earlier layer again, the head and the embeddings.
    for (const part of [
      'layers.1.mlp.down_proj',
      'layers.1.self_attn.k_proj',
      'layers.0.mlp.up_proj',
      'embed_tokens',
      'lm_head',
    ]) {
      const tensor = part === 'lm_head' ? 'lm_head.weight' : `model.${part}.weight`;
      const changed = f32.readF32(tensor).map((value, i) => value * (1 + 0.2 * Math.sin(i)));
      const divergence = probe.divergence(tensor, changed);
      f32.replace(tensor, changed);
      const other = await logits();
      f32.restore(tensor);
      let expected = 0;
      for (const [r, reference] of exact.entries()) {
        row.set(reference);
        expected += row.divergence(other[r]!, logSumExp(other[r]!)) / exact.length;
      }
      assert.ok(expected > 1e-5, `${part}: ${expected}`);
      assert.ok(
        Math.abs(divergence - expected) <= 1e-3 * expected,
        `${part}: ${divergence} ${expected}`,
      );
    }
    assert.ok(
      probe.divergence(
        'model.layers.0.mlp.up_proj.weight',
        f32.readF32('model.layers.0.mlp.up_proj.weight'),
      ) < 1e-9,
    );
  });
});

describe('mixing formats', { skip }, () => {
  const options = (changes: Partial<MixModelOptions>): MixModelOptions => ({
    ...{ target: { kind: 'bpw', bitsPerWeight: 6 }, formats: FORMATS, windows, threads: 1 },
    stateFile: join(folder, 'state.json'),
    ...changes,
  });
  const mixed = async (changes: Partial<MixModelOptions>) => {
    using model = loadModelDescription(MODEL);
    return await mixModel(MODEL, model, options(changes));
  };

  it('keeps to the bits that are asked for, and loses less with more of them', async () => {
    const stateFile = join(folder, 'bits.json');
    const plans: MixedPlan[] = [];
    for (const bitsPerWeight of [5.5, 6.5, 7.5]) {
      plans.push(await mixed({ target: { kind: 'bpw', bitsPerWeight }, stateFile }));
      const actual: number = plans.at(-1)!.bitsPerWeight;
      assert.ok(actual <= bitsPerWeight && actual > bitsPerWeight - 0.3, `${actual}`);
    }
    const losses = plans.map(({ predictedLoss }) => predictedLoss);
    assert.ok(losses[0]! > losses[1]! && losses[1]! > losses[2]!, `${losses}`);
    assert.ok(new Set(plans[1]!.tensors.map(({ dtype }) => dtype)).size > 1);
  });

  it('makes a file of at most the size that is asked for', async () => {
    using model = loadModelDescription(MODEL);
    const bytes = Math.floor(statSync(MODEL).size / 4);
    const plan = await mixed({
      target: { kind: 'size', bytes },
      stateFile: join(folder, 'size.json'),
    });
    const path = join(folder, 'sized.gguf');
    const types = new Map(plan.tensors.map(({ name, dtype }) => [name, dtype]));
    const { sizeBytes } = await quantizeModel(MODEL, model.config, path, { types });
    assert.equal(statSync(path).size, sizeBytes);
    assert.ok(sizeBytes <= bytes, `${sizeBytes} ${bytes}`);
    using made = openWeights(path);
    for (const [name, dtype] of types) assert.equal(made.tensors.get(name)!.dtype, dtype);
  });

  it('goes on where it was interrupted, to the same result', async () => {
    const whole = await mixed({ stateFile: join(folder, 'whole.json') });
    const stateFile = join(folder, 'cut.json');
    const stop = new AbortController();
    const onProgress: MixModelOptions['onProgress'] = (phase, done) => {
      if (phase === 'probes' && done === 5) stop.abort(new Error('enough'));
    };
    await assert.rejects(mixed({ stateFile, signal: stop.signal, onProgress }), /enough/);
    assert.equal(Object.keys(JSON.parse(readFileSync(stateFile, 'utf8')).divergences).length, 5);
    let first: number | null = null;
    const resumed = await mixed({
      stateFile,
      onProgress: (phase, done) => {
        if (phase === 'probes') first ??= done;
      },
    });
    assert.equal(first, 6);
    assert.deepEqual(resumed, whole);
    await assert.rejects(
      mixed({ stateFile, windows: [windows[0]!] }),
      (error: unknown) => error instanceof CompressError && /another model/.test(error.message),
    );
    removeProbes(stateFile);
    assert.ok(!existsSync(stateFile));
  });

  it('says what cannot be reached', async () => {
    await assert.rejects(
      mixed({ target: { kind: 'bpw', bitsPerWeight: 1.5 }, stateFile: join(folder, 'none.json') }),
      /smallest formats take/,
    );
  });
});
