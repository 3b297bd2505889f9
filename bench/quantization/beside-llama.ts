/** `hasten quantize` beside llama-quantize: the same F16 file of the 1.1B shape, in turn, from start to end of the process. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { runChild } from '../lib/child.ts';
import { ownCpuSeconds, withForeignLoad } from '../lib/foreign-load.ts';
import { readIntoMemory } from '../lib/page-cache.ts';
import { REPOSITORY } from '../lib/paths.ts';
import { median } from '../lib/statistics.ts';
import { markdownTable, percent, significant } from '../lib/table.ts';
import type { RowStore } from './row-store.ts';

export interface BesidePlan {
  /** F16. */
  readonly source: string;
  /** Of llama.cpp. */
  readonly llamaQuantize: string;
  readonly threads: number;
  readonly rounds: number;
  /** Which types are measured; of the others those rounds are shown that were measured before. */
  readonly only: RegExp;
}

export interface BesideRow {
  readonly type: string;
  readonly rounds: readonly Round[];
}

type Round = Readonly<Record<Program, Run>>;
type Program = 'hasten' | 'llama-quantize';

interface Run {
  readonly seconds: number;
  /** User and system. */
  readonly cpuSeconds: number;
  readonly foreignLoad: number;
}

const TYPES = ['Q8_0', 'Q4_0', 'Q4_K_M', 'Q5_K_M', 'Q6_K', 'Q3_K_M', 'Q2_K'] as const;

export async function measureBeside(plan: BesidePlan, store: RowStore): Promise<BesideRow[]> {
  const rows: BesideRow[] = [];
  for (const type of TYPES) {
    const rounds: Round[] = [];
    for (let round = 0; round < plan.rounds; round++) {
      const key = `beside ${JSON.stringify({ type, threads: plan.threads, round })}`;
      if (!plan.only.test(type) && store.get(key) === undefined) continue;
      rounds.push(await store.ensure(key, () => measuredRound(type, round, plan)));
    }
    if (rounds.length > 0) rows.push({ type, rounds });
  }
  return rows;
}

/** Every other round begins with the other program. */
async function measuredRound(type: string, round: number, plan: BesidePlan): Promise<Round> {
  console.error(`beside: ${type}, round ${round + 1}`);
  const first = round % 2 === 0 ? 'hasten' : 'llama-quantize';
  const one = await measuredRun(first, type, plan);
  const second = first === 'hasten' ? 'llama-quantize' : 'hasten';
  const other = await measuredRun(second, type, plan);
  return { [first]: one, [second]: other } as Round;
}

async function measuredRun(
  program: Program,
  type: string,
  { source, llamaQuantize, threads }: BesidePlan,
): Promise<Run> {
  const work = mkdtempSync(join(tmpdir(), 'hasten-beside-'));
  try {
    await readIntoMemory(source);
    const output = join(work, 'made.gguf');
    const launcher = join(REPOSITORY, 'bin', 'hasten.js');
    const to = ['--to', type.toLowerCase(), '-o', output, '--threads', `${threads}`];
    const [file, args] =
      program === 'hasten'
        ? [process.execPath, [launcher, 'quantize', source, ...to, '--json', '--offline']]
        : [llamaQuantize, [source, output, type, `${threads}`]];
    const cpuBefore = ownCpuSeconds();
    const startMs = performance.now();
    const { foreignLoad } = await withForeignLoad(() => runChild(file, args));
    const seconds = (performance.now() - startMs) / 1000;
    return { seconds, cpuSeconds: ownCpuSeconds() - cpuBefore, foreignLoad };
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

export function formatBeside(rows: readonly BesideRow[], { threads }: BesidePlan): string {
  const middle = ({ rounds }: BesideRow, program: Program, of: keyof Run): number =>
    median(rounds.map((round) => round[program][of]));
  const seconds = (value: number): string => `${significant(value)} s`;
  const table = markdownTable(
    [
      ...['type', 'hasten', 'CPU time', 'llama-quantize', 'CPU time', 'hasten is faster by'],
      ...['rounds', 'others'],
    ],
    rows.map((row) => {
      const [ours, theirs] = (['hasten', 'llama-quantize'] as const).map((program) => ({
        seconds: middle(row, program, 'seconds'),
        cpu: middle(row, program, 'cpuSeconds'),
      }));
      const runs = row.rounds.flatMap((round) => Object.values(round));
      return [
        ...[row.type, seconds(ours!.seconds), seconds(ours!.cpu)],
        ...[seconds(theirs!.seconds), seconds(theirs!.cpu)],
        `${significant(theirs!.seconds / ours!.seconds)}x`,
        ...[`${row.rounds.length}`, percent(median(runs.map((run) => run.foreignLoad)))],
      ];
    }),
  );
  return [
    `\`hasten quantize\` and llama-quantize, the F16 GGUF file of random weights in TinyLlama-1.1B's shape, ${threads} threads each, from start to end of the process, in turn; medians. The file is in memory before each run. hasten waits at the end until the new file is on the disk, llama-quantize does not.`,
    table,
  ].join('\n\n');
}
