/** The table of methods: every method at equal bits, grouping and symmetry, on models that are run in f32 before and after. Knows what is compared, not how. */
import { fileURLToPath } from 'node:url';
import type { GroupScheme } from '../../src/compress/group-quantizer.ts';
import { lastJson, runChild } from '../lib/child.ts';
import { markdownTable, percent, significant } from '../lib/table.ts';
import type { EvalSet } from '../quality/eval-windows.ts';
import type { MethodJob, MethodRow, SensitivityJob, SensitivityRow } from './method-row.ts';
import type { RowStore } from './row-store.ts';

export interface MethodsPlan {
  readonly models: readonly { readonly set: EvalSet; readonly path: string }[];
  readonly calibrationTokens: number;
  readonly evalWindows: number;
  readonly threads: number;
  /** Which rows are measured, by `MODEL: METHOD, SCHEME`; of the others those are shown that were measured before. */
  readonly only: RegExp;
}

interface MethodCase {
  readonly name: string;
  readonly method: MethodJob['method'];
  readonly scheme: GroupScheme;
}

export interface MeasuredCase extends MethodCase {
  readonly model: EvalSet;
  readonly row: MethodRow;
}

/** Rounding without data is what the others are held to; the range search is what it can do at best. */
const NAMED_METHODS: readonly {
  name: string;
  method: MethodJob['method'];
  searchesRange: boolean;
}[] = [
  { name: 'RTN', method: 'rtn', searchesRange: false },
  { name: 'RTN, range searched', method: 'rtn', searchesRange: true },
  { name: 'GPTQ', method: 'gptq', searchesRange: true },
  { name: 'AWQ', method: 'awq', searchesRange: false },
  { name: 'AutoRound', method: 'autoround', searchesRange: false },
  { name: 'mixed bits, RTN', method: 'mixed', searchesRange: false },
];
const MIXED_TOKENS = 512;
const BASELINE = NAMED_METHODS[0]!.name;
/** Of RTN's divergence that methods with a calibration text are to close. */
const GOALS: Readonly<Record<number, number>> = { 4: 0.3, 3: 0.5 };

/** Most telling first, for whoever breaks a run off. */
function methodCases(): MethodCase[] {
  return ([64, 'row'] as const).flatMap((groupSize) =>
    [4, 3].flatMap((bits) =>
      (['asymmetric', 'symmetric'] as const).flatMap((symmetry): MethodCase[] => {
        const scheme = { bits, groupSize, symmetry, searchesRange: false };
        const hasNf4 = bits === 4 && groupSize === 64 && symmetry === 'symmetric';
        return [
          ...NAMED_METHODS.map(({ name, method, searchesRange }) => ({
            ...{ name, method },
            scheme: { ...scheme, searchesRange },
          })),
          ...(hasNf4 ? [{ name: 'NF4', method: 'nf4' as const, scheme }] : []),
        ];
      }),
    ),
  );
}

export async function measureMethods(plan: MethodsPlan, store: RowStore): Promise<MeasuredCase[]> {
  const { calibrationTokens, evalWindows, threads } = plan;
  const measured: MeasuredCase[] = [];
  for (const { set, path } of plan.models) {
    for (const each of methodCases()) {
      const { method, scheme } = each;
      const settings = {
        ...{ evalSet: set, evalWindows, method, scheme },
        calibrationTokens: calibrationTokensOf(method, calibrationTokens),
      };
      const key = `methods ${JSON.stringify(settings)}`;
      const title = `${set}: ${each.name}, ${shownScheme(scheme)}`;
      if (!plan.only.test(title) && store.get(key) === undefined) continue;
      const row = await store.ensure(key, async () => {
        const job = { ...settings, modelPath: path, threads };
        if (method !== 'mixed') return await runJob<MethodRow>(title, job);
        const sensitivity = await sensitivityOf({ set, path }, threads, store);
        return await runJob<MethodRow>(title, { ...job, sensitivity });
      });
      measured.push({ ...each, model: set, row });
    }
  }
  return measured;
}

/** In a process of its own. */
async function runJob<Row>(title: string, job: MethodJob | SensitivityJob): Promise<Row> {
  console.error(title);
  const script = fileURLToPath(new URL('./method-row.ts', import.meta.url));
  const args = ['--disable-warning=ExperimentalWarning', script];
  const options = { input: JSON.stringify(job), timeoutMs: 4 * 3_600_000 };
  return lastJson(await runChild(process.execPath, args, options)) as Row;
}

