/** What quantizing takes: time, CPU time and peak memory of `hasten quantize` on the 1.1B shape. */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { lastJson, runChild } from '../lib/child.ts';
import { withForeignLoad } from '../lib/foreign-load.ts';
import { readIntoMemory } from '../lib/page-cache.ts';
import { benchFolder, REPOSITORY } from '../lib/paths.ts';
import { markdownTable, percent, significant } from '../lib/table.ts';
import { madeModel } from '../make-model.ts';
import { writeRandomHfModel } from '../models/random-hf-model.ts';
import { SHAPE_1B, SHAPE_TINY } from '../models/random-model.ts';
import { madeFormat } from './formats.ts';
import { COST_FILE, type ProcessCost } from './report-cost.ts';
import type { RowStore } from './row-store.ts';

export interface CostPlan {
  readonly threads: number;
  /** Of the calibration text, where a row takes one. */
  readonly tokens: number;
  /** Of made models; the benchmarks' own where left out. */
  readonly folder?: string;
  /** Which rows are measured, by their names; of the others those are shown that were measured before. */
  readonly only: RegExp;
  /** A few hundred kB instead, to try it. */
  readonly isTiny: boolean;
}

export interface CostRow extends ProcessCost {
  readonly name: string;
  readonly source: SourceKind;
  readonly seconds: number;
  readonly sizeBytes: number;
  readonly foreignLoad: number;
}

/** F16 both. */
type SourceKind = 'GGUF' | 'folder';

interface CostCase {
  readonly name: string;
  readonly source: SourceKind;
  readonly flags: readonly string[];
  readonly isCalibrated?: boolean;
}

const CASES: readonly CostCase[] = [
  { name: 'Q8_0', source: 'GGUF', flags: ['--to', 'q8_0'] },
  { name: 'Q4_0', source: 'GGUF', flags: ['--to', 'q4_0'] },
  { name: 'Q4_K_M', source: 'GGUF', flags: ['--to', 'q4_k_m'] },
  {
    name: 'Q4_K_M, importance gathered',
    source: 'GGUF',
    flags: ['--to', 'q4_k_m', '--imatrix', 'auto'],
    isCalibrated: true,
  },
  { name: 'bitsandbytes NF4', source: 'folder', flags: ['--to', 'nf4'] },
  { name: 'bitsandbytes int8', source: 'folder', flags: ['--to', 'int8'] },
  { name: 'W8A8', source: 'folder', flags: ['--to', 'w8a8'] },
  {
    name: 'W8A8, SmoothQuant',
    source: 'folder',
    flags: ['--to', 'w8a8', '--method', 'smoothquant'],
    isCalibrated: true,
  },
  {
    name: 'GPTQ layout, 4 bits, to nearest',
    source: 'folder',
    flags: ['--to', 'gptq', '--method', 'rtn'],
  },
  {
    name: 'GPTQ, 4 bits, groups of 128, 32k tokens',
    source: 'folder',
    flags: ['--to', 'gptq', '--tokens', '32k'],
  },
];

const MOST_MS = 3 * 3_600_000;

export async function measureCost(plan: CostPlan, store: RowStore): Promise<CostRow[]> {
  const paths = await costSources(plan);
  const rows: CostRow[] = [];
  const { threads, tokens, isTiny } = plan;
  for (const each of CASES) {
    const key = `cost ${JSON.stringify({ name: each.name, threads, tokens, isTiny })}`;
    if (!plan.only.test(each.name) && store.get(key) === undefined) continue;
    rows.push(await store.ensure(key, () => measured(each, paths[each.source], plan)));
  }
  return rows;
}

/** Paths of the F16 models, made where they are not there yet. */
export async function costSources({
  folder,
  isTiny,
}: Pick<CostPlan, 'folder' | 'isTiny'>): Promise<Record<SourceKind, string>> {
  const made = await madeModel(isTiny ? 'tiny-q4_0' : '1.1b-q4_0', { ...(folder && { folder }) });
  const shape = isTiny ? SHAPE_TINY : SHAPE_1B;
  const hf = join(folder ?? benchFolder(), `${shape.name}-f16-hf`);
  if (!existsSync(hf)) await writeRandomHfModel(hf, shape);
  return { GGUF: await madeFormat(made, 'f16'), folder: hf };
}

async function measured(
  { name, source, flags, isCalibrated }: CostCase,
  model: string,
  { threads, tokens }: CostPlan,
): Promise<CostRow> {
  console.error(`cost: ${name}`);
  const work = mkdtempSync(join(tmpdir(), 'hasten-cost-'));
  try {
    const output = join(work, source === 'GGUF' ? 'made.gguf' : 'made');
    const costFile = join(work, 'cost.json');
    const preload = fileURLToPath(new URL('./report-cost.ts', import.meta.url));
    const args = [
      ...['--disable-warning=ExperimentalWarning', '--import', preload],
      ...[join(REPOSITORY, 'bin', 'hasten.js'), 'quantize', model, ...flags, '-o', output],
      ...['--threads', `${threads}`, '--json', '--offline'],
      ...(isCalibrated ? ['--tokens', `${tokens}`] : []),
    ];
    const env = { ...process.env, [COST_FILE]: costFile };
    await readIntoMemory(model);
    const startMs = performance.now();
    const { value, foreignLoad } = await withForeignLoad(() =>
      runChild(process.execPath, args, { env, timeoutMs: MOST_MS }),
    );
    const seconds = (performance.now() - startMs) / 1000;
    const { sizeBytes } = lastJson(value) as { sizeBytes: number };
    const cost = JSON.parse(readFileSync(costFile, 'utf8')) as ProcessCost;
    return { name, source, seconds, sizeBytes, foreignLoad, ...cost };
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

export function formatCost(
  rows: readonly CostRow[],
  { threads, tokens, isTiny }: CostPlan,
): string {
  const shape = isTiny ? 'a tiny shape' : "TinyLlama-1.1B's shape";
  const table = markdownTable(
    ['made', 'of', 'time', 'CPU time', 'peak memory', 'size', 'others'],
    rows.map((row) => [
      ...[row.name, row.source],
      ...[`${significant(row.seconds)} s`, `${significant(row.cpuSeconds)} s`],
      `${(row.peakBytes / 1e6).toFixed(0)} MB`,
      `${(row.sizeBytes / 1e6).toFixed(0)} MB`,
      percent(row.foreignLoad),
    ]),
  );
  return [
    `\`hasten quantize\` of random weights in ${shape}, a GGUF file or a Hugging Face folder in F16, ${threads} threads, from start to end of the process, the source in memory before; ${tokens} tokens of calibration where a text is run and nothing else is said. Peak memory is the largest resident set, pages of the mapped source that happen to be in it included.`,
    table,
  ].join('\n\n');
}
