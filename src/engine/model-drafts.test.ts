import assert from 'node:assert/strict';
import test from 'node:test';
import { MAX_DRAFT_TOKENS } from './draft-source.ts';
import { EngineCore } from './engine-core.ts';
import { DraftModelError } from './errors.ts';
import { ModelDraftSource } from './model-drafts.ts';
import { type EngineRequest, prepareRequest } from './request.ts';
import { byteTokenizer } from './testing/byte-decoder.ts';
import { MockRunner, type MockRunnerOptions } from './testing/mock-runner.ts';
import { TokenList } from './token-list.ts';

const LIMITS = { maxModelLen: 2000, numBlocks: 600, maxLogitRows: 16, maxTokens: 64 };
/** Sure of its tokens, whatever they are. */
const SURE = { spread: 200, limits: LIMITS };
const prompt = Array.from({ length: 90 }, (_, i) => (i * i + 3) % 40);

/** Milliseconds of a step of the model by its rows, and of the draft model by its tokens. */
const stepMs = (rows: number): number => 20 + rows;
const draftStepMs = (tokens: number): number => 2 + 0.1 * tokens;

/** Runs requests to their end on a clock that only steps move. */
function run(
  requests: readonly EngineRequest[],
  model: MockRunnerOptions,
  draft: MockRunnerOptions | null,
  maxDraftTokens?: number,
) {
  let ms = 0;
  let mostDrafted = 0;
  const runner = new MockRunner({
    ...model,
    onStep: (_, batch) => {
      ms += stepMs(batch.numTokens);
      mostDrafted = Math.max(mostDrafted, batch.numLogitRows - 1);
    },
  });
  const draftRunner =
    draft === null
      ? null
      : new MockRunner({
          ...draft,
          onStep: (_, batch) => {
            ms += draftStepMs(batch.numTokens);
          },
        });
  const core = new EngineCore({
    runner,
    draftRunner,
    maxDraftTokens,
    speculation: draft === null ? 'off' : 'ngram',
    tokenizer: byteTokenizer,
    eosTokenIds: [],
    now: () => ms,
  });
  for (const [i, request] of requests.entries()) {
    core.submit(prepareRequest({ requestId: `${i}`, ...request }, runner.limits));
  }
  const texts = requests.map((): number[] => []);
  while (core.hasWork) {
    core.begin();
    core.finish();
    for (const event of core.takeEvents()) {
      if (event.type === 'token') texts[Number(event.requestId)]!.push(event.tokenId);
    }
  }
  return { texts, ms, numSteps: runner.numSteps, mostDrafted, stats: core.stats().speculation };
}

const request = {
  promptTokenIds: prompt,
  samplingParams: { temperature: 0, maxTokens: 300 },
};

test('the model itself as its draft model: everything is accepted, in a fraction of the steps', () => {
  const plain = run([request], SURE, null);
  const drafted = run([request], SURE, SURE);
  assert.deepEqual(drafted.texts, plain.texts);
  const { numDraftTokens, numAcceptedTokens } = drafted.stats!;
  assert.ok(numDraftTokens > 200, `${numDraftTokens} drafted`);
  assert.equal(numAcceptedTokens, numDraftTokens);
  assert.ok(drafted.ms * 1.8 < plain.ms, `${plain.ms} ms became ${drafted.ms} ms`);
  const few = run([request], SURE, SURE, 3);
  assert.deepEqual([few.texts, few.mostDrafted], [plain.texts, 3]);
});

test('a draft model of no use: the same text, hardly slower, and it is tried less and less', () => {
  // As sure, and of something else.
  const other = {
    ...SURE,
    editLogits: (logits: Float32Array, context: readonly number[]) => {
      logits[(context.length * 7) % 40] = 500;
    },
  };
  const long = { ...request, samplingParams: { temperature: 0, maxTokens: 1500 } };
  const plain = run([long], SURE, null);
  const drafted = run([long], SURE, other);
  assert.deepEqual(drafted.texts, plain.texts);
  const { numDraftTokens, numAcceptedTokens } = drafted.stats!;
  assert.ok(numDraftTokens > 0 && numDraftTokens < 200, `${numDraftTokens} drafted`);
  assert.ok(numAcceptedTokens < 0.2 * numDraftTokens);
  assert.ok(drafted.ms < 1.03 * plain.ms, `${plain.ms} ms became ${drafted.ms} ms`);
});

test('several streams, penalties and temperatures: the texts stay', () => {
  const requests = Array.from({ length: 6 }, (_, i) => ({
    promptTokenIds: prompt.slice(0, 20 + 10 * i),
    samplingParams: {
      temperature: i % 3 === 0 ? 0 : 0.8,
      seed: i,
      maxTokens: 120,
      repetitionPenalty: i % 2 === 0 ? 1.2 : 1,
      presencePenalty: i % 2 === 0 ? 0.5 : 0,
    },
  }));
  const plain = run(requests, SURE, null);
  const drafted = run(requests, SURE, SURE);
  assert.deepEqual(drafted.texts, plain.texts);
  const { numAcceptedTokens, numDraftTokens } = drafted.stats!;
  assert.ok(numAcceptedTokens > 100, `${numAcceptedTokens} of ${numDraftTokens} accepted`);
  assert.ok(drafted.ms < plain.ms, `${plain.ms} ms became ${drafted.ms} ms`);
});

test('keeps blocks for a sequence until that is dropped, and finds them again', () => {
  let now = 0;
  const runner = new MockRunner({ ...SURE, onStep: () => now++ });
  const source = new ModelDraftSource(runner, 40, () => now);
  const drafter = source.open();
  const tokens = new TokenList(prompt);
  assert.equal(drafter.look(tokens), null, 'the prompt is to be read first');
  for (let i = 0; i < 20 && drafter.look(tokens) === null; i++) source.catchUp(1000);
  assert.equal(drafter.look(tokens), 0);
  const order = { drafter, maxTokens: 5, into: new Int32Array(MAX_DRAFT_TOKENS), numTokens: 0 };
  source.draft([order], 1);
  assert.equal(order.numTokens, 5);
  const first = [...order.into.subarray(0, 5)];
  assert.ok(source.numFreeBlocks < LIMITS.numBlocks);
  drafter.look(tokens);
  drafter.drop();
  assert.equal(source.numFreeBlocks, LIMITS.numBlocks);
  const numSteps = runner.numSteps;
  assert.equal(drafter.look(tokens), 0, 'the prefix cache holds the prompt');
  source.draft([order], 1);
  assert.deepEqual([...order.into.subarray(0, 5)], first);
  assert.equal(runner.numSteps, numSteps + 5);
});

test('where its KV cache is full or its context ends, nothing is drafted', () => {
  const plain = run([request], SURE, null);
  for (const limits of [{ numBlocks: 12 }, { maxModelLen: 130 }]) {
    const small = { ...SURE, limits: { ...LIMITS, ...limits } };
    assert.deepEqual(run([request], SURE, small).texts, plain.texts);
  }
});

test('a draft model with another vocabulary is refused, with the numbers', () => {
  const runner = new MockRunner({ limits: { vocabSize: 41 } });
  assert.throws(
    () => new ModelDraftSource(runner, 40, () => 0),
    (error: Error) => error instanceof DraftModelError && /41 .*40/.test(error.message),
  );
});
