/** `hasten bench`: prefill and decode speed. */
import { setImmediate } from 'node:timers/promises';
import type { Command } from 'commander';
import { type BenchmarkTest, runBenchmark } from '../../app/benchmark.ts';
import { OpenedModel } from '../../app/open-model.ts';
import { weightBytesPerStep } from '../../app/weight-traffic.ts';
import { stepGraphOf } from '../../models/step-graph.ts';
import { cpuTopology } from '../../platform/topology.ts';
import { createRunner } from '../../runtime/create-runner.ts';
import { UsageError } from '../errors.ts';
import { InterruptHandler } from '../interrupt.ts';
import { findModelWithProgress, neededLength, runnerFlags } from '../model-command.ts';
import {
  addEngineOptions,
  type EngineFlags,
  openingOptions,
  parseCounts,
  parseInteger,
} from '../options.ts';
import { formatTable, printJson, printLine } from '../output.ts';
import { ProgressReporter } from '../progress.ts';

export interface BenchFlags extends Omit<EngineFlags, 'threads'> {
  readonly promptTokens: number[];
  readonly genTokens: number[];
  readonly threads?: number[];
  readonly repetitions: number;
  /** True without a file. */
  readonly profile?: string | true;
  readonly json: boolean;
}

interface Row {
  readonly test: string;
  readonly threads: number;
  readonly tokensPerSecond: number;
  readonly stddev: number;
  /** Bytes of weights read per second, 10^9. */
  readonly gigabytesPerSecond: number;
}

export function define(command: Command): void {
  addEngineOptions(command, { threads: false })
    .argument('<model>', 'a path, an alias or any form that pull takes')
    .option(
      '-p, --prompt-tokens <n>',
      'tokens of a prefill test, or several: 128,512',
      parseBenchCounts,
      [512],
    )
    .option('-n, --gen-tokens <n>', 'tokens of a decode test, or several', parseBenchCounts, [128])
    .option('-t, --threads <n>', 'compute threads, or several: 1,2', parseCounts)
    .option('-r, --repetitions <n>', 'repetitions of each test', parseInteger(1), 5)
    .option(
      '--profile [file]',
      'time every command of a step instead; a chart goes to the file (HTML)',
    )
    .option('--json', 'print one JSON object', false)
    .addHelpText(
      'after',
      `
pp and tg are what llama-bench means by them: pp512 is a prompt of 512 tokens, tg128 generates 128
tokens one by one after an empty context; neither tokenizes nor samples. -p 0 or -n 0 leaves one out.

Example:
  $ hasten bench smollm2 -p 512 -n 128 -t 1,2
  $ hasten bench smollm2 --profile step.html
`,
    )
    .action(bench);
}

/** As `parseCounts`, but a lone 0 means none. */
function parseBenchCounts(text: string): number[] {
  return text.trim() === '0' ? [] : parseCounts(text);
}

async function bench(spec: string, flags: BenchFlags): Promise<void> {
  if (flags.profile !== undefined) {
    const { benchProfile } = await import('./bench-profile.ts');
    await benchProfile(spec, flags);
    return;
  }
  const tests: BenchmarkTest[] = [
    ...flags.promptTokens.map((numTokens) => ({ kind: 'pp' as const, numTokens })),
    ...flags.genTokens.map((numTokens) => ({ kind: 'tg' as const, numTokens })),
  ];
  if (tests.length === 0) throw new UsageError('-p 0 -n 0 leaves nothing to measure');
  using interrupts = new InterruptHandler();
  const { signal } = interrupts;
  const { offline } = flags;
  const { path } = await findModelWithProgress(spec, { offline, signal });
  using model = new OpenedModel(path, openingOptions(flags));
  const { config, weights } = model.description;
  const longest = Math.max(...tests.map(({ numTokens }) => numTokens));
  const bytesPerStep = weightBytesPerStep(stepGraphOf(model.description), weights.tensors);
  const rows: Row[] = [];
  using progress = new ProgressReporter();
  for (const threads of flags.threads ?? [cpuTopology().usableCores]) {
    using runner = await createRunner({
      source: weights,
      config,
      ...runnerFlags({ ...flags, threads }),
      maxModelLen: neededLength(longest, flags, config),
      maxTokensPerStep: Math.min(longest, 2048),
      maxSeqs: 1,
      maxLogitRows: 1,
      onProgress: ({ phase, done, total }) =>
        progress.update({ label: phase, done, total, unit: 'items' }),
    });
    for (const test of tests) {
      const name = `${test.kind}${test.numTokens}`;
      const figures = await runBenchmark(runner, test, flags.repetitions, async (done) => {
        progress.update({
          label: `${name}, ${threads} threads`,
          done,
          total: flags.repetitions,
          unit: 'items',
        });
        await setImmediate();
        signal.throwIfAborted();
      });
      rows.push({
        test: name,
        threads,
        tokensPerSecond: figures.tokensPerSecond,
        stddev: figures.stddev,
        gigabytesPerSecond: (figures.stepsPerSecond * bytesPerStep) / 1e9,
      });
    }
  }
  progress[Symbol.dispose]();
  if (flags.json) {
    await printJson({ rows });
    return;
  }
  await printLine(
    formatTable(
      ['TEST', 'THREADS', 'TOKENS/S', '± STDDEV', 'WEIGHTS GB/S'],
      rows.map((row) => [
        row.test,
        String(row.threads),
        row.tokensPerSecond.toFixed(2),
        row.stddev.toFixed(2),
        row.gigabytesPerSecond.toFixed(2),
      ]),
    ),
  );
}
