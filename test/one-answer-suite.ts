/**
 * One answer, bit for bit (docs/architecture.md, principle 5), as a suite for any model: the logits of a token do not depend on what else is in the step, on how its text was
 * cut into steps, on the number of threads, or on which rows of logits were wanted.
 */
import { after, before, describe, it } from 'node:test';
import type { KvType } from '../src/kernels/kv-layout.ts';
import { loadModelDescription, type ModelDescription } from '../src/models/load-model.ts';
import type { X64Isa } from '../src/targets/x64/isa.ts';
import { nativeRunner, skipOf } from './native-models.ts';
import { assertSameBits } from './same-bits.ts';
import { StepDriver } from './step-driver.ts';

/** How much of everything; a large model takes less. */
export interface OneAnswerSizes {
  /** Tokens of the texts that are run together. */
  readonly lengths: readonly number[];
  /** Tokens of the text that is cut into steps. */
  readonly longLength: number;
  readonly chunkSizes: readonly number[];
  readonly batchSizes: readonly number[];
  readonly threads: readonly number[];
  /** Tokens of a context that attention may share out, or null: more than two spans of 256. */
  readonly deepLength: number | null;
  /** How that is cut: tokens of a step before its last rows, and of a step with them. */
  readonly deepCuts?: readonly (readonly [promptStep: number, step: number])[];
}

export interface OneAnswerCase {
  readonly name: string;
  readonly path: string;
  readonly isa: X64Isa;
  readonly precision: 'fast' | 'f32';
  /** Left out: what goes with the precision. */
  readonly kvType?: KvType;
  /** Where packed weights are kept; left out: nowhere. */
  readonly planCacheFolder?: string | null;
}

/** Rows of logits that are compared at the end of a deep context. */
const LAST_ROWS = 10;

/** Ids below 61, which every model has; the same for the same `seed`. */
function text(length: number, seed: number): number[] {
  return Array.from({ length }, (_, i) => ((i + 1) * (2 * seed + 7) * 31 + seed + (i >> 4)) % 61);
}

