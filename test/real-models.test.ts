/**
 * Real models against what transformers computed from the same (dequantized) weights in f32: logits, greedy texts, likelihood of a text, and
 * how far fast precision strays from f32. `fixtures/real`: US Declaration of Independence and Constitution (public domain), prose and code (CC0).
 *
 * The models are taken from the cache, or fetched with HASTEN_REQUIRE_MODELS=1.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { OpenedModel } from '../src/app/open-model.ts';
import { logSumExp, scoringRows, topIds, windowNll } from '../src/app/scoring.ts';
import { SequenceDriver } from '../src/app/sequence-driver.ts';
import { load } from '../src/index.ts';
import { createRunner } from '../src/runtime/create-runner.ts';
import type { Precision, TargetName } from '../src/runtime/runner-options.ts';
import type { ModelRunner } from '../src/targets/model-runner.ts';
import { nativeIsas } from './native-models.ts';
import { findModelFile } from './real-model-file.ts';
import { REPOSITORY, TEST_ENVIRONMENT } from './run-hasten.ts';

interface Prompt {
  readonly name: string;
  readonly input_ids: number[];
  readonly top10_ids: number[];
  readonly top10_logits: number[];
  readonly sample_ids: number[];
  readonly sample_logits: number[];
  /** log(sum of exp(logit)) */
  readonly logsumexp: number;
  readonly greedy_ids: number[];
  readonly greedy_text: string;
}

interface Evaluation {
  readonly window_ids: number[][];
  readonly nll_per_window: number[];
}

interface RealModel {
  readonly alias: string;
  /** Largest difference of a logit from f32 arithmetic in another order. */
  readonly logitTolerance: number;
  /** Of the 13 windows of the text, how many are scored: f32 takes 1 to 2 s each on two quiet cores. bench/quality scores all. */
  readonly numWindows: number;
}

const MODELS: readonly RealModel[] = [
  { alias: 'smollm2', logitTolerance: 1e-3, numWindows: 4 },
  { alias: 'gemma3-270m', logitTolerance: 2e-3, numWindows: 2 },
];

/** The best level of machine code with all prompts, the others with short ones. */
const TARGETS: readonly TargetName[] = ['auto', ...nativeIsas.slice(1)];
const SHORT_PROMPT = 40;

/** Of a window's mean NLL, f32 against f32. */
const NLL_TOLERANCE = 1e-4;
/** Of the text's mean NLL, fast against f32. */
const FAST_NLL_SHARE = 0.005;

const PLAN_CACHE = join(TEST_ENVIRONMENT.HASTEN_CACHE!, 'plans');

function fixture<T>(alias: string, file: string): T {
  const path = join(REPOSITORY, 'test/fixtures/real', alias, file);
  return JSON.parse(readFileSync(path, 'utf8')) as T;
}

/** The model's file; without it the test is skipped. */
async function findFile(alias: string, t: TestContext): Promise<string | undefined> {
  const { file, skip } = await findModelFile(alias);
  if (file !== null) return file;
  t.skip(skip);
  return undefined;
}

/** Runs `body` with a runner for one sequence. */
async function withRunner(
  model: OpenedModel,
  { precision, target = 'auto' }: { precision: Precision; target?: TargetName },
  body: (runner: ModelRunner, driver: SequenceDriver) => Promise<void>,
): Promise<void> {
  const { weights, config } = model.description;
  using runner = await createRunner({
    source: weights,
    config,
    target,
    precision,
    threads: 'auto',
    maxModelLen: 1024,
    maxSeqs: 1,
    maxLogitRows: scoringRows(config.vocabSize),
    planCacheFolder: PLAN_CACHE,
  });
  await body(runner, new SequenceDriver(runner));
}

/** Of the row 0 that the last step gave. */
function assertLogits(runner: ModelRunner, prompt: Prompt, tolerance: number): void {
  const { name, top10_ids, sample_ids } = prompt;
  const logits = runner.logits(0);
  assert.equal(topIds(logits, 1)[0], top10_ids[0], name);
  const seen = [...top10_ids, ...sample_ids].map((id) => logits[id]!);
  const expected = [...prompt.top10_logits, ...prompt.sample_logits];
  const largest = Math.max(...seen.map((logit, i) => Math.abs(logit - expected[i]!)));
  assert.ok(largest <= tolerance, `${name}: off by ${largest}`);
  const normaliser = logSumExp(runner, 0);
  const difference = Math.abs(normaliser - prompt.logsumexp);
  assert.ok(difference <= tolerance, `${name}: normaliser ${normaliser}, not ${prompt.logsumexp}`);
}

