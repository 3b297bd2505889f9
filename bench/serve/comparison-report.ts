/** A comparison of servers as Markdown. Knows nothing of measuring. */
import { markdownTable, percent, significant } from '../lib/table.ts';
import { formatMachine, type MachineReport } from '../machine.ts';
import {
  type FailedServeRun,
  type FigureName,
  medianOf,
  type ServeDuel,
  type ServeRow,
  serveDuels,
} from './comparison.ts';

export interface ServeReport {
  readonly command: string;
  readonly machine: MachineReport;
  readonly model: string;
  readonly threads: number;
  readonly roundCount: number;
  readonly versions: Readonly<Record<string, string>>;
  readonly rows: readonly ServeRow[];
  readonly failures: readonly FailedServeRun[];
}

const LATENCIES: readonly (readonly [title: string, p50: FigureName, p99: FigureName])[] = [
  ['TTFT P50 / P99 s', 'p50_ttft_ms', 'p99_ttft_ms'],
  ['ITL P50 / P99 ms', 'p50_itl_ms', 'p99_itl_ms'],
];

/** Requests a second and latencies, hasten first, each beside the peer's; what hasten lost is bold. */
export function serveDuelTable(rows: readonly ServeRow[]): string {
  const header = ['load', 'against', 'req/s', 'ratio', ...LATENCIES.map(([title]) => title)];
  return markdownTable(
    header,
    serveDuels(rows).map((duel) => [
      duel.case,
      settingName(duel.peer),
      `${rate(duel.hasten)} : ${rate(duel.peer)}`,
      ratioOf(duel),
      ...LATENCIES.map(([title, p50, p99]) => {
        const unit = title.endsWith(' s') ? 1000 : 1;
        return `${pair(duel, p50, unit)} / ${pair(duel, p99, unit)}`;
      }),
    ]),
  );
}

function rate(row: ServeRow): string {
  return significant(medianOf(row, 'request_throughput'));
}

/** At an offered rate both do as much; what differs is how long it takes. */
function ratioOf({ hasten, peer }: ServeDuel): string {
  const isOpen = hasten.requestRate !== null;
  const ratio = isOpen
    ? medianOf(peer, 'mean_e2el_ms') / medianOf(hasten, 'mean_e2el_ms')
    : medianOf(hasten, 'request_throughput') / medianOf(peer, 'request_throughput');
  const text = `${ratio.toFixed(2)}x${isOpen ? ' (E2E)' : ''}`;
  return ratio >= 1 ? text : `**${text}**`;
}

function pair({ hasten, peer }: ServeDuel, name: FigureName, unit: number): string {
  const [ours, theirs] = [medianOf(hasten, name), medianOf(peer, name)];
  const text = `${significant(ours / unit, 2)} : ${significant(theirs / unit, 2)}`;
  return ours <= theirs ? text : `**${text}**`;
}

function settingName({ server, setting }: ServeRow): string {
  return setting === '' ? server : `${server}, ${setting}`;
}

export function serveRawTable(rows: readonly ServeRow[]): string {
  const header = ['load', 'server', 'req/s', 'out tok/s', 'TTFT P50', 'P99', 'ITL P50', 'P99'];
  const ms = (row: ServeRow, name: FigureName): string => `${significant(medianOf(row, name))} ms`;
  return markdownTable(
    [...header, 'E2E P50', 'P99', 'memory', 'others', 'rounds (req/s)'],
    rows.map((row) => [
      ...[row.case, settingName(row), rate(row)],
      significant(medianOf(row, 'output_throughput')),
      ...[ms(row, 'p50_ttft_ms'), ms(row, 'p99_ttft_ms')],
      ...[ms(row, 'p50_itl_ms'), ms(row, 'p99_itl_ms')],
      ...[ms(row, 'p50_e2el_ms'), ms(row, 'p99_e2el_ms')],
      row.peakMemoryBytes === 0 ? '–' : `${significant(row.peakMemoryBytes / 1e6)} MB`,
      percent(row.foreignLoad),
      row.rounds.map((figures) => significant(figures.request_throughput)).join(' '),
    ]),
  );
}

export function formatServeComparison(report: ServeReport): string {
  const versions = Object.entries(report.versions).map(([name, text]) => `- ${name}: ${text}`);
  const failures = report.failures.map(
    (f) => `- ${f.server}, ${f.case}: ${f.message.split('\n')[0]}`,
  );
  const parts = [
    `\`${report.command}\``,
    formatMachine(report.machine),
    versions.join('\n'),
    `${report.model}, ${report.threads} threads, medians of ${report.roundCount} round${report.roundCount === 1 ? '' : 's'}, a fresh server for each row and round, the order reversed every round. Loads are "prompt + answer" in tokens, prompts of random token ids of exact length, greedy, the end token ignored; every client is \`hasten bench serve\` on the same machine. In each cell hasten : peer; what hasten lost is in bold. The peer's best setting counts. At an offered rate both finish as many requests, so the ratio is that of the mean time of a request.`,
    serveDuelTable(report.rows),
    `<details><summary>Every row</summary>\n\n${serveRawTable(report.rows)}\n\n</details>`,
  ];
  if (failures.length > 0) parts.push(`Runs that failed:\n\n${failures.join('\n')}`);
  return parts.join('\n\n');
}