export function oneAnswerSuite(
  { name, path, isa, precision, kvType, planCacheFolder = null }: OneAnswerCase,
  sizes: OneAnswerSizes,
) {
  const { lengths, longLength, chunkSizes, batchSizes, threads, deepLength, deepCuts = [] } = sizes;
  const texts = lengths.map(text);
  const longText = text(longLength, 99);
  const numTokens = lengths.reduce((sum, length) => sum + length, 0);
  const numBlocks = lengths.reduce((sum, length) => sum + Math.ceil(length / 16), 0);
  const modelLen = Math.max(longLength + 1, (deepLength ?? 0) + 1, numTokens);
  const limits = {
    maxTokens: modelLen,
    maxSeqs: lengths.length + 1,
    maxLogitRows: longLength + lengths.length,
    maxModelLen: modelLen,
    // The driver hands blocks out in turn: none comes again while its sequence is in use.
    numBlocks: Math.ceil(modelLen / 16) + (LAST_ROWS + 1) * numBlocks,
  };

  describe(`${isa}, ${precision}${kvType ? `, ${kvType} cache` : ''}: ${name}`, {
    skip: skipOf(isa),
  }, () => {
    const resources = new DisposableStack();
    let model: Pick<ModelDescription, 'config' | 'weights'>;
    let driver: StepDriver;
    /** Logits of the last token of each text, each run alone in one step; and of every token of the long one. */
    let alone: Float32Array[];
    let long: Float32Array[];
    const runnerOn = (numThreads: number) =>
      nativeRunner(
        model,
        { isa, precision, planCacheFolder, threads: numThreads, ...(kvType && { kvType }) },
        limits,
      );

    before(async () => {
      const { config, weights } = resources.use(loadModelDescription(path));
      // Positions beyond what a tiny model was made for are as good as others here.
      const maxPositionEmbeddings = Math.max(modelLen, config.maxPositionEmbeddings);
      model = { config: { ...config, maxPositionEmbeddings }, weights };
      driver = new StepDriver(resources.use(await runnerOn(1)));
      alone = texts.map((ids) => lastLogits(driver, ids));
      long = driver.logitsOfAll(longText);
    });
    after(() => resources.dispose());

    it('gives a text the same bits in steps of any size', () => {
      for (const size of chunkSizes) {
        assertSameBits(driver.logitsOfAll(longText, size), long, `in steps of ${size}`);
      }
    });

    it('gives the same bits whatever else is in the step', () => {
      for (const size of batchSizes) {
        for (let start = 0; start < texts.length; start += size) {
          const parts = texts.slice(start, start + size).map((ids) => wholeText(driver, ids));
          const what = `${size} texts together from text ${start}`;
          assertSameBits(driver.step(parts), alone.slice(start, start + size), what);
        }
      }
    });

    it('gives the same bits beside sequences that are at another stage', () => {
      const sequence = driver.newSequence();
      const rows: Float32Array[] = [];
      for (let start = 0, turn = 0; start < longLength; turn++) {
        const tokenIds = longText.slice(start, start + 1 + (turn % 11));
        const own = { sequence, tokenIds, logitsOf: tokenIds.map((_, i) => i) };
        const besides = wholeText(driver, texts[turn % texts.length]!);
        const isFirst = turn % 2 === 0;
        const logits = driver.step(isFirst ? [own, besides] : [besides, own]);
        const other = isFirst ? logits.pop()! : logits.shift()!;
        assertSameBits([other], [alone[turn % texts.length]!], `beside, turn ${turn}`);
        rows.push(...logits);
        start += tokenIds.length;
      }
      assertSameBits(rows, long, 'beside others');
    });

    it('gives the same bits whichever rows of logits are wanted', () => {
      for (const logitsOf of [[longLength - 1], [0], [3, 4], [0, 50, longLength - 1]]) {
        const part = { sequence: driver.newSequence(), tokenIds: longText, logitsOf };
        const expected = logitsOf.map((row) => long[row]!);
        assertSameBits(driver.step([part]), expected, `rows ${logitsOf}`);
      }
    });

    for (const numThreads of threads) {
      it(`gives the same bits on ${numThreads} threads`, async () => {
        using runner = await runnerOn(numThreads);
        const other = new StepDriver(runner);
        assertSameBits(other.logitsOfAll(longText), long, 'at once');
        const begin = longText.slice(0, 20);
        assertSameBits(other.logitsOfAll(begin, 1), long.slice(0, 20), 'by tokens');
        assertSameBits(other.logitsOfAll(begin, 7), long.slice(0, 20), 'by chunks');
      });
    }

    if (deepLength === null) return;
    for (const numThreads of [1, 2]) {
      // Few sequences share out the spans of their contexts, many walk them at once; prompts walk them at once, or from where the last step ended.
      it(`gives the same bits deep in a long context, however it is cut, on ${numThreads} threads`, async () => {
        const deep = text(deepLength, 5);
        const expected = lastRows(driver, deep, { promptStep: deepLength, step: LAST_ROWS });
        using runner = await runnerOn(numThreads);
        const other = new StepDriver(runner);
        for (const [promptStep, step] of deepCuts) {
          for (const besides of [[], [texts[4 % texts.length]!], texts]) {
            const rows = lastRows(other, deep, { promptStep, step, besides });
            const what = `prompt by ${promptStep}, then by ${step}, beside ${besides.length}`;
            assertSameBits(rows, expected, what);
          }
        }
      });
    }
  });
}

function wholeText(driver: StepDriver, tokenIds: readonly number[]) {
  return { sequence: driver.newSequence(), tokenIds, logitsOf: [tokenIds.length - 1] };
}

function lastLogits(driver: StepDriver, tokenIds: readonly number[]): Float32Array {
  return driver.step([wholeText(driver, tokenIds)])[0]!;
}

interface Cut {
  /** Tokens of a step before the last rows, and of a step with them. */
  readonly promptStep: number;
  readonly step: number;
  /** Texts that are in the steps of the last rows too, each time from their beginning. */
  readonly besides?: readonly (readonly number[])[];
}

/** Logits of the last rows of a text. */
function lastRows(
  driver: StepDriver,
  tokenIds: readonly number[],
  { promptStep, step, besides = [] }: Cut,
): Float32Array[] {
  const sequence = driver.newSequence();
  const prompt = tokenIds.length - LAST_ROWS;
  for (let at = 0; at < prompt; at += promptStep) {
    const chunk = tokenIds.slice(at, Math.min(prompt, at + promptStep));
    driver.step([{ sequence, tokenIds: chunk, logitsOf: [] }]);
  }
  const rows: Float32Array[] = [];
  for (let at = prompt; at < tokenIds.length; at += step) {
    const chunk = tokenIds.slice(at, at + step);
    const own = { sequence, tokenIds: chunk, logitsOf: chunk.map((_, i) => i) };
    const others = besides.map((ids) => wholeText(driver, ids));
    rows.push(...driver.step([own, ...others]).slice(0, chunk.length));
  }
  return rows;
}
