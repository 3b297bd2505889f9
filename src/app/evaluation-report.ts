/** All that an evaluation found, and its Markdown. */
import type { LoadFormat } from '../models/load-format.ts';
import type { ModelQuality, Quality, QualityComparison, TaskComparison } from './evaluate.ts';
import type { ModelCost } from './model-cost.ts';
import type { TaskScore } from './score-task.ts';

export interface EvaluationReport {
  readonly model: string;
  /** What the model was quantized to while loading; null where it runs as it is stored. */
  readonly loadIn: LoadFormat | null;
  /** The reference; null without one. */
  readonly against: string | null;
  /** Name of the text. */
  readonly text: string;
  readonly protocol: string;
  readonly precision: string;
  readonly quality: ModelQuality | QualityComparison;
  readonly tasks: readonly TaskComparison[];
  /** Speed in fast precision; null if it was not asked for. */
  readonly costs: { readonly model: ModelCost; readonly reference?: ModelCost } | null;
}

/** What stands in one column of the tables: the reference, then the model. */
interface Column {
  readonly name: string;
  readonly quality: Quality;
  readonly cost: ModelCost | undefined;
  readonly isReference: boolean;
  task(of: TaskComparison): TaskScore | undefined;
}

export interface ReportRow {
  readonly name: string;
  /** One per column. */
  readonly cells: readonly string[];
}

/** 1536 -> "1.5 kB", in powers of 1000. */
export type BytesFormat = (bytes: number) => string;

/** The model as it was run, so that it can be told from itself. */
export function modelLabel({ model, loadIn }: EvaluationReport): string {
  return loadIn === null ? model : `${model} as ${loadIn}`;
}

function columnsOf(report: EvaluationReport): Column[] {
  const { against, precision, quality, costs } = report;
  const own: Column = {
    name: `${modelLabel(report)} (${precision})`,
    ...{ quality: quality.model, cost: costs?.model, isReference: false },
    task: (of) => of.model,
  };
  if (!('reference' in quality)) return [own];
  const reference: Column = {
    name: `${against} (f32)`,
    ...{ quality: quality.reference, cost: costs?.reference, isReference: true },
    task: (of) => of.reference,
  };
  return [reference, own];
}

/** What a bad model has may be huge. */
const figure = (value: number | undefined): string | undefined =>
  value === undefined || value < 1e6 ? value?.toFixed(2) : value.toExponential(2);

const percent = (share: number): string => `${(100 * share).toFixed(2)} %`;

/** @param bytes how sizes are written */
export function reportTable(
  report: EvaluationReport,
  bytes: BytesFormat,
): { readonly header: readonly string[]; readonly rows: readonly ReportRow[] } {
  const columns = columnsOf(report);
  const row = (name: string, show: (column: Column) => string | undefined): ReportRow => ({
    name,
    cells: columns.map((column) => show(column) ?? '–'),
  });
  const divergence = (name: string, show: (quality: Quality) => string): ReportRow =>
    row(name, ({ quality, isReference }) => (isReference ? undefined : show(quality)));
  const cost = (name: string, show: (of: ModelCost) => string): ReportRow =>
    row(name, (column) => column.cost && show(column.cost));
  const rows = [
    row('perplexity', ({ quality }) => quality.perplexity.toFixed(4)),
    row('NLL', ({ quality }) => quality.nll.toFixed(5)),
  ];
  if (report.against !== null) {
    rows.push(
      divergence('KL divergence, mean', (q) => q.meanKld.toPrecision(4)),
      divergence('median', (q) => q.medianKld.toPrecision(4)),
      divergence('90 %', (q) => q.p90Kld.toPrecision(4)),
      divergence('99 %', (q) => q.p99Kld.toPrecision(4)),
      divergence('99.9 %', (q) => q.p999Kld.toPrecision(4)),
      divergence('largest', (q) => q.maxKld.toPrecision(4)),
      divergence('same first token', (q) => percent(q.sameTop)),
    );
  }
  for (const task of report.tasks) rows.push(...taskRows(task, row));
  if (report.costs !== null) {
    rows.push(
      cost('size', (c) => bytes(c.sizeBytes)),
      cost('bits per weight', (c) => c.bitsPerWeight.toFixed(2)),
      cost('prefill t/s', (c) => c.prefillTokensPerSecond.toFixed(0)),
      cost('decode t/s', (c) => c.decodeTokensPerSecond.toFixed(1)),
      cost('memory', (c) => bytes(c.residentBytes)),
      cost('memory, peak', (c) => bytes(c.peakBytes)),
    );
  }
  return { header: columns.map(({ name }) => name), rows };
}

function taskRows(
  task: TaskComparison,
  row: (name: string, show: (column: Column) => string | undefined) => ReportRow,
): ReportRow[] {
  const { name, accNorm } = task.model;
  const withError = (share: number, error: number): string =>
    `${(100 * share).toFixed(1)} ± ${(100 * error).toFixed(1)} %`;
  const rows = [
    row(`${name}, acc`, (column) => {
      const score = column.task(task);
      return score && withError(score.acc, score.accStderr);
    }),
  ];
  if (accNorm !== null) {
    rows.push(
      row(`${name}, acc_norm`, (column) => {
        const score = column.task(task);
        return score && withError(score.accNorm!, score.accNormStderr!);
      }),
    );
  } else {
    rows.push(row(`${name}, perplexity`, (column) => figure(column.task(task)?.perplexity)));
  }
  const { flips } = task;
  if (flips !== undefined) {
    const show = ({ isReference }: Column) => (isReference ? undefined : percent(flips));
    rows.push(row(`${name}, answers changed`, show));
  }
  return rows;
}

/** What the figures are of, in a sentence. */
export function reportFootnote({
  quality,
  text,
  protocol,
  tasks,
  costs,
}: EvaluationReport): string {
  const parts = [
    `${quality.model.tokens} tokens of ${text} in ${quality.windows.length} windows, protocol ${protocol}`,
    ...(tasks.length === 0
      ? []
      : [tasks.map(({ model }) => `${model.numItems} questions of ${model.name}`).join(', ')]),
    ...(costs === null ? [] : ['speed and memory in fast precision, a process for each model']),
  ];
  return parts.join('; ');
}

export function reportMarkdown(report: EvaluationReport, bytes: BytesFormat): string {
  const { header, rows } = reportTable(report, bytes);
  return [
    `| | ${header.join(' | ')} |`,
    `| --- | ${header.map(() => '---:').join(' | ')} |`,
    ...rows.map(({ name, cells }) => `| ${name} | ${cells.join(' | ')} |`),
    '',
    reportFootnote(report),
  ].join('\n');
}
