/**
 * One suite for every target: the tiny models of `fixtures/tiny` (Hugging Face folders) and `fixtures/tiny-gguf`, compared with the logits and greedy
 * continuations that transformers gave in f32. A target runs it with its own factory:
 *
 *     goldenModelSuite('reference', (model, limits) => new ReferenceRunner({ ... }));
 */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import { loadModelDescription, type ModelDescription } from '../src/models/load-model.ts';
import type { ModelRunner, RunnerLimits } from '../src/targets/model-runner.ts';
import { maxAbsDifference, StepDriver } from './step-driver.ts';

const FIXTURES = path.join(import.meta.dirname, 'fixtures');

/** Largest difference of a logit in f32 arithmetic; f32 against f64 differs by up to 4e-5 in these models, whose logits spread by about 1. */
const GOLDEN_TOLERANCE = 3e-4;

export interface GoldenSequence {
  readonly input_ids: readonly number[];
  /** f32 [vocabSize], of the last token */
  readonly last_logits: readonly number[];
  /** Per token. */
  readonly top5_ids: readonly (readonly number[])[];
  readonly top5_logits: readonly (readonly number[])[];
  /** 24 ids; their margins are wide enough for any f32 arithmetic. Absent for quantized files. */
  readonly greedy_ids?: readonly number[];
}

export interface GoldenModel {
  readonly name: string;
  /** What `loadModelDescription` takes. */
  readonly path: string;
  readonly sequences: readonly GoldenSequence[];
}

/** Made for one model; the suite disposes it. Gives f32 precision: f32 activations, f32 KV cache. */
export type RunnerFactory = (
  model: ModelDescription,
  limits: Omit<RunnerLimits, 'vocabSize' | 'hiddenSize'>,
) => ModelRunner | Promise<ModelRunner>;

export interface GoldenSuiteOptions {
  readonly tolerance?: number;
  /** Why a model is left out, by name; shown as the reason of the skip. */
  readonly exceptions?: Readonly<Record<string, string>>;
  /** Folder with `tiny` and `tiny-gguf`. */
  readonly root?: string;
  /** Why the target cannot run here, if so. */
  readonly skip?: string | false;
}

/** Every model folder and GGUF file that has expected values beside it. */
export function goldenModels(root: string = FIXTURES): readonly GoldenModel[] {
  const read = (name: string, modelPath: string, expectedPath: string): GoldenModel[] => {
    if (!existsSync(expectedPath)) return [];
    const { sequences } = JSON.parse(readFileSync(expectedPath, 'utf8'));
    return [{ name, path: modelPath, sequences }];
  };
  const folders = readdirSync(path.join(root, 'tiny')).flatMap((name) => {
    const folder = path.join(root, 'tiny', name);
    return read(name, folder, path.join(folder, 'expected.json'));
  });
  const files = readdirSync(path.join(root, 'tiny-gguf'))
    .filter((name) => name.endsWith('.gguf'))
    .flatMap((name) => {
      const file = path.join(root, 'tiny-gguf', name);
      return read(name, file, file.replace(/\.gguf$/, '.expected.json'));
    });
  return [...folders, ...files];
}

const LIMITS: Omit<RunnerLimits, 'vocabSize' | 'hiddenSize'> = {
  maxTokens: 256,
  maxSeqs: 4,
  maxLogitRows: 256,
  maxModelLen: 256,
  blockSize: 16,
  numBlocks: 61,
};

/** Registers the suite with `node:test`. */
export function goldenModelSuite(
  target: string,
  makeRunner: RunnerFactory,
  {
    tolerance = GOLDEN_TOLERANCE,
    exceptions = {},
    root = FIXTURES,
    skip: skipAll = false,
  }: GoldenSuiteOptions = {},
): void {
  for (const golden of goldenModels(root)) {
    const skip = skipAll || (exceptions[golden.name] ?? false);
    describe(`${target}: ${golden.name}`, { skip }, () => {
      const resources = new DisposableStack();
      let driver: StepDriver;
      before(async () => {
        const model = resources.use(loadModelDescription(golden.path));
        driver = new StepDriver(resources.use(await makeRunner(model, LIMITS)));
      });
      after(() => resources.dispose());

      it('gives the expected logits at every position', () => {
        for (const sequence of golden.sequences) {
          checkLogits(driver.logitsOfAll(sequence.input_ids), sequence, tolerance);
        }
      });

      const continued = golden.sequences.filter(({ greedy_ids }) => greedy_ids !== undefined);
      if (continued.length > 0) {
        it('continues greedily with the expected ids', () => {
          for (const { input_ids, greedy_ids = [] } of continued) {
            assert.deepEqual(driver.greedy(input_ids, greedy_ids.length), greedy_ids);
          }
        });
      }

      it('gives the same bits whatever the chunks and whatever else is in the step', () => {
        const texts = golden.sequences.map((sequence) => sequence.input_ids);
        const alone = texts.map((ids) => driver.logitsOfAll(ids).at(-1)!);
        const chunked = texts.map((ids) => driver.logitsOfAll(ids, 5).at(-1)!);
        assert.deepEqual(chunked, alone);
        const together = driver.step(
          texts.map((tokenIds) => ({
            sequence: driver.newSequence(),
            tokenIds,
            logitsOf: [tokenIds.length - 1],
          })),
        );
        assert.deepEqual(together, alone);
      });
    });
  }
}

/** Compares the rows of one text with its golden values. */
function checkLogits(
  rows: readonly Float32Array[],
  expected: GoldenSequence,
  tolerance: number,
): void {
  const last = maxAbsDifference(rows.at(-1)!, expected.last_logits);
  assert.ok(last <= tolerance, `last logits differ by ${last}, more than ${tolerance}`);
  for (const [position, logits] of rows.entries()) {
    const ids = expected.top5_ids[position]!;
    const difference = maxAbsDifference(
      Float32Array.from(ids, (id) => logits[id]!),
      expected.top5_logits[position]!,
    );
    assert.ok(difference <= tolerance, `top logits at ${position} differ by ${difference}`);
    const fifth = expected.top5_logits[position]![4]!;
    const intruder = logits.findIndex(
      (logit, id) => logit > fifth + tolerance && !ids.includes(id),
    );
    assert.equal(intruder, -1, `id ${intruder} is not among the first five at ${position}`);
  }
}
