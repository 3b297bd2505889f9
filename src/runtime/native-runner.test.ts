import assert from 'node:assert/strict';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import { nativeIsas, nativeRunner, skipNative } from '../../test/native-models.ts';
import { assertSameBits } from '../../test/same-bits.ts';
import { type DrivenSequence, StepDriver } from '../../test/step-driver.ts';
import { loadModelDescription, type ModelDescription } from '../models/load-model.ts';
import { InternalError } from '../platform/errors.ts';
import type { StepBatch } from '../targets/model-runner.ts';
import { StepError } from '../targets/step-batch.ts';
import type { NativeRunner } from './native-runner.ts';

const MODEL = path.join(import.meta.dirname, '../../test/fixtures/tiny-gguf/llama-q8_0.gguf');
const LIMITS = { maxTokens: 64, maxSeqs: 4, maxLogitRows: 8, maxModelLen: 64, numBlocks: 24 };
const TEXT = [5, 9, 2, 11, 7, 3, 3, 60, 41, 8, 1, 0, 22, 17, 4, 19, 33, 2, 50];

describe('native runner', { skip: skipNative }, () => {
  const resources = new DisposableStack();
  let model: ModelDescription;
  let runner: NativeRunner;
  const newRunner = () =>
    nativeRunner(model, { isa: nativeIsas[0]!, precision: 'fast', threads: 2 }, LIMITS);

  before(async () => {
    model = resources.use(loadModelDescription(MODEL));
    runner = resources.use(await newRunner());
  });
  after(() => resources.dispose());

  const broken: Record<string, (batch: StepBatch) => void> = {
    'more tokens than the limit': (b) => {
      b.numTokens = 65;
    },
    'an id beyond the vocabulary': (b) => b.tokenIds.set([1_000_000]),
    'a slot beyond the KV cache': (b) => b.slotMapping.set([24 * 16]),
    'a block beyond the KV cache': (b) => b.blockTables.set([24]),
    'a position that leaves a gap': (b) => b.positions.set([3]),
  };
  for (const [what, damage] of Object.entries(broken)) {
    it(`refuses ${what}, and goes on as if nothing had been`, () => {
      const driver = new StepDriver(runner);
      const expected = driver.logitsOfAll(TEXT.slice(0, 8));
      const { batch } = runner;
      const saved = {
        tokenIds: batch.tokenIds.slice(),
        slotMapping: batch.slotMapping.slice(),
        blockTables: batch.blockTables.slice(),
        positions: batch.positions.slice(),
        numTokens: batch.numTokens,
      };
      damage(batch);
      assert.throws(() => runner.submit(), StepError);
      batch.tokenIds.set(saved.tokenIds);
      batch.slotMapping.set(saved.slotMapping);
      batch.blockTables.set(saved.blockTables);
      batch.positions.set(saved.positions);
      batch.numTokens = saved.numTokens;
      runner.submit();
      assertSameBits(
        expected.map((_, row) => runner.logits(row).slice()),
        expected,
        'the same step again',
      );
    });
  }

  it('runs a step without tokens, and one without logits', () => {
    const driver = new StepDriver(runner);
    assert.deepEqual(driver.step([]), []);
    const sequence = driver.newSequence();
    assert.deepEqual(driver.step([{ sequence, tokenIds: [5, 9, 2], logitsOf: [] }]), []);
    const rest = driver.step([{ sequence, tokenIds: [11, 7], logitsOf: [1] }]);
    assertSameBits(rest, [driver.logitsOfAll([5, 9, 2, 11, 7]).at(-1)!], 'after a silent step');
  });

  it('knows the rows that the last step gave', () => {
    const driver = new StepDriver(runner);
    driver.logitsOfAll([5, 9]);
    assert.equal(runner.logits(1).length, model.config.vocabSize);
    for (const row of [2, -1]) {
      for (const read of [runner.logits, runner.sliceMax, runner.sliceExpSum]) {
        assert.throws(() => read.call(runner, row), StepError);
      }
    }
  });

  it('tells the largest logit of each slice, and the sum of exponentials to it', () => {
    const driver = new StepDriver(runner);
    const rows = driver.logitsOfAll(TEXT.slice(0, 8));
    for (const [row, logits] of rows.entries()) {
      for (let slice = 0; slice * runner.sliceSize < logits.length; slice++) {
        const part = logits.slice(slice * runner.sliceSize, (slice + 1) * runner.sliceSize);
        const largest = Math.max(...part);
        assert.equal(runner.sliceMax(row)[slice], largest);
        const sum = part.reduce((total, logit) => total + Math.exp(logit - largest), 0);
        const seen = runner.sliceExpSum(row)[slice]!;
        assert.ok(Math.abs(seen / sum - 1) < 1e-5, `row ${row}, slice ${slice}: ${seen}, ${sum}`);
      }
    }
  });

  it('goes on from copied blocks with the same bits', () => {
    const driver = new StepDriver(runner, { scatterBlocks: false });
    const first = driver.newSequence();
    driver.step([{ sequence: first, tokenIds: TEXT, logitsOf: [] }]);
    const copies = first.blockTable.map((_, i) => 20 + i);
    const pairs = first.blockTable.flatMap((block, i) => [block, copies[i]!]);
    runner.copyBlocks(Int32Array.from(pairs), copies.length);
    const second: DrivenSequence = { blockTable: copies, contextLen: TEXT.length };
    const [own, copied] = driver.step([
      { sequence: first, tokenIds: [6, 13], logitsOf: [1] },
      { sequence: second, tokenIds: [6, 13], logitsOf: [1] },
    ]);
    assertSameBits([copied!], [own!], 'copied blocks');
    for (const pair of [
      [0, 24],
      [-1, 0],
    ]) {
      assert.throws(() => runner.copyBlocks(Int32Array.from(pair), 1), StepError);
    }
  });

  it('goes on from blocks that were read out, in another runner, with the same bits', async () => {
    using other = await newRunner();
    const driver = new StepDriver(runner);
    const first = driver.newSequence();
    driver.step([{ sequence: first, tokenIds: TEXT, logitsOf: [] }]);
    const bytes = new Uint8Array(runner.kvBlockBytes);
    const placed = first.blockTable.map((_, i) => 17 + i);
    for (const [i, block] of first.blockTable.entries()) {
      runner.readBlock(block, bytes);
      other.writeBlock(placed[i]!, bytes);
    }
    const [own] = driver.step([{ sequence: first, tokenIds: [6, 13], logitsOf: [1] }]);
    const second: DrivenSequence = { blockTable: placed, contextLen: TEXT.length };
    const otherDriver = new StepDriver(other);
    const [moved] = otherDriver.step([{ sequence: second, tokenIds: [6, 13], logitsOf: [1] }]);
    assertSameBits([moved!], [own!], 'moved blocks');
    assert.throws(() => runner.readBlock(24, bytes), StepError);
    assert.throws(() => runner.writeBlock(0, bytes.subarray(1)), StepError);
  });

  it('says so when it is used after its end, which may come twice', async () => {
    const other = await newRunner();
    new StepDriver(other).logitsOfAll([5, 9]);
    other[Symbol.dispose]();
    other[Symbol.dispose]();
    assert.throws(() => other.submit(), InternalError);
    assert.throws(() => other.logits(0), InternalError);
    assert.throws(() => other.copyBlocks(Int32Array.of(0, 1), 1), InternalError);
  });
});
