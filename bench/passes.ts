/**
 * What each graph pass is worth: CPU time per token with all passes, without each one, and without all that can be left out, on one thread; and activation
 * memory with the arena beside a buffer each. Prints a table, then one line of JSON, and writes the section of docs/benchmarks.md.
 *
 *   node bench/passes.ts --model smollm2=FILE [--rounds 5] [--no-doc]
 *
 * Interleaved: every round runs every variant once, the order reversed each round, each in a fresh process (where the pages of the weights come to lie
 * differs from process to process, and matters more than some passes do). Medians of CPU time.
 */
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { GRAPH_PASSES, type PassName, REQUIRED_PASSES } from '../src/graph/lower-graph.ts';
import { lastJson, runChild } from './lib/child.ts';
import { shownCommand } from './lib/command.ts';
import { writeSection } from './lib/doc-section.ts';
import { namedModel } from './lib/options.ts';
import { summarize } from './lib/statistics.ts';
import { markdownTable } from './lib/table.ts';
import {
  DECODE_TOKENS,
  PROMPT_TOKENS,
  type VariantFigures,
  type VariantJob,
} from './passes/one-variant.ts';

const MIB = 2 ** 20;
const SCRIPT = fileURLToPath(new URL('./passes/one-variant.ts', import.meta.url));

function variants(): { readonly name: string; readonly disabled: readonly PassName[] }[] {
  const optional = GRAPH_PASSES.map(({ name }) => name).filter(
    (name) => !REQUIRED_PASSES.includes(name),
  );
  return [
    { name: 'all passes', disabled: [] },
    ...optional.map((name) => ({ name: `without ${name}`, disabled: [name] })),
    { name: 'without all of these', disabled: optional },
  ];
}

async function runVariant(job: VariantJob): Promise<VariantFigures> {
  const args = ['--disable-warning=ExperimentalWarning', SCRIPT, JSON.stringify(job)];
  return lastJson(await runChild(process.execPath, args)) as VariantFigures;
}

const { values } = parseArgs({
  options: {
    model: { type: 'string' },
    rounds: { type: 'string', default: '5' },
    'no-doc': { type: 'boolean', default: false },
  },
});
const { name, path } = namedModel(values.model);
const compared = variants();
const figures = compared.map((): VariantFigures[] => []);
for (let round = 0; round < Number(values.rounds); round++) {
  const order = round % 2 === 0 ? [...compared.keys()] : [...compared.keys()].reverse();
  for (const i of order) {
    figures[i]!.push(await runVariant({ path, disabled: compared[i]!.disabled }));
  }
  console.error(`round ${round + 1}/${values.rounds}`);
}
const results = compared.map((variant, i) => {
  const { commands, arenaBytes, unsharedBytes } = figures[i]![0]!;
  const prefill = summarize(figures[i]!.map(({ prefillMs }) => prefillMs));
  const decode = summarize(figures[i]!.map(({ decodeMs }) => decodeMs));
  return { name: variant.name, commands, arenaBytes, unsharedBytes, prefill, decode };
});
const all = results[0]!;
const ratio = (value: number, base: number): string => `${(value / base).toFixed(2)}x`;
const spread = (value: number): string => `±${(50 * value).toFixed(0)} %`;
const table = markdownTable(
  [
    ...['passes', 'commands', 'decode ms/token', '', 'rounds', 'prefill ms/token', '', 'rounds'],
    ...['arena MiB', 'a buffer each MiB'],
  ],
  results.map((r) => [
    ...[r.name, String(r.commands)],
    ...[r.decode.median.toFixed(3), ratio(r.decode.median, all.decode.median)],
    ...[spread(r.decode.spread), r.prefill.median.toFixed(3)],
    ...[ratio(r.prefill.median, all.prefill.median), spread(r.prefill.spread)],
    ...[(r.arenaBytes / MIB).toFixed(1), (r.unsharedBytes / MIB).toFixed(1)],
  ]),
);
console.log(table);
console.log(JSON.stringify({ benchmark: 'passes', model: name, results }));
if (!values['no-doc']) {
  writeSection(
    'passes',
    `### Graph passes\n\n\`${shownCommand('bench/passes.ts')}\`\n\nCPU time per token on one thread, ${PROMPT_TOKENS}-token prompt and ${DECODE_TOKENS} decoded tokens; medians of ${values.rounds} interleaved rounds, each in a fresh process, and half the distance between the slowest and the quickest. Factors are against all passes.\n\n${table}`,
  );
}
