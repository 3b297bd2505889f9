/**
 * Drafted tokens are checked by the compiled model as it would have computed them one by one: texts with and without speculation are equal, on tiny
 * models of several formats and on SmolLM2 where the cache has it.
 */
import assert from 'node:assert/strict';
import path from 'node:path';
import { test } from 'node:test';
import { OpenedModel } from '../src/app/open-model.ts';
import type { Speculation } from '../src/engine/draft-source.ts';
import type { SpeculationStats } from '../src/engine/speculator.ts';
import { hubEnvironmentFrom } from '../src/hub/environment.ts';
import { ModelUnavailableError } from '../src/hub/errors.ts';
import { resolveModel } from '../src/hub/resolve.ts';
import type { ModelRunner } from '../src/targets/model-runner.ts';
import { generateTexts } from './generate-texts.ts';
import { nativeIsas, nativeRunner, skipNative } from './native-models.ts';

const FIXTURES = path.join(import.meta.dirname, 'fixtures');
const LIMITS = { maxTokens: 64, maxSeqs: 12, maxLogitRows: 24, maxModelLen: 256, numBlocks: 90 };

function compare(
  runner: ModelRunner,
  prompts: readonly (readonly number[])[],
  logitBias: Readonly<Record<string, number>> = {},
): SpeculationStats {
  const texts = (speculation: Speculation) =>
    generateTexts(runner, prompts, {
      speculation,
      samplingParams: (i) => ({
        ...{ temperature: i % 2 === 0 ? 0 : 0.4, seed: i },
        ...{ maxTokens: 60, logitBias },
      }),
    });
  const plain = texts('off');
  const drafted = texts('ngram');
  assert.deepEqual(drafted.texts, plain.texts);
  return drafted.stats!;
}

for (const name of [
  'tiny-gguf/llama-q4_0.gguf',
  'tiny-gguf/llama-q8_0.gguf',
  'tiny/gemma3',
  'tiny/qwen2',
]) {
  for (const precision of ['fast', 'f32'] as const) {
    test(`${name}, ${precision}: the same texts with drafts and without`, {
      skip: skipNative,
    }, async () => {
      using model = new OpenedModel(path.join(FIXTURES, name), { maxModelLen: LIMITS.maxModelLen });
      const { vocabSize } = model.description.config;
      using runner = await nativeRunner(
        model.description,
        { isa: nativeIsas[0]!, precision, threads: 2 },
        LIMITS,
      );
      const prompts = Array.from({ length: 8 }, (_, p) =>
        Array.from(
          { length: 30 + 7 * p },
          (_, i) => (((i % (5 + p)) * 37 + p) % (vocabSize - 3)) + 1,
        ),
      );
      // Models without sense repeat nothing; of four words they cannot help it.
      const stats = compare(runner, prompts, { 5: 30, 6: 30, 9: 30, 12: 30 });
      assert.ok(stats.numDraftTokens > 50, `${stats.numDraftTokens} drafted tokens`);
    });
  }
}

test('SmolLM2 copies a text: the same with drafts and without', { skip: skipNative }, async (t) => {
  const offline = process.env.HASTEN_REQUIRE_MODELS !== '1';
  const env = hubEnvironmentFrom(process.env);
  const found = await resolveModel('smollm2', { env, offline }).catch((error: unknown) => {
    if (error instanceof ModelUnavailableError && offline) return null;
    throw error;
  });
  if (found === null) {
    t.skip('SmolLM2 is not in the cache');
    return;
  }
  using model = new OpenedModel(found.path, { maxModelLen: LIMITS.maxModelLen });
  const tokenizer = model.requireTokenizer();
  const sentence = 'The quick brown fox jumps over the lazy dog by the river bank at dawn. ';
  const prompts = [4, 3].map((count) => tokenizer.encode(sentence.repeat(count)));
  const settings = { isa: nativeIsas[0]!, precision: 'fast', threads: 2 } as const;
  using runner = await nativeRunner(model.description, settings, LIMITS);
  const stats = compare(runner, prompts);
  // How many depends on what steps cost here and now: drafts stop where they do not pay.
  assert.ok(stats.numAcceptedTokens > 0, `${stats.numAcceptedTokens} accepted tokens`);
});
