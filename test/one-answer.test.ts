/**
 * One answer, bit for bit (DESIGN decision 12): the logits of a token do not depend on what else is in the step, on how its text was cut into steps, on the
 * number of threads, or on which rows of logits were wanted. On every level of machine code that this machine has.
 */
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import { loadModelDescription, type ModelDescription } from '../src/models/load-model.ts';
import { X64_ISAS, type X64Isa } from '../src/targets/x64/isa.ts';
import { nativeRunner, skipOf } from './native-models.ts';
import { assertSameBits } from './same-bits.ts';
import { StepDriver } from './step-driver.ts';

const FIXTURES = path.join(import.meta.dirname, 'fixtures');

const LIMITS = { maxTokens: 256, maxSeqs: 17, maxLogitRows: 256, maxModelLen: 256, numBlocks: 97 };

/** Packed 4-bit with and without minimum and 8-bit, on int8 and on f32 activations; a window and norms around each part; bf16; biases. */
const CASES: readonly { model: string; precision: 'fast' | 'f32' }[] = [
  { model: 'tiny-gguf/llama-q4_0.gguf', precision: 'fast' },
  { model: 'tiny-gguf/llama-q4_0.gguf', precision: 'f32' },
  { model: 'tiny-gguf/llama-q4_1.gguf', precision: 'fast' },
  { model: 'tiny-gguf/llama-q8_0.gguf', precision: 'fast' },
  { model: 'tiny-gguf/llama-q8_0.gguf', precision: 'f32' },
  { model: 'tiny/gemma3', precision: 'fast' },
  { model: 'tiny/llama-bf16', precision: 'f32' },
  { model: 'tiny/qwen2', precision: 'f32' },
];

/** Around the sizes of a KV block and of an attention tile. */
const LENGTHS = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 18, 6, 47];
const LONG = 150;
const CHUNK_SIZES = [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17, 24, 33, 64];
const BATCH_SIZES = [1, 2, 5, 17];
/** Up to more threads than there are cores, which must still come to an end: slowly, so the last ones not for every model. */
const THREADS = [2, 3, availableParallelism() + 2];
const CROWDED_MODELS = ['tiny-gguf/llama-q4_0.gguf', 'tiny/gemma3'];

/** Ids below 64, which every tiny model has; the same for the same `seed`. */
function text(length: number, seed: number): number[] {
  return Array.from({ length }, (_, i) => ((i + 1) * (2 * seed + 7) * 31 + seed) % 61);
}

const TEXTS = LENGTHS.map(text);
const LONG_TEXT = text(LONG, 99);

interface Answers {
  /** Of the last token of each text. */
  readonly texts: readonly Float32Array[];
  /** Of every token. */
  readonly long: readonly Float32Array[];
}

/** Each text in one step of its own. */
function answersAlone(driver: StepDriver): Answers {
  return {
    texts: TEXTS.map((ids) => driver.logitsOfAll(ids).at(-1)!),
    long: driver.logitsOfAll(LONG_TEXT),
  };
}