for (const { alias, logitTolerance, numWindows } of MODELS) {
  describe(alias, () => {
    for (const target of TARGETS) {
      const isBest = target === 'auto';
      test(`in f32 gives the logits of ${isBest ? 'every prompt' : `short prompts on ${target}`}`, async (t) => {
        const file = await findFile(alias, t);
        if (file === undefined) return;
        const { prompts } = fixture<{ prompts: Prompt[] }>(alias, 'expected.json');
        using model = new OpenedModel(file);
        await withRunner(model, { precision: 'f32', target }, async (runner, driver) => {
          for (const prompt of prompts) {
            if (!isBest && prompt.input_ids.length > SHORT_PROMPT) continue;
            driver.reset();
            await driver.feed(prompt.input_ids, 'last');
            assertLogits(runner, prompt, logitTolerance);
          }
        });
      });
    }

    test('in f32 writes the greedy text of every prompt, all at once', async (t) => {
      const file = await findFile(alias, t);
      if (file === undefined) return;
      const { prompts } = fixture<{ prompts: Prompt[] }>(alias, 'expected.json');
      const options = { precision: 'f32', maxModelLen: 1024, planCacheFolder: PLAN_CACHE } as const;
      await using model = await load(file, options);
      const sampling = { temperature: 0, maxTokens: 48, ignoreEos: true };
      await Promise.all(
        prompts.map(async ({ name, input_ids, greedy_ids, greedy_text }) => {
          const tokenIds: number[] = [];
          let text = '';
          for await (const part of model.complete(input_ids, sampling)) {
            tokenIds.push(...part.tokenIds);
            text += part.text;
          }
          assert.deepEqual(tokenIds, greedy_ids, name);
          assert.equal(text, greedy_text, name);
        }),
      );
    });

    test('scores a text as f32 does, and nearly so in fast precision', async (t) => {
      const file = await findFile(alias, t);
      if (file === undefined) return;
      const evaluation = fixture<Evaluation>(alias, 'eval_nll.json');
      const windows = evaluation.window_ids.slice(0, numWindows);
      const expected = evaluation.nll_per_window.slice(0, numWindows);
      using model = new OpenedModel(file);
      const scored: number[] = [];
      await withRunner(model, { precision: 'f32' }, async (runner, driver) => {
        for (const [i, tokenIds] of windows.entries()) {
          const nll = await windowNll(runner, driver, tokenIds);
          const difference = Math.abs(nll - expected[i]!);
          assert.ok(difference <= NLL_TOLERANCE, `window ${i}: ${nll}, expected ${expected[i]}`);
          scored.push(nll);
        }
      });
      const exact = mean(scored);
      await withRunner(model, { precision: 'fast' }, async (runner, driver) => {
        const fast: number[] = [];
        for (const tokenIds of windows) fast.push(await windowNll(runner, driver, tokenIds));
        const share = Math.abs(mean(fast) - exact) / exact;
        t.diagnostic(`fast precision: NLL ${mean(fast).toFixed(5)}, f32 ${exact.toFixed(5)}`);
        assert.ok(share <= FAST_NLL_SHARE, `off by ${(100 * share).toFixed(2)} %`);
      });
    });

    test('cuts the text into the same tokens', async (t) => {
      const file = await findFile(alias, t);
      if (file === undefined) return;
      using model = new OpenedModel(file);
      const tokenizer = model.requireTokenizer();
      const text = readFileSync(join(REPOSITORY, 'test/fixtures/real/eval.txt'), 'utf8');
      const { window_ids: windows } = fixture<Evaluation>(alias, 'eval_nll.json');
      const expected = windows.flatMap((ids) => (tokenizer.addsBos ? ids.slice(1) : ids));
      assert.deepEqual(tokenizer.encode(text).slice(0, expected.length), expected);
    });
  });
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
