/**
 * What each graph pass is worth: CPU time per token with all passes, without each one, and without all that can be left out, on one thread; and activation
 * memory with the arena beside a buffer each. Prints a table, then one line of JSON, and writes the section of docs/benchmarks.md.
 *
 *   node bench/passes.ts --model smollm2=FILE [--rounds 7] [--no-write]
 *
 * Interleaved: every round times every variant once, the order reversed each round; medians of CPU time of the process.
 */
import { parseArgs } from 'node:util';
import { SequenceDriver } from '../src/app/sequence-driver.ts';
import { GRAPH_PASSES, type PassName, REQUIRED_PASSES } from '../src/graph/lower-graph.ts';
import { loadModelDescription } from '../src/models/load-model.ts';
import { createNativeRunner, resolveTarget } from '../src/runtime/create-runner.ts';
import type { NativeRunner } from '../src/runtime/native-runner.ts';
import { shownCommand } from './lib/command.ts';
import { writeSection } from './lib/doc-section.ts';
import { median } from './lib/statistics.ts';
import { markdownTable } from './lib/table.ts';

const PROMPT_TOKENS = 512;
const DECODE_TOKENS = 64;
const MIB = 2 ** 20;

interface Variant {
  readonly name: string;
  readonly disabled: readonly PassName[];
}

interface Measured {
  readonly name: string;
  readonly commands: number;
  readonly arenaBytes: number;
  readonly unsharedBytes: number;
  readonly prefillMs: number;
  readonly decodeMs: number;
}

/** CPU time of the whole process, ms. */
function cpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

/** CPU ms per token of a prompt, and of decoding behind it. */
async function timeOnce(runner: NativeRunner): Promise<{ prefill: number; decode: number }> {
  const driver = new SequenceDriver(runner);
  const ids = Int32Array.from({ length: PROMPT_TOKENS }, (_, i) => 100 + ((i * 7919) % 20000));
  const start = cpuMs();
  await driver.feed(ids, 'last');
  const middle = cpuMs();
  for (let i = 0; i < DECODE_TOKENS; i++) await driver.feed(ids.subarray(i, i + 1), 'last');
  const end = cpuMs();
  return { prefill: (middle - start) / PROMPT_TOKENS, decode: (end - middle) / DECODE_TOKENS };
}

async function measure(path: string, rounds: number): Promise<Measured[]> {
  const optional = GRAPH_PASSES.map(({ name }) => name).filter(
    (name) => !REQUIRED_PASSES.includes(name),
  );
  const variants: Variant[] = [
    { name: 'all passes', disabled: [] },
    ...optional.map((name) => ({ name: `without ${name}`, disabled: [name] })),
    { name: 'without all of these', disabled: optional },
  ];
  const target = resolveTarget('auto');
  if (target.kind !== 'x64') throw new Error(`no native target here: ${target.reason}`);
  using description = loadModelDescription(path);
  const { config, weights: source } = description;
  const runners: NativeRunner[] = [];
  const samples = variants.map(() => ({ prefill: [] as number[], decode: [] as number[] }));
  for (const { disabled } of variants) {
    runners.push(
      await createNativeRunner(
        {
          source,
          config,
          target: 'auto',
          precision: 'fast',
          threads: 1,
          maxModelLen: Math.min(1024, config.maxPositionEmbeddings),
          maxSeqs: 1,
          planCacheFolder: null,
          disabledPasses: disabled,
        },
        target.isa,
      ),
    );
  }
  for (const runner of runners) await timeOnce(runner);
  for (let round = 0; round < rounds; round++) {
    const order = variants.map((_, i) => i);
    if (round % 2 === 1) order.reverse();
    for (const i of order) {
      const { prefill, decode } = await timeOnce(runners[i]!);
      samples[i]!.prefill.push(prefill);
      samples[i]!.decode.push(decode);
    }
  }
  return variants.map(({ name }, i) => {
    const { plan } = runners[i]!;
    const result = {
      name,
      commands: plan.commands.length,
      arenaBytes: plan.arenaBytes,
      unsharedBytes: plan.buffers.reduce((sum, b) => sum + b.sizeBytes, 0),
      prefillMs: median(samples[i]!.prefill),
      decodeMs: median(samples[i]!.decode),
    };
    runners[i]![Symbol.dispose]();
    return result;
  });
}

const { values } = parseArgs({
  options: {
    model: { type: 'string' },
    rounds: { type: 'string', default: '7' },
    'no-write': { type: 'boolean', default: false },
  },
});
const [name, path] = (values.model ?? '').split('=');
if (!name || !path) {
  console.error('usage: node bench/passes.ts --model NAME=FILE [--rounds 7] [--no-write]');
  process.exit(2);
}
const results = await measure(path, Number(values.rounds));
const [all] = results;
const ratio = (value: number, base: number): string => `${(value / base).toFixed(2)}x`;
const table = markdownTable(
  [
    'passes',
    'commands',
    'decode ms/token',
    '',
    'prefill ms/token',
    '',
    'arena MiB',
    'a buffer each MiB',
  ],
  results.map((r) => [
    r.name,
    String(r.commands),
    r.decodeMs.toFixed(3),
    ratio(r.decodeMs, all!.decodeMs),
    r.prefillMs.toFixed(3),
    ratio(r.prefillMs, all!.prefillMs),
    (r.arenaBytes / MIB).toFixed(1),
    (r.unsharedBytes / MIB).toFixed(1),
  ]),
);
console.log(table);
console.log(JSON.stringify({ benchmark: 'passes', model: name, results }));
if (!values['no-write']) {
  writeSection(
    'passes',
    `### Graph passes\n\n\`${shownCommand('bench/passes.ts')}\`\n\nCPU time per token on one thread, ${PROMPT_TOKENS}-token prompt and ${DECODE_TOKENS} decoded tokens; medians of ${values.rounds} interleaved rounds. Factors are against all passes.\n\n${table}`,
  );
}
