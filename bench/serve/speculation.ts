/**
 * What speculation gains where answers repeat their prompt, and what it costs where they do not: the same requests with and without, one after the
 * other, in fresh servers, the order reversed each round. Texts must be equal. Prints a table, then one line of JSON, and writes the section of
 * docs/benchmarks.md.
 *
 *   node bench/serve/speculation.ts --model FILE [--draft-model FILE] [--rounds 5] [--threads 2] [--scale 1] [--no-doc]
 */
import { basename } from 'node:path';
import { parseArgs } from 'node:util';
import { hastenVersion } from '../compare/engines.ts';
import { shownCommand } from '../lib/command.ts';
import { writeSection } from '../lib/doc-section.ts';
import { withForeignLoad } from '../lib/foreign-load.ts';
import { modelFile } from '../lib/options.ts';
import { median } from '../lib/statistics.ts';
import { markdownTable, percent, significant } from '../lib/table.ts';
import { describeMachine, formatMachine } from '../machine.ts';
import { exitOnSignals, hastenServer } from './servers.ts';
import { type SpeculationRequest, speculationWorkloads } from './speculation-workloads.ts';

const { values: options } = parseArgs({
  options: {
    model: { type: 'string' },
    'draft-model': { type: 'string' },
    rounds: { type: 'string', default: '5' },
    threads: { type: 'string', default: '2' },
    scale: { type: 'string', default: '1' },
    'no-doc': { type: 'boolean', default: false },
  },
});
exitOnSignals();

const modelPath = modelFile(options.model);
const threads = Number(options.threads);
const workloads = speculationWorkloads(Number(options.scale));
const version = hastenVersion();
const draftModel = options['draft-model'];
const OFF = ['--speculation', 'off'];
const WAYS = [
  { name: 'off', flags: OFF },
  // What differs between two servers that are the same.
  { name: 'off, again', flags: OFF },
  { name: 'ngram', flags: ['--speculation', 'ngram'] },
  ...(draftModel === undefined
    ? []
    : [{ name: 'draft model', flags: ['--draft-model', draftModel] }]),
];

interface Completion {
  readonly choices: readonly { readonly text: string }[];
  readonly usage: { readonly completion_tokens: number };
}

/** One workload, one request after the other, in one server. */
interface Run {
  readonly seconds: number;
  readonly outputTokens: number;
  readonly texts: readonly string[];
}

async function complete(url: string, request: SpeculationRequest): Promise<Completion> {
  const response = await fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(request),
  });
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
  return (await response.json()) as Completion;
}

async function runAll(flags: readonly string[]): Promise<Run[]> {
  await using server = await hastenServer(version, flags).start({
    modelPath,
    threads,
    streams: 1,
    contextTokens: 1024,
  });
  // What steps cost is learned by the first ones; that is part of a server's life, and not of what is measured.
  await complete(server.url, { ...workloads.at(-1)!.requests[0]!, max_tokens: 64 });
  const runs: Run[] = [];
  for (const { requests } of workloads) {
    const start = performance.now();
    const answers: Completion[] = [];
    for (const request of requests) answers.push(await complete(server.url, request));
    runs.push({
      seconds: (performance.now() - start) / 1000,
      outputTokens: answers.reduce((sum, { usage }) => sum + usage.completion_tokens, 0),
      texts: answers.map(({ choices }) => choices[0]!.text),
    });
  }
  return runs;
}

const machine = await describeMachine({ threads: [threads] });
/** [way][round][workload] */
const runs: Run[][][] = WAYS.map(() => []);
const { foreignLoad } = await withForeignLoad(async () => {
  for (let round = 0; round < Number(options.rounds); round++) {
    const order = WAYS.map((_, way) => way);
    if (round % 2 === 1) order.reverse();
    for (const way of order) {
      const { name, flags } = WAYS[way]!;
      const own = await runAll(flags);
      runs[way]!.push(own);
      const speeds = own.map((run) => significant(run.outputTokens / run.seconds));
      console.error(`round ${round + 1}, ${name}: ${speeds.join(', ')} tok/s`);
    }
  }
});

const figures = WAYS.slice(1).flatMap(({ name }, i) =>
  workloads.map((workload, w) => {
    const plain = runs[0]!.map((round) => round[w]!);
    const drafted = runs[i + 1]!.map((round) => round[w]!);
    for (const [r, run] of drafted.entries()) {
      if (JSON.stringify(run.texts) === JSON.stringify(plain[r]!.texts)) continue;
      throw new Error(`${workload.name}, ${name}: the texts differ from those without speculation`);
    }
    const speedOf = (all: readonly Run[]): number =>
      median(all.map((run) => run.outputTokens / run.seconds));
    const ratios = drafted.map((run, r) => plain[r]!.seconds / run.seconds);
    return {
      workload: workload.name,
      drafts: name,
      plain: speedOf(plain),
      drafted: speedOf(drafted),
      gain: median(ratios),
      ratios,
    };
  }),
);

const text = [
  `\`${shownCommand('bench/serve/speculation.ts')}\``,
  formatMachine(machine),
  `hasten ${version}, ${basename(modelPath)}${draftModel === undefined ? '' : `, drafts by ${basename(draftModel)}`}, ${threads} threads, one request at a time, prompts included; medians of ${options.rounds} rounds, each in fresh servers; other processes took ${percent(foreignLoad)} of all CPU time. Texts with and without speculation are equal. Rows of "off, again" compare two servers without: what a gain is worth believing.`,
  markdownTable(
    ['workload', 'drafts', 'off, tok/s', 'on, tok/s', 'gain', 'of each round'],
    figures.map(({ workload, drafts, plain, drafted, gain, ratios }) => [
      ...[workload, drafts, significant(plain), significant(drafted)],
      `**${gain.toFixed(2)}x**`,
      ratios.map((ratio) => ratio.toFixed(2)).join(', '),
    ]),
  ),
].join('\n\n');
console.log(text);
if (!options['no-doc']) writeSection('serve/speculation', text);
console.log(JSON.stringify({ figures }));
