/** A comparison as Markdown: who was faster, how near to the machine's limits, and every measured row. Knows nothing of measuring. */
import { markdownTable, percent, significant } from '../lib/table.ts';
import { formatMachine, type MachineReport } from '../machine.ts';
import { type ComparisonRow, type Duel, duels, type FailedRun } from './comparison.ts';

export interface ComparisonReport {
  readonly command: string;
  readonly machine: MachineReport;
  readonly rounds: number;
  readonly repetitions: number;
  /** Version by engine. */
  readonly versions: Readonly<Record<string, string>>;
  readonly models: readonly { readonly name: string; readonly fileBytes: number }[];
  readonly rows: readonly ComparisonRow[];
  readonly failures: readonly FailedRun[];
}

/** Medians, hasten beside each peer. */
export function duelTable(rows: readonly ComparisonRow[]): string {
  const header = ['model', 'test', 'threads', 'ISA', 'hasten t/s', 'limit'];
  const cells = duels(rows)
    .toSorted((a, b) => order(a).localeCompare(order(b)))
    .map(({ hasten, peer, ratio }) => [
      ...[hasten.model, hasten.test, `${hasten.threads}`, hasten.isa],
      ...[speed(hasten), limitOf(hasten), ...shares(hasten)],
      ...[`${peer.engine}${peer.setting === '' ? '' : `, ${peer.setting}`}`, speed(peer)],
      ratio >= 1 ? `${ratio.toFixed(2)}x` : `**${ratio.toFixed(2)}x**`,
    ]);
  return markdownTable([...header, ...SHARES, 'against', 't/s', 'ratio'], cells);
}

function order({ hasten, peer }: Duel): string {
  return [peer.engine, hasten.isa === 'best' ? '' : hasten.isa, hasten.test, hasten.model]
    .concat(`${hasten.threads}`)
    .join('\n');
}

const SHARES = ['share', 'of median'] as const;

function shares(row: ComparisonRow): string[] {
  return [percent(row.limitShare), percent(row.medianLimitShare)];
}

function speed(row: ComparisonRow): string {
  return significant(row.tokensPerSecond.median);
}

function limitOf(row: ComparisonRow): string {
  if (row.bytesPerSecond !== null) return `${significant(row.bytesPerSecond / 1e9)} GB/s`;
  return `${significant((row.opsPerSecond ?? Number.NaN) / 1e9)} GOPS`;
}

/** Every row with its spread and the value of each round. */
export function rawTable(rows: readonly ComparisonRow[]): string {
  return markdownTable(
    [
      'model',
      'test',
      'threads',
      'ISA',
      'engine',
      'median t/s',
      'spread',
      ...SHARES,
      'others',
      'rounds',
    ],
    rows.map((row) => [
      ...[row.model, row.test, `${row.threads}`, row.isa],
      `${row.engine}${row.setting === '' ? '' : `, ${row.setting}`}`,
      ...[speed(row), percent(row.tokensPerSecond.spread)],
      ...[...shares(row), percent(row.foreignLoad)],
      row.tokensPerSecond.values.map((value) => significant(value)).join(' '),
    ]),
  );
}

export function formatComparison(report: ComparisonReport): string {
  const versions = Object.entries(report.versions).map(([name, text]) => `${name}: ${text}`);
  const failures = report.failures.map(
    (f) => `- ${f.engine} on ${f.model}, ${f.threads} threads: ${f.message.split('\n')[0]}`,
  );
  const parts = [
    `\`${report.command}\``,
    formatMachine(report.machine),
    versions.map((text) => `- ${text}`).join('\n'),
    `Medians of ${report.rounds} rounds (each ${report.repetitions} repetitions in a fresh process, order reversed every round). A ratio below 1 is in bold: hasten lost. "Share" is of the machine's measured read bandwidth (tg) or int8 peak (pp) on as many threads, above, the best of many short rounds; "of median" is the share of their median, which on a machine that others use too may be far below; "others" is the share of all CPU time that other processes took during the worst round.`,
    duelTable(report.rows),
    `<details><summary>Every row, every round</summary>\n\n${rawTable(report.rows)}\n\n</details>`,
  ];
  if (failures.length > 0) parts.push(`Runs that failed:\n\n${failures.join('\n')}`);
  return parts.join('\n\n');
}
