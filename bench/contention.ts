/**
 * What is left of the decode speed when another process keeps one core busy, for hasten and llama.cpp. Prints a table, then one line of JSON, and writes
 * the section of docs/benchmarks.md.
 *
 *   node bench/contention.ts --model FILE [--llama-bench PATH] [--rounds 3] [-n 128] [--no-doc]
 *
 * The other process computes without end, held to the first core where `taskset` is there. All engines have a thread per core. With k cores and one
 * busy, a fair share of one core is half of it, so (k - 0.5) / k of the machine is left; an engine whose threads wait for the slowest has half.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { basename } from 'node:path';
import { parseArgs } from 'node:util';
import { cpuTopology } from '../src/platform/topology.ts';
import { type Engine, hastenEngine, llamaBenchEngine, npmLlamaEngine } from './compare/engines.ts';
import { modelWork } from './compare/model-work.ts';
import { shownCommand } from './lib/command.ts';
import { writeSection } from './lib/doc-section.ts';
import { modelFile } from './lib/options.ts';
import { median } from './lib/statistics.ts';
import { markdownTable, significant } from './lib/table.ts';
import { prebuiltLlama } from './peers/install.ts';

/** Share of the quiet speed that hasten must keep. */
const BOUND = 0.45;

const { values: options } = parseArgs({
  options: {
    model: { type: 'string' },
    rounds: { type: 'string', default: '3' },
    generate: { type: 'string', short: 'n', default: '128' },
    'llama-bench': { type: 'string', default: process.env.LLAMA_BENCH },
    'no-npm': { type: 'boolean', default: false },
    'no-doc': { type: 'boolean', default: false },
  },
});
const modelPath = modelFile(options.model);
const threads = cpuTopology().usableCores;

async function engines(): Promise<Engine[]> {
  const all = [hastenEngine()];
  if (!options['no-npm']) all.push(npmLlamaEngine(await prebuiltLlama(), true));
  if (options['llama-bench'] !== undefined) {
    all.push(llamaBenchEngine(options['llama-bench'], true));
  }
  return all;
}

/** A process that never pauses. */
function busyProcess(): ChildProcess {
  const program = [process.execPath, '-e', 'for (;;);'];
  const hasTaskset = spawnSync('taskset', ['--version']).status === 0;
  const [file, ...args] = hasTaskset ? ['taskset', '-c', '0', ...program] : program;
  return spawn(file!, args, { stdio: 'ignore' });
}

async function decodeRate(engine: Engine): Promise<number> {
  const generatedTokens = Number(options.generate);
  const { vocabSize } = modelWork(modelPath);
  const rates = await engine.run({
    ...{ modelPath, vocabSize, threads, generatedTokens },
    ...{ promptTokens: 0, repetitions: 2 },
  });
  return rates[`tg${generatedTokens}`]!;
}

const compared = await engines();
const rates = compared.map(() => ({ quiet: [] as number[], busy: [] as number[] }));
for (let round = 0; round < Number(options.rounds); round++) {
  const order = round % 2 === 0 ? [...compared.keys()] : [...compared.keys()].reverse();
  for (const i of order) {
    const engine = compared[i]!;
    console.error(`round ${round + 1}/${options.rounds}: ${engine.name} ${engine.setting}`);
    rates[i]!.quiet.push(await decodeRate(engine));
    const other = busyProcess();
    try {
      rates[i]!.busy.push(await decodeRate(engine));
    } finally {
      const ended = once(other, 'close');
      other.kill('SIGKILL');
      await ended;
    }
  }
}
const rows = compared.map(({ name, setting, version }, i) => {
  const [quiet, busy] = [median(rates[i]!.quiet), median(rates[i]!.busy)];
  return { name, setting, version, quiet, busy, kept: busy / quiet };
});
const ours = rows.filter(({ name }) => name === 'hasten');
const worst = Math.min(...ours.map(({ kept }) => kept));
const text = [
  `### Beside a busy process: ${basename(modelPath)}`,
  `\`${shownCommand('bench/contention.ts')}\``,
  `Decoding ${options.generate} tokens with ${threads} threads, alone and while another process computes without end on the first of ${threads} cores; medians of ${options.rounds} rounds.`,
  markdownTable(
    ['engine', 'setting', 'alone, tokens/s', 'beside it, tokens/s', 'kept'],
    rows.map(({ name, setting, quiet, busy, kept }) => [
      ...[name, setting, significant(quiet), significant(busy), `${kept.toFixed(2)}x`],
    ]),
  ),
  `hasten keeps at least ${worst.toFixed(2)}x (bound ${BOUND}x): ${worst >= BOUND ? 'within' : '**missed**'}. ${rows
    .map(({ name, version }) => `${name}: ${version}`)
    .filter((line, i, all) => all.indexOf(line) === i)
    .join('; ')}.`,
].join('\n\n');
console.log(text);
console.log(JSON.stringify({ benchmark: 'contention', rows }));
if (!options['no-doc']) writeSection('contention', text);
