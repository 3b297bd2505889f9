/**
 * How the time of a prompt grows with its length, and what memory it takes: attention goes tile by tile and leaves out what is masked, so there is
 * no matrix of all pairs, and time should grow as the work does. Prints a table, then one line of JSON, and writes the section of docs/benchmarks.md.
 *
 *   node bench/long-prompts.ts --model smollm2=FILE [--lengths 512,1024,2048,4096,8192] [--threads 1,2] [--rounds 3] [--no-doc]
 *
 * Lengths take turns, the order reversed every round; medians. "At the peaks" is the time that the same work would take at the measured peaks: products of the
 * matrices with 8-bit dots, those of attention (half of all pairs) with f32 multiply-adds.
 */
import { parseArgs } from 'node:util';
import { SequenceDriver } from '../src/app/sequence-driver.ts';
import { loadModelDescription } from '../src/models/load-model.ts';
import type { ModelConfig } from '../src/models/model-config.ts';
import { createNativeRunner, resolveTarget } from '../src/runtime/create-runner.ts';
import { modelWork, prefillOpsPerToken } from './compare/model-work.ts';
import { shownCommand } from './lib/command.ts';
import { writeSection } from './lib/doc-section.ts';
import { namedModel } from './lib/options.ts';
import { median } from './lib/statistics.ts';
import { markdownTable, percent, significant } from './lib/table.ts';
import { describeMachine, formatMachine, type MachineReport } from './machine.ts';

const MIB = 2 ** 20;

const { values: options } = parseArgs({
  options: {
    model: { type: 'string' },
    lengths: { type: 'string', default: '512,1024,2048,4096,8192' },
    threads: { type: 'string', default: '1,2' },
    rounds: { type: 'string', default: '3' },
    'no-doc': { type: 'boolean', default: false },
  },
});
const { name, path } = namedModel(options.model);
const lengths = options.lengths.split(',').map(Number);

/** Operations of QK and PV over the pairs that a causal mask leaves, all layers. */
function attentionOps(config: ModelConfig, length: number): number {
  const pairs = (length * (length + 1)) / 2;
  return 4 * pairs * config.numHeads * config.headDim * config.layers.length;
}

interface Measured {
  readonly threads: number;
  readonly length: number;
  readonly seconds: number;
  readonly matrixOps: number;
  readonly attentionOps: number;
  /** Of the measured time, what the same work would take at the peaks. */
  readonly peakShare: number;
}

interface Memory {
  readonly arenaBytes: number;
  readonly kvBytes: number;
  readonly allPairsBytes: number;
}

async function measure(
  threads: number,
  machine: MachineReport,
): Promise<{ rows: Measured[]; memory: Memory }> {
  const target = resolveTarget('auto');
  if (target.kind !== 'x64') throw new Error(`no native target here: ${target.reason}`);
  using description = loadModelDescription(path);
  const { config, weights: source } = description;
  const longest = Math.max(...lengths);
  using runner = await createNativeRunner(
    {
      ...{ source, config, target: 'auto', precision: 'fast', threads },
      ...{ maxModelLen: longest, maxSeqs: 1, planCacheFolder: null },
    },
    target.isa,
  );
  const driver = new SequenceDriver(runner);
  const ids = Int32Array.from({ length: longest }, (_, i) => 100 + ((i * 7919) % 20000));
  const feed = async (length: number): Promise<number> => {
    driver.reset();
    const before = performance.now();
    await driver.feed(ids.subarray(0, length), 'last');
    return (performance.now() - before) / 1000;
  };
  await feed(longest); // Touches all memory once.
  const times = lengths.map((): number[] => []);
  for (let round = 0; round < Number(options.rounds); round++) {
    const order = round % 2 === 0 ? [...lengths.keys()] : [...lengths.keys()].reverse();
    for (const i of order) times[i]!.push(await feed(lengths[i]!));
  }
  const work = modelWork(path);
  const peaks = machine.isas[0]!;
  const rows = lengths.map((length, i) => {
    const seconds = median(times[i]!);
    const matrices = length * prefillOpsPerToken(work, length);
    const attention = attentionOps(config, length);
    const atPeaks = matrices / peaks.int8[threads]!.best + attention / peaks.f32[threads]!.best;
    return {
      ...{ threads, length, seconds, matrixOps: matrices, attentionOps: attention },
      peakShare: atPeaks / seconds,
    };
  });
  const { plan } = runner;
  const { kvCache } = plan;
  const memory = {
    arenaBytes: plan.arenaBytes,
    kvBytes:
      (longest / kvCache.blockSize) *
      kvCache.numLayers *
      (kvCache.keyBlockBytes + kvCache.valueBlockBytes),
    allPairsBytes: 4 * config.numHeads * longest ** 2,
  };
  return { rows, memory };
}

const counts = options.threads.split(',').map(Number);
const machine = await describeMachine({ threads: counts });
const results: Measured[] = [];
let memory: Memory | undefined;
for (const threads of counts) {
  const measured = await measure(threads, machine);
  results.push(...measured.rows);
  memory = measured.memory;
}
const mib = (bytes: number): string => `${significant(bytes / MIB)} MiB`;
const longest = Math.max(...lengths);
const text = [
  `### Long prompts: ${name}`,
  `\`${shownCommand('bench/long-prompts.ts')}\``,
  formatMachine(machine),
  markdownTable(
    ['threads', 'tokens', 'seconds', 'tokens/s', 'matrices GOP', 'attention GFLOP', 'at the peaks'],
    results.map((row) => [
      ...[`${row.threads}`, `${row.length}`, significant(row.seconds)],
      significant(row.length / row.seconds),
      ...[significant(row.matrixOps / 1e9), significant(row.attentionOps / 1e9)],
      percent(row.peakShare),
    ]),
  ),
  `"At the peaks": the share of the time that the same work would take at the measured peaks (8-bit dots for matrices, f32 multiply-adds for attention); where it does not fall, time grows as the work does.`,
  `Memory for ${longest} tokens: activations ${mib(memory!.arenaBytes)}, whatever the length; keys and values ${mib(memory!.kvBytes)}. A matrix of all pairs of one layer would be ${mib(memory!.allPairsBytes)}.`,
].join('\n\n');
console.log(text);
console.log(JSON.stringify({ benchmark: 'long-prompts', model: name, results, memory }));
if (!options['no-doc']) writeSection('long-prompts', text);
