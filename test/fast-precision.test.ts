/**
 * Fast precision on machine code against the reference target in the same arithmetic: int8 activations of equal definition, so the logits are equal but for f32
 * rounding, until a value falls on the other side of a rounding edge and its code is another one.
 */
import assert from 'node:assert/strict';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import { emitKernels } from '../src/compiler/emit.ts';
import { planModel } from '../src/compiler/plan-model.ts';
import type { Graph } from '../src/graph/ir.ts';
import { loadModelDescription, type ModelDescription } from '../src/models/load-model.ts';
import { allocate } from '../src/platform/native-memory.ts';
import { lowerModel } from '../src/runtime/compile-model.ts';
import { NativeRunner } from '../src/runtime/native-runner.ts';
import { packWeights } from '../src/runtime/packed-weights.ts';
import { ReferenceRunner } from '../src/targets/reference/reference-runner.ts';
import { machineOf, X64_ISAS, type X64Isa } from '../src/targets/x64/isa.ts';
import { nativeRunner, sameLimits, skipOf } from './native-models.ts';
import { maxAbsDifference, StepDriver } from './step-driver.ts';

const FIXTURES = path.join(import.meta.dirname, 'fixtures', 'tiny-gguf');
const FORMATS = ['q4_0', 'q4_1', 'q5_0', 'q5_1', 'q8_0'];
const LIMITS = { maxTokens: 128, maxSeqs: 32, maxLogitRows: 128, maxModelLen: 128, numBlocks: 64 };

/** f32 rounding only: measured 2e-6 at logits that spread by 1.3. */
const NO_FLIP = 1e-5;
/** Of texts of 4 tokens, without a flipped code (measured 0.91 to 1): a wrong scale, sum or code would leave none. */
const MIN_SHARE_WITHOUT_FLIP = 0.75;
/** Of the logits after flips (measured 0.1), and of all that int8 rounding does (measured 0.03 relative). */
const MAX_DIFFERENCE = 0.4;
const MAX_RELATIVE = 0.06;

const TEXTS = Array.from({ length: 32 }, (_, t) =>
  Array.from({ length: 4 }, (_, i) => (t * 37 + i * 11 + t * i) % 61),
);

/** Logits after each text, all texts in one step. */
function answers(driver: StepDriver): Float32Array[] {
  return driver.step(
    TEXTS.map((tokenIds) => ({
      sequence: driver.newSequence(),
      tokenIds,
      logitsOf: [tokenIds.length - 1],
    })),
  );
}

function referenceAnswers(graph: Graph, weights: ModelDescription['weights']): Float32Array[] {
  using runner = new ReferenceRunner({ graph, weights, limits: sameLimits(LIMITS) });
  return answers(new StepDriver(runner));
}

/** Fast precision, but keys and values kept in f32: rounding them to f16 would flip codes everywhere. */
function runnerWithF32Cache(isa: X64Isa, graph: Graph, weights: ModelDescription['weights']) {
  const machine = machineOf(isa);
  const plan = planModel(graph, {
    machine,
    precision: 'fast',
    kvType: 'f32',
    directory: weights.tensors,
    limits: { ...LIMITS, numThreads: 1 },
  });
  const image = allocate(plan.weightBytes);
  const bytes = image.bytes();
  packWeights(plan.weights, weights, (offset, piece) => bytes.set(piece, offset));
  const kernels = emitKernels(plan, machine);
  return new NativeRunner({ plan, kernels, image, numBlocks: LIMITS.numBlocks });
}

function relativeDifference(a: readonly Float32Array[], b: readonly Float32Array[]): number {
  let difference = 0;
  let size = 0;
  for (const [row, logits] of a.entries()) {
    for (const [i, logit] of logits.entries()) {
      const other = b[row]![i]!;
      difference += (logit - other) ** 2;
      size += other ** 2;
    }
  }
  return Math.sqrt(difference / size);
}

for (const format of FORMATS) {
  describe(`fast precision: ${format}`, () => {
    let model: ModelDescription;
    let fastGraph: Graph;
    let reference: Float32Array[];
    let exact: Float32Array[];
    before(() => {
      model = loadModelDescription(path.join(FIXTURES, `llama-${format}.gguf`));
      const { config, weights: source } = model;
      const graphOf = (precision: 'fast' | 'f32') =>
        lowerModel({ source, config, precision }).graph;
      fastGraph = graphOf('fast');
      reference = referenceAnswers(fastGraph, source);
      exact = referenceAnswers(graphOf('f32'), source);
    });
    after(() => model[Symbol.dispose]());

    for (const isa of X64_ISAS) {
      it(`equals the reference target on ${isa}`, { skip: skipOf(isa) }, () => {
        using runner = runnerWithF32Cache(isa, fastGraph, model.weights);
        const logits = answers(new StepDriver(runner));
        const differences = logits.map((row, i) => maxAbsDifference(row, reference[i]!));
        const unflipped = differences.filter((difference) => difference <= NO_FLIP).length;
        const shown = differences.map((d) => d.toExponential(0)).join(' ');
        assert.ok(unflipped >= MIN_SHARE_WITHOUT_FLIP * TEXTS.length, shown);
        assert.ok(Math.max(...differences) <= MAX_DIFFERENCE, shown);
      });

      it(`stays near f32 on ${isa}, keys and values in f16`, { skip: skipOf(isa) }, async () => {
        using runner = await nativeRunner(model, { isa, precision: 'fast', threads: 1 }, LIMITS);
        const relative = relativeDifference(answers(new StepDriver(runner)), exact);
        assert.ok(relative > 1e-4, `${relative}: int8 activations were not used`);
        assert.ok(relative <= MAX_RELATIVE, `relative difference ${relative}`);
      });
    }
  });
}
