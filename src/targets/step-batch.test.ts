import assert from 'node:assert/strict';
import { it } from 'node:test';
import type { StepBatch } from './model-runner.ts';
import { createStepBatch, StepError, validateStepBatch } from './step-batch.ts';

const LIMITS = {
  maxTokens: 8,
  maxSeqs: 2,
  maxLogitRows: 4,
  maxModelLen: 16,
  blockSize: 4,
  numBlocks: 6,
  vocabSize: 100,
  hiddenSize: 8,
};

/** Two sequences: five tokens from the start, and one token at position 6. */
function goodBatch(): StepBatch {
  const batch = createStepBatch(LIMITS);
  Object.assign(batch, { numTokens: 6, numSeqs: 2, numLogitRows: 2 });
  batch.tokenIds.set([1, 2, 3, 4, 5, 99]);
  batch.positions.set([0, 1, 2, 3, 4, 6]);
  batch.slotMapping.set([8, 9, 10, 11, 20, 2]);
  batch.queryStarts.set([0, 5, 6]);
  batch.contextLens.set([5, 7]);
  batch.blockTables.set([2, 5, 0, 0, 3, 0, 0, 0]);
  batch.logitRows.set([4, 5]);
  return batch;
}

it('accepts a sound batch, and an empty one', () => {
  validateStepBatch(goodBatch(), LIMITS);
  validateStepBatch(createStepBatch(LIMITS), LIMITS);
});

const broken: Record<string, [(batch: StepBatch) => void, RegExp]> = {
  'too many tokens': [
    (b) => {
      b.numTokens = 9;
    },
    /numTokens is 9; expected .* up to 8/,
  ],
  'an id beyond the vocabulary': [
    (b) => b.tokenIds.set([100]),
    /tokenIds\[0\] is 100; expected 0 to 99/,
  ],
  'a negative id': [(b) => b.tokenIds.set([-1]), /tokenIds\[0\] is -1/],
  'a slot beyond the pool': [
    (b) => b.slotMapping.set([24]),
    /slotMapping\[0\] is 24; expected 0 to 23/,
  ],
  'a position beyond the model': [
    (b) => b.positions.set([16]),
    /positions\[0\] is 16; expected 0 to 15/,
  ],
  'positions with a gap': [(b) => b.positions.set([0, 2]), /positions\[1\] is 2; expected 1/],
  'a context that does not end at the last token': [
    (b) => b.contextLens.set([6]),
    /positions\[0\] is 0; expected 1/,
  ],
  'query starts that do not end at the tokens': [
    (b) => b.queryStarts.set([0, 5, 5]),
    /queryStarts go from 0 to 5; expected 0 to numTokens, 6/,
  ],
  'a block beyond the pool': [
    (b) => b.blockTables.set([6]),
    /blockTables\[0\] is 6; expected 0 to 5/,
  ],
  'a logit row beyond the tokens': [
    (b) => b.logitRows.set([4, 6]),
    /logitRows\[1\] is 6; expected 0 to 5/,
  ],
  'logit rows out of order': [
    (b) => b.logitRows.set([5, 4]),
    /logitRows\[1\] is 4 after 5; expected ascending/,
  ],
};

for (const [what, [damage, message]] of Object.entries(broken)) {
  it(`refuses ${what}`, () => {
    const batch = goodBatch();
    damage(batch);
    assert.throws(
      () => validateStepBatch(batch, LIMITS),
      (error) => error instanceof StepError && message.test(error.message),
    );
  });
}