async function sensitivityOf(
  { set, path }: MethodsPlan['models'][number],
  threads: number,
  store: RowStore,
): Promise<SensitivityRow> {
  const job = { modelPath: path, calibrationTokens: MIXED_TOKENS, threads };
  const title = `${set}: sensitivity of each tensor`;
  return await store.ensure(`${title}, ${MIXED_TOKENS} tokens`, () => runJob(title, job));
}

/** A search compares predictions on one window. */
function calibrationTokensOf(method: MethodJob['method'], tokens: number): number {
  if (method === 'mixed') return MIXED_TOKENS;
  return method === 'gptq' || method === 'awq' || method === 'autoround' ? tokens : 0;
}

function shownScheme({ bits, groupSize, symmetry }: GroupScheme): string {
  return `${bits} bits, ${groupSize === 'row' ? 'per channel' : `groups of ${groupSize}`}, ${symmetry}`;
}

/** Share of the baseline's divergence that is gone. */
function gapClosed(of: MeasuredCase, all: readonly MeasuredCase[]): number | null {
  const { bits, groupSize, symmetry } = of.scheme;
  const baseline = all.find(
    ({ model, name, scheme }) =>
      model === of.model &&
      name === BASELINE &&
      scheme.bits === bits &&
      scheme.groupSize === groupSize &&
      scheme.symmetry === symmetry,
  );
  if (baseline === undefined || baseline === of) return null;
  return 1 - of.row.quality.meanKld / baseline.row.quality.meanKld;
}

export function formatMethods(all: readonly MeasuredCase[], calibrationTokens: number): string {
  const models = [...new Set(all.map(({ model }) => model))];
  return models
    .map((model) => {
      const cases = all.filter((each) => each.model === model);
      const { reference } = cases[0]!.row;
      const table = markdownTable(
        [
          ...['weights', 'method', 'bits/weight', 'size', 'perplexity', 'NLL', 'mean KLD'],
          ...["RTN's KLD closed", 'same first token', 'time', 'CPU time', 'threads', 'peak memory'],
        ],
        cases.map((each) => {
          const { row, scheme, name } = each;
          const closed = gapClosed(each, all);
          return [
            ...[shownScheme(scheme), name, row.bitsPerWeight.toFixed(2)],
            ...[`${(row.sizeBytes / 1e6).toFixed(0)} MB`, significant(row.quality.perplexity, 4)],
            ...[row.quality.nll.toFixed(4), significant(row.quality.meanKld)],
            closed === null ? '–' : `${(100 * closed).toFixed(0)}%`,
            `${(100 * row.quality.sameTop).toFixed(1)}%`,
            ...[`${significant(row.quantizeSeconds)} s`, `${significant(row.cpuSeconds)} s`],
            String(row.threads),
            `${(row.peakBytes / 1e6).toFixed(0)} MB`,
          ];
        }),
      );
      const { tokens } = cases[0]!.row.quality;
      return [
        `**${model}**, ${tokens} tokens scored, ${calibrationTokens} tokens of calibration; the source in f32: perplexity ${significant(reference.perplexity, 4)}, NLL ${reference.nll.toFixed(4)}.`,
        table,
        verdicts(cases, all),
      ].join('\n\n');
    })
    .join('\n\n');
}

function verdicts(cases: readonly MeasuredCase[], all: readonly MeasuredCase[]): string {
  const lines: string[] = [];
  for (const name of ['GPTQ', 'AWQ', 'AutoRound']) {
    for (const [bits, goal] of Object.entries(GOALS).reverse()) {
      const shares = cases
        .filter((each) => each.name === name && each.scheme.bits === Number(bits))
        .map((each) => gapClosed(each, all))
        .filter((share) => share !== null);
      if (shares.length === 0) continue;
      const reached = shares.filter((share) => share >= goal).length;
      lines.push(
        `- ${name}, ${bits} bits: closes ${shares.map((share) => percent(share)).join(', ')} of RTN's divergence (goal ${percent(goal)}: ${reached} of ${shares.length})`,
      );
    }
  }
  return lines.join('\n');
}
