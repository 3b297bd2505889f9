/** Hidden states of the runners: the head's matrix times them is the logits; targets agree; asking for them changes nothing. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { loadModelDescription, type ModelDescription } from '../src/models/load-model.ts';
import { lowerModel } from '../src/runtime/compile-model.ts';
import type { ModelRunner } from '../src/targets/model-runner.ts';
import { ReferenceRunner } from '../src/targets/reference/reference-runner.ts';
import { StepError } from '../src/targets/step-batch.ts';
import { goldenModels } from './golden-models.ts';
import { nativeIsas, nativeRunner, sameLimits, skipNative } from './native-models.ts';
import { assertSameBits } from './same-bits.ts';
import { maxAbsDifference } from './step-driver.ts';

const LIMITS = { maxTokens: 32, maxSeqs: 2, maxLogitRows: 4, maxModelLen: 64, numBlocks: 8 };
const IDS = Array.from({ length: 20 }, (_, i) => (i * 37 + 5) % 256);
const HEAD = ['lm_head.weight', 'model.embed_tokens.weight'];

function referenceRunner(model: ModelDescription): ModelRunner {
  const { graph } = lowerModel({
    source: model.weights,
    config: model.config,
    precision: 'f32',
  });
  return new ReferenceRunner({ graph, weights: model.weights, limits: sameLimits(LIMITS) });
}

/** Runs the text in one step, with logits of some tokens and hidden states of others, and gives copies of the rows. */
function run(runner: ModelRunner, logitRows: readonly number[], hiddenRows: readonly number[]) {
  const { batch, limits } = runner;
  IDS.forEach((id, i) => {
    batch.tokenIds[i] = id;
    batch.positions[i] = i;
    batch.slotMapping[i] = i;
  });
  batch.blockTables.set([0, 1, 2, 3].slice(0, Math.ceil(IDS.length / limits.blockSize)));
  batch.numTokens = IDS.length;
  batch.numSeqs = 1;
  batch.queryStarts.set([0, IDS.length]);
  batch.contextLens[0] = IDS.length;
  batch.logitRows.set([...logitRows, ...hiddenRows]);
  batch.numLogitRows = logitRows.length;
  batch.numHiddenRows = hiddenRows.length;
  runner.submit();
  const rows = [...logitRows, ...hiddenRows].map((_, row) => runner.hidden(row).slice());
  return { logits: logitRows.map((_, row) => runner.logits(row).slice()), rows };
}

const all = IDS.map((_, i) => i);
const untied = goldenModels().filter(({ name }) => /llama|qwen2|gemma/.test(name));

describe('hidden states', () => {
  for (const { name, path } of untied.slice(0, 4)) {
    it(`${name}: the head's matrix times one of them is its logits`, async () => {
      using model = loadModelDescription(path);
      using runner = referenceRunner(model);
      const { logits, rows } = run(runner, [3, 19], []);
      const head = HEAD.find((one) => model.weights.tensors.has(one))!;
      const { hiddenSize, vocabSize, logitSoftcap } = model.config;
      assert.equal(rows[0]!.length, hiddenSize);
      assert.equal(runner.limits.hiddenSize, hiddenSize);
      const matrix = model.weights.readF32(head);
      for (const [r, row] of rows.entries()) {
        const expected = Float32Array.from({ length: vocabSize }, (_, id) => {
          let sum = 0;
          for (let i = 0; i < hiddenSize; i++) sum += matrix[id * hiddenSize + i]! * row[i]!;
          return logitSoftcap === null ? sum : logitSoftcap * Math.tanh(sum / logitSoftcap);
        });
        const difference = maxAbsDifference(logits[r]!, expected);
        assert.ok(difference < 1e-4, `row ${r}: logits differ by ${difference}`);
      }
    });

    it(`${name}: rows wanted for themselves are those that come with logits`, async () => {
      using model = loadModelDescription(path);
      using runner = referenceRunner(model);
      const plain = run(runner, [0, 7, 12, 19], []);
      const both = run(runner, [19], [0, 7, 12, 19]);
      const none = run(runner, [], all);
      assertSameBits(both.rows, [plain.rows[3]!, ...plain.rows], 'hidden');
      assertSameBits(both.logits, [plain.logits[3]!], 'logits');
      assertSameBits(
        [0, 7, 12, 19].map((i) => none.rows[i]!),
        plain.rows,
        'hidden alone',
      );
      assert.throws(() => runner.logits(0), StepError);
      assert.throws(() => runner.hidden(IDS.length), StepError);
      assert.throws(() => run(runner, [3], [1, 1]), StepError);
    });

    for (const precision of ['f32', 'fast'] as const) {
      it(`${name}: machine code agrees, ${precision}`, { skip: skipNative }, async () => {
        using model = loadModelDescription(path);
        using reference = referenceRunner(model);
        const settings = { isa: nativeIsas[0]!, precision, threads: 2 };
        using runner = await nativeRunner(model, settings, LIMITS);
        const expected = run(reference, [], all).rows;
        const { rows, logits } = run(runner, [19], all);
        const plain = run(runner, [19], []);
        assertSameBits(logits, plain.logits, 'logits beside hidden states');
        assertSameBits(rows.slice(0, 1), plain.rows, 'the row of the logits');
        assertSameBits([rows.at(-1)!], [rows[0]!], 'the same token twice');
        const bound = precision === 'f32' ? 2e-4 : 0.2;
        for (const [i, row] of rows.slice(1).entries()) {
          const difference = maxAbsDifference(row, expected[i]!);
          assert.ok(difference < bound, `position ${i} differs by ${difference}`);
        }
      });
    }
  }
});