function suite(isa: X64Isa, { model: name, precision }: (typeof CASES)[number]): void {
  describe(`${isa}, ${precision}: ${name}`, { skip: skipOf(isa) }, () => {
    const resources = new DisposableStack();
    let model: ModelDescription;
    let driver: StepDriver;
    let alone: Answers;
    const runnerOn = (threads: number) => nativeRunner(model, { isa, precision, threads }, LIMITS);

    before(async () => {
      model = resources.use(loadModelDescription(path.join(FIXTURES, name)));
      driver = new StepDriver(resources.use(await runnerOn(1)));
      alone = answersAlone(driver);
    });
    after(() => resources.dispose());

    it('gives a text the same bits in steps of any size', () => {
      for (const size of CHUNK_SIZES) {
        assertSameBits(driver.logitsOfAll(LONG_TEXT, size), alone.long, `in steps of ${size}`);
      }
    });

    it('gives the same bits whatever else is in the step', () => {
      for (const size of BATCH_SIZES) {
        for (let start = 0; start < TEXTS.length; start += size) {
          const together = driver.step(
            TEXTS.slice(start, start + size).map((tokenIds) => ({
              sequence: driver.newSequence(),
              tokenIds,
              logitsOf: [tokenIds.length - 1],
            })),
          );
          const what = `${size} texts together from text ${start}`;
          assertSameBits(together, alone.texts.slice(start, start + size), what);
        }
      }
    });

    it('gives the same bits beside sequences that are at another stage', () => {
      const long = driver.newSequence();
      const rows: Float32Array[] = [];
      for (let start = 0, turn = 0; start < LONG; turn++) {
        const other = driver.newSequence();
        const tokenIds = LONG_TEXT.slice(start, start + 1 + (turn % 11));
        const beside = TEXTS[turn % TEXTS.length]!;
        const parts = [
          { sequence: long, tokenIds, logitsOf: tokenIds.map((_, i) => i) },
          { sequence: other, tokenIds: beside, logitsOf: [beside.length - 1] },
        ];
        const isFirst = turn % 2 === 0;
        const logits = driver.step(isFirst ? parts : parts.toReversed());
        const own = isFirst ? logits.slice(0, -1) : logits.slice(1);
        const others = isFirst ? logits.slice(-1) : logits.slice(0, 1);
        assertSameBits(others, [alone.texts[turn % TEXTS.length]!], `beside, turn ${turn}`);
        rows.push(...own);
        start += tokenIds.length;
      }
      assertSameBits(rows, alone.long, 'beside others');
    });

    it('gives the same bits whichever rows of logits are wanted', () => {
      for (const logitsOf of [[LONG - 1], [0], [3, 4], [0, 50, LONG - 1]]) {
        const sequence = driver.newSequence();
        const logits = driver.step([{ sequence, tokenIds: LONG_TEXT, logitsOf }]);
        const expected = logitsOf.map((row) => alone.long[row]!);
        assertSameBits(logits, expected, `rows ${logitsOf}`);
      }
    });

    for (const threads of THREADS) {
      if (threads > availableParallelism() && !CROWDED_MODELS.includes(name)) continue;
      it(`gives the same bits on ${threads} threads`, async () => {
        using runner = await runnerOn(threads);
        const other = new StepDriver(runner);
        assertSameBits(other.logitsOfAll(LONG_TEXT), alone.long, 'at once');
        const begin = LONG_TEXT.slice(0, 20);
        assertSameBits(other.logitsOfAll(begin, 1), alone.long.slice(0, 20), 'by tokens');
        assertSameBits(other.logitsOfAll(begin, 7), alone.long.slice(0, 20), 'by chunks');
      });
    }
  });
}

/** Contexts long enough to be split over threads in decoding, and walked at once in a prompt. */
function splitContextSuite(isa: X64Isa, name: string): void {
  describe(`${isa}: ${name}, contexts of several spans`, { skip: skipOf(isa) }, () => {
    const numTokens = 700;
    const long = text(numTokens, 5);
    const limits = { ...LIMITS, maxTokens: 768, maxLogitRows: 24, maxModelLen: 768 };
    const last = 20;

    /** Logits of the last tokens, after a prompt of all before them in steps of `promptStep`, in steps of `size`. */
    function lastLogits(driver: StepDriver, promptStep: number, size: number, beside: boolean) {
      const sequence = driver.newSequence();
      const run = (from: number, to: number, wanted: boolean): Float32Array[] => {
        const tokenIds = long.slice(from, to);
        const logitsOf = wanted ? tokenIds.map((_, i) => i) : [];
        const other = { sequence: driver.newSequence(), tokenIds: TEXTS[4]!, logitsOf: [] };
        return driver.step([{ sequence, tokenIds, logitsOf }, ...(beside ? [other] : [])]);
      };
      const prompt = numTokens - last;
      for (let at = 0; at < prompt; at += promptStep) {
        run(at, Math.min(prompt, at + promptStep), false);
      }
      const rows: Float32Array[] = [];
      for (let at = prompt; at < numTokens; at += size) rows.push(...run(at, at + size, true));
      return rows;
    }

    it('gives the same bits however the steps and the context are cut', async () => {
      using short = loadModelDescription(path.join(FIXTURES, name));
      // Longer than it was trained for: its text is of no interest.
      const config = { ...short.config, maxPositionEmbeddings: limits.maxModelLen };
      const model = { config, weights: short.weights };
      const options = { isa, precision: 'fast' } as const;
      using alone = await nativeRunner(model, { ...options, threads: 1 }, limits);
      const expected = lastLogits(new StepDriver(alone), numTokens, last, false);
      for (const threads of [1, 2]) {
        using runner = await nativeRunner(model, { ...options, threads }, limits);
        const driver = new StepDriver(runner);
        for (const [promptStep, size] of [
          [numTokens, 1],
          [100, 2],
          [256, 5],
          [300, 10],
        ] as const) {
          for (const beside of [false, true]) {
            const what = `${threads} threads, prompt by ${promptStep}, then by ${size}`;
            assertSameBits(lastLogits(driver, promptStep, size, beside), expected, what);
          }
        }
      }
    });
  });
}

for (const isa of X64_ISAS) for (const one of CASES) suite(isa, one);
for (const isa of X64_ISAS) for (const name of CROWDED_MODELS) splitContextSuite(isa, name);
