/**
 * Formats of the KV cache through a whole model: machine code against the reference target in the same format, blocks moved as bytes, and the engine's greedy
 * texts alone and in company.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import { summarizePlan } from '../src/compiler/print-plan.ts';
import { Engine } from '../src/engine/engine.ts';
import { KvSessionError } from '../src/engine/kv-session.ts';
import type { EngineRequest } from '../src/engine/request.ts';
import { KV_TYPES, type KvType } from '../src/kernels/kv-layout.ts';
import { loadModelDescription, type ModelDescription } from '../src/models/load-model.ts';
import { lowerModel } from '../src/runtime/compile-model.ts';
import type { NativeRunner } from '../src/runtime/native-runner.ts';
import { ReferenceRunner } from '../src/targets/reference/reference-runner.ts';
import { machineOf, X64_ISAS } from '../src/targets/x64/isa.ts';
import { generateTexts } from './generate-texts.ts';
import { nativeRunner, sameLimits, skipOf } from './native-models.ts';
import { assertSameBits } from './same-bits.ts';
import { maxAbsDifference, StepDriver } from './step-driver.ts';

const MODELS = ['tiny-gguf/llama-q4_0.gguf', 'tiny/gemma3'];
const LIMITS = { maxTokens: 64, maxSeqs: 8, maxLogitRows: 64, maxModelLen: 64, numBlocks: 32 };
const TEXT = Array.from({ length: 44 }, (_, i) => (i * 17 + (i >> 2) * 5 + 3) % 61);

/** Most that logits of a format lie apart from those of f32: random models of 4 layers, logits spread by 1 to 3 (measured 0.0066, 0.11, 2.1). */
const FROM_F32 = { f32: 0, f16: 0.02, q8: 0.3, q4: 4 } as const;
/** Of the two targets in one format: a value at a rounding edge gets another code. */
const BETWEEN_TARGETS = { f32: 1e-5, f16: 2e-3, q8: 0.02, q4: 0.3 } as const;

