/**
 * How fast attention over the paged cache is: decoding beside the rate at which the same memory can be read, prompts beside the peak of multiply-adds.
 * Attention and plain reading take turns in parts of a fraction of a millisecond. Shown are the median, and before it the limit of the fastest quarter:
 * the figure of a machine that others use at times.
 *
 *   node bench/kernels/attention.ts [--isa avx2] [--threads 1] [--seconds 3] [--only decode | prompt] [--shape GLM] [--tile 4] [--no-doc]
 */
import { parseArgs } from 'node:util';
import { detectCpu } from '../../src/targets/x64/cpu-features.ts';
import { machineOf, type X64Isa, x64Isas } from '../../src/targets/x64/isa.ts';
import { shownCommand } from '../lib/command.ts';
import { writeSection } from '../lib/doc-section.ts';
import { median } from '../lib/statistics.ts';
import { markdownTable } from '../lib/table.ts';
import { measureRate } from '../machine/measure-peak.ts';
import { fmaKernel } from '../machine/peak-kernels.ts';
import { type AttentionCase, attentionRun } from './attention-case.ts';

const SHAPES = {
  'SmolLM2 135M, 9/3 x 64': { numHeads: 9, numKvHeads: 3, headDim: 64 },
  'TinyLlama 1.1B, 32/4 x 64': { numHeads: 32, numKvHeads: 4, headDim: 64 },
  'GLM-4 9B, 32/2 x 128': { numHeads: 32, numKvHeads: 2, headDim: 128 },
  'Qwen3 8B, 32/8 x 128': { numHeads: 32, numKvHeads: 8, headDim: 128 },
  '8/8 x 128': { numHeads: 8, numKvHeads: 8, headDim: 128 },
} as const;
const DECODE_CONTEXTS = [128, 512, 4096, 16384];
const PROMPTS = [
  { contextLen: 512, queryLen: 512 },
  { contextLen: 8192, queryLen: 512 },
];

const { values: args } = parseArgs({
  options: {
    isa: { type: 'string' },
    threads: { type: 'string' },
    seconds: { type: 'string', default: '3' },
    only: { type: 'string' },
    shape: { type: 'string', default: '' },
    tile: { type: 'string' },
    'no-doc': { type: 'boolean', default: false },
  },
});
const isa = (args.isa ?? x64Isas(detectCpu())[0]) as X64Isa;
const machine = machineOf(isa);
const threads = args.threads ? [Number(args.threads)] : [1, 2];

/** As the planner chooses it. */
function tileTokensOf({ numHeads, numKvHeads }: { numHeads: number; numKvHeads: number }): number {
  if (args.tile) return Number(args.tile);
  return Math.max(1, Math.min(16, Math.floor((16 * numKvHeads) / numHeads)));
}

/** The slowest of the fastest quarter. */
const quiet = (times: readonly number[]): number =>
  times.toSorted((a, b) => a - b)[times.length >> 2]!;

/** Milliseconds of all parts: each part's quiet time, or its median. */
interface Times {
  readonly quiet: number;
  readonly median: number;
}

async function timesOf(one: AttentionCase, numThreads: number) {
  using run = await attentionRun(machine, numThreads, one, tileTokensOf(one));
  const attend = Array.from({ length: run.numParts }, (): number[] => []);
  const read: number[] = [];
  const deadline = performance.now() + 1000 * Number(args.seconds);
  for (let round = 0; round < 5 || performance.now() < deadline; round++) {
    attend.forEach((times, part) => {
      times.push(run.attend(part));
      if (one.queryLen === 1) read.push(run.read(part));
    });
  }
  const total = (of: (times: readonly number[]) => number): number =>
    attend.reduce((sum, times) => sum + of(times), 0);
  return {
    run,
    attend: { quiet: total(quiet), median: total(median) } satisfies Times,
    read: { quiet: quiet(read), median: median(read.length > 0 ? read : [0]) } satisfies Times,
  };
}

/** Multiply-adds, operations per second by number of threads. */
const peaks = new Map<number, number>();
for (const numThreads of threads) {
  const peak = await measureRate(fmaKernel(machine), {
    ...{ numThreads, rounds: 20, iterations: 20_000 },
  });
  peaks.set(numThreads, peak.best);
}

const sections: string[] = [];
const percent = (share: number): string => (100 * share).toFixed(0);
const n1 = (value: number): string => value.toFixed(1);
if (args.only !== 'prompt') {
  const rows: string[][] = [];
  for (const [name, shape] of Object.entries(SHAPES)) {
    if (!name.includes(args.shape)) continue;
    for (const contextLen of DECODE_CONTEXTS) {
      for (const numThreads of threads) {
        const one = { ...shape, window: null, contextLen, queryLen: 1 };
        const { run, attend, read } = await timesOf(one, numThreads);
        const rate = (ms: number): number => run.kvBytes / ms / 1e6;
        rows.push([
          name,
          `${contextLen}`,
          `${numThreads}`,
          n1((attend.quiet * 1e3) / run.numLayers),
          `${n1(rate(attend.quiet))} (${n1(rate(attend.median))})`,
          `${n1(rate(read.quiet))} (${n1(rate(read.median))})`,
          percent(read.quiet / attend.quiet),
          n1(run.flops / attend.quiet / 1e6),
          percent((run.flops / attend.quiet) * (1e3 / peaks.get(numThreads)!)),
        ]);
      }
    }
  }
  sections.push(
    `Decoding, ${isa}:\n\n${markdownTable(
      [
        ...['heads', 'context', 'threads', 'µs a layer', 'GB/s (median)', 'plain read', '%'],
        ...['GFLOP/s', '% of peak'],
      ],
      rows,
    )}\n\nWhere many query heads share a head of keys, multiply-adds bound it and not reading.`,
  );
}
if (args.only !== 'decode') {
  const rows: string[][] = [];
  for (const numThreads of threads) {
    const peak = peaks.get(numThreads)!;
    for (const [name, shape] of Object.entries(SHAPES)) {
      if (!name.includes(args.shape)) continue;
      for (const prompt of PROMPTS) {
        const { run, attend } = await timesOf({ ...shape, window: null, ...prompt }, numThreads);
        const rate = (ms: number): number => run.flops / ms / 1e6;
        rows.push([
          name,
          `${prompt.queryLen} of ${prompt.contextLen}`,
          `${numThreads}`,
          attend.quiet.toFixed(2),
          `${n1(rate(attend.quiet))} (${n1(rate(attend.median))})`,
          n1(peak / 1e9),
          percent((rate(attend.quiet) * 1e9) / peak),
        ]);
      }
    }
  }
  sections.push(
    `Prompts, ${isa}:\n\n${markdownTable(
      ['heads', 'tokens', 'threads', 'ms a layer', 'GFLOP/s (median)', 'peak', '%'],
      rows,
    )}`,
  );
}
const text = [`\`${shownCommand('bench/kernels/attention.ts')}\``, ...sections].join('\n\n');
console.log(text);
if (!args['no-doc']) writeSection('kernels/attention', text);