for (const name of MODELS) {
  describe(`formats of the KV cache: ${name}`, () => {
    let model: ModelDescription;
    const reference = new Map<KvType, Float32Array[]>();
    before(() => {
      model = loadModelDescription(path.join(import.meta.dirname, 'fixtures', name));
      const { config, weights } = model;
      const { graph } = lowerModel({ source: weights, config, precision: 'f32' });
      for (const kvType of KV_TYPES) {
        const limits = sameLimits(LIMITS, kvType);
        using runner = new ReferenceRunner({ graph, weights, limits, kvType });
        reference.set(kvType, new StepDriver(runner).logitsOfAll(TEXT));
      }
    });
    after(() => model[Symbol.dispose]());

    for (const kvType of KV_TYPES) {
      it(`${kvType} stays near f32 on the reference target`, () => {
        const difference = largestDifference(reference.get(kvType)!, reference.get('f32')!);
        assert.ok(difference <= FROM_F32[kvType], `${difference}`);
        assert.equal(difference > 0, kvType !== 'f32', `${difference}`);
      });

      for (const isa of X64_ISAS) {
        it(`${kvType} on ${isa} is that of the reference target`, {
          skip: skipOf(isa),
        }, async () => {
          const settings = { isa, precision: 'f32', threads: 1, kvType } as const;
          using runner = await nativeRunner(model, settings, LIMITS);
          const rows = new StepDriver(runner).logitsOfAll(TEXT, 7);
          const difference = largestDifference(rows, reference.get(kvType)!);
          assert.ok(difference <= BETWEEN_TARGETS[kvType], `${difference}`);
          assert.equal(runner.plan.kvCache.kvType, kvType);
          const { kvBytesPerToken, kvType: shown } = summarizePlan(runner.plan, machineOf(isa));
          assert.equal(shown, kvType);
          assert.equal(kvBytesPerToken * runner.limits.blockSize, runner.kvBlockBytes);
        });
      }
    }

    for (const kvType of ['q8', 'q4'] as const) {
      const isa = X64_ISAS.find((x) => skipOf(x) === false) ?? X64_ISAS[0];
      const settings = { isa, precision: 'fast', threads: 2, kvType } as const;

      it(`${kvType}: a block moved as bytes goes on with the same bits`, {
        skip: skipOf(isa),
      }, async () => {
        using runner = await nativeRunner(model, settings, LIMITS);
        const expected = new StepDriver(runner).logitsOfAll(TEXT);
        const driver = new StepDriver(runner, { scatterBlocks: false });
        const sequence = driver.newSequence();
        const start = TEXT.slice(0, 37);
        driver.step([{ sequence, tokenIds: start, logitsOf: [] }]);
        // Half full, or full where the others are not in the block yet.
        const moved = runner.limits.hasOpenBlocks ? 0 : 2;
        const bytes = new Uint8Array(runner.kvBlockBytes);
        runner.readBlock(sequence.blockTable[moved]!, bytes);
        runner.writeBlock(sequence.blockTable[moved]!, new Uint8Array(runner.kvBlockBytes));
        runner.writeBlock(20, bytes);
        sequence.blockTable[moved] = 20;
        const rest = TEXT.slice(37);
        const rows = driver.step([{ sequence, tokenIds: rest, logitsOf: rest.map((_, i) => i) }]);
        assertSameBits(rows, expected.slice(37), 'after the move');
      });

      it(`${kvType}: a saved session goes on with the same text in another engine of that format, and in no other`, {
        skip: skipOf(isa),
      }, async () => {
        const folder = mkdtempSync(path.join(tmpdir(), 'hasten-session-'));
        using cleanup = new DisposableStack();
        cleanup.defer(() => rmSync(folder, { recursive: true }));
        const file = path.join(folder, 'a.session');
        const saved = TEXT.slice(0, 36);
        using first = await nativeRunner(model, settings, LIMITS);
        await using engine = engineOf(first, kvType);
        const expected = await engine.submit(goesOn(TEXT)).collect();
        const numSaved = await engine.calls.saveSession(file, { tokenIds: saved });
        assert.equal(numSaved, 32);

        using second = await nativeRunner(model, settings, LIMITS);
        await using other = engineOf(second, kvType);
        const restored = await other.calls.restoreSession(file);
        assert.deepEqual([...restored], saved.slice(0, numSaved));
        const again = await other.submit(goesOn(TEXT)).collect();
        assert.deepEqual(again.tokenIds, expected.tokenIds);
        assert.equal(again.finish.usage.cachedTokens, numSaved);

        using third = await nativeRunner(model, { ...settings, kvType: 'f16' }, LIMITS);
        await using stranger = engineOf(third, 'f16');
        await assert.rejects(stranger.calls.restoreSession(file), KvSessionError);
      });

      it(`${kvType}: tokens that are taken back leave no trace`, {
        skip: skipOf(isa),
      }, async () => {
        using runner = await nativeRunner(model, settings, LIMITS);
        const driver = new StepDriver(runner);
        const expected = driver.logitsOfAll(TEXT);
        for (const [length, numWrong] of [
          [14, 5],
          [30, 6],
          [31, 1],
          [32, 9],
        ] as const) {
          const sequence = driver.newSequence();
          const step = (tokenIds: readonly number[]) =>
            driver.step([{ sequence, tokenIds, logitsOf: tokenIds.map((_, i) => i) }]);
          step(TEXT.slice(0, length - 1));
          const wrong = TEXT.slice(0, numWrong).map((id) => (id + 1) % 61);
          const [first] = step([TEXT[length - 1]!, ...wrong]);
          sequence.contextLen = length;
          const rows = [first!, ...step(TEXT.slice(length))];
          assertSameBits(rows, expected.slice(length - 1), `${numWrong} after ${length}`);
        }
      });

      it(`${kvType}: the engine gives the same greedy texts alone and together, drafted, cut, preempted, cached`, {
        skip: skipOf(isa),
      }, async () => {
        using runner = await nativeRunner(model, settings, LIMITS);
        const prompts = [3, 17, 16, 30, 36].map((length, i) => TEXT.slice(i, i + length));
        const run = (
          on: NativeRunner,
          at: readonly (readonly number[])[],
          speculation: 'ngram' | 'off',
        ) =>
          generateTexts(on, at, {
            speculation,
            samplingParams: () => ({ temperature: 0, maxTokens: 24 }),
          });
        const alone = prompts.flatMap((prompt) => run(runner, [prompt], 'off').texts);
        assert.deepEqual(run(runner, prompts, 'off').texts, alone);
        assert.deepEqual(run(runner, prompts, 'ngram').texts, alone);
        // Room for not even two texts at their longest, in steps of few tokens; each comes twice.
        const numBlocks = 96 / runner.limits.blockSize;
        const few = { ...LIMITS, maxTokens: 13, maxSeqs: 5, maxLogitRows: 13, numBlocks };
        using crowded = await nativeRunner(model, settings, few);
        const twice = <T>(list: readonly T[]): T[] => list.flatMap((each) => [each, each]);
        for (const speculation of ['off', 'ngram'] as const) {
          const { texts, engine } = run(crowded, twice(prompts), speculation);
          assert.deepEqual(texts, twice(alone));
          assert.ok(engine.numPreemptions > 0 && engine.numCachedTokens > 0);
        }
      });
    }
  });
}

function engineOf(runner: NativeRunner, kvFingerprint: string): Engine {
  const tokenizer = { createDecoderStream: () => ({ push: () => '', end: () => '' }) };
  return new Engine({ runner, tokenizer, eosTokenIds: [], kvFingerprint: () => kvFingerprint });
}

function goesOn(promptTokenIds: readonly number[]): EngineRequest {
  return { promptTokenIds, samplingParams: { temperature: 0, maxTokens: 12 } };
}

function largestDifference(rows: readonly Float32Array[], others: readonly Float32Array[]): number {
  return Math.max(...rows.map((row, i) => maxAbsDifference(row, others[i]!)));
}
