/** An evaluation as one HTML file to look at: its table, and plots. Self-contained: no script or style from elsewhere, all text escaped. */

import { KLD_SHARES, type TaskComparison } from './evaluate.ts';
import {
  type BytesFormat,
  type EvaluationReport,
  modelLabel,
  reportFootnote,
  reportTable,
} from './evaluation-report.ts';
import { escaped, htmlPage } from './html.ts';
import type { ModelCost } from './model-cost.ts';
import type { TaskScore } from './score-task.ts';
import { type Bar, type BarGroup, barChart, lineChart } from './svg-chart.ts';

const MODEL_COLOUR = '#c06040';
const REFERENCE_COLOUR = '#4878a8';

const STYLE = `
:root { color-scheme: light dark; font: 14px/1.45 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 84rem; padding: 0 1rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 34rem), 1fr)); gap: 1.5rem; }
section { min-width: 0; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 0.5rem 0; }
svg { width: 100%; height: auto; display: block; }
svg text { font: 12px system-ui, sans-serif; fill: currentColor; }
.rule { stroke: currentColor; stroke-opacity: 0.15; }
.whisker { stroke: currentColor; stroke-width: 2; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 0.15rem 0.8rem; border-bottom: 1px solid color-mix(in srgb, CanvasText 15%, Canvas); }
th:first-child, td:first-child { text-align: left; }
i { display: inline-block; width: 0.8em; height: 0.8em; margin: 0 0.4em 0 1em; }
`;

/** @param bytes how sizes are written */
export function evaluationPage(report: EvaluationReport, bytes: BytesFormat): string {
  const { against } = report;
  const model = modelLabel(report);
  const title = against === null ? model : `${model} against ${against}`;
  const plots = [
    ...divergencePlot(report),
    ...windowPlot(report),
    ...taskPlot(report),
    ...costPlot(report, bytes),
  ];
  const legend =
    against === null
      ? ''
      : `<p><i style="background:${REFERENCE_COLOUR}"></i>${escaped(against)}<i style="background:${MODEL_COLOUR}"></i>${escaped(model)}</p>`;
  const body = `<h1>${escaped(title)}</h1>
<p>${escaped(reportFootnote(report))}</p>
${legend}
<div class="plots">${plots.map(([name, svg]) => `<section><h2>${escaped(name)}</h2>${svg}</section>`).join('\n')}</div>
<h2>All figures</h2>
<div class="scroll">${table(report, bytes)}</div>
`;
  return htmlPage({ title, style: STYLE, body });
}

function table(report: EvaluationReport, bytes: BytesFormat): string {
  const { header, rows } = reportTable(report, bytes);
  const line = (tag: string, cells: readonly string[]): string =>
    `<tr>${cells.map((cell) => `<${tag}>${escaped(cell)}</${tag}>`).join('')}</tr>`;
  return `<table><thead>${line('th', ['', ...header])}</thead><tbody>${rows.map(({ name, cells }) => line('td', [name, ...cells])).join('')}</tbody></table>`;
}

/** A heading and an SVG. */
type Plot = readonly [string, string];

function divergencePlot({ quality }: EvaluationReport): Plot[] {
  if (!('reference' in quality)) return [];
  const points = KLD_SHARES.map(
    (share, i) => [100 * share, quality.kldQuantiles[i]!] as const,
  ).filter(([, kld]) => kld > 1e-9);
  const svg = lineChart({
    ...{ xLabel: 'tokens, % (ascending)', yLabel: 'KL divergence', isLogY: true },
    series: [{ name: 'KL divergence', colour: MODEL_COLOUR, points }],
  });
  return svg === '' ? [] : [['KL divergence from the reference, by share of tokens', svg]];
}

function windowPlot(report: EvaluationReport): Plot[] {
  const { against } = report;
  const { windows } = report.quality;
  const series = [
    ...(against === null
      ? []
      : [
          {
            ...{ name: against, colour: REFERENCE_COLOUR },
            points: windows.map((w, i) => [i + 1, w.referencePerplexity!] as const),
          },
        ]),
    {
      ...{ name: modelLabel(report), colour: MODEL_COLOUR },
      points: windows.map((w, i) => [i + 1, w.perplexity] as const),
    },
  ];
  if (windows.length < 2) return [];
  return [
    [
      'Perplexity by window',
      lineChart({ xLabel: 'window', yLabel: 'perplexity', isWholeX: true, series }),
    ],
  ];
}

function taskPlot(report: EvaluationReport): Plot[] {
  const bar = (name: string, colour: string, score: TaskScore): Bar => {
    const [value, error] =
      score.accNorm === null ? [score.acc, score.accStderr] : [score.accNorm, score.accNormStderr!];
    const text = `${(100 * value).toFixed(1)} %`;
    return { name, colour, value, error, text };
  };
  const groups = report.tasks.map(({ model, reference }: TaskComparison): BarGroup => {
    const label = model.accNorm === null ? model.name : `${model.name}, norm`;
    const own = bar(modelLabel(report), MODEL_COLOUR, model);
    const bars = reference ? [bar(report.against!, REFERENCE_COLOUR, reference), own] : [own];
    return { label, bars, full: 1 };
  });
  return groups.length === 0 ? [] : [['Right answers, with standard error', barChart(groups)]];
}

function costPlot(report: EvaluationReport, bytes: BytesFormat): Plot[] {
  const { costs, against } = report;
  if (costs === null) return [];
  const group = (
    label: string,
    pick: (cost: ModelCost) => number,
    show: (value: number) => string,
  ): BarGroup => {
    const bar = (name: string, colour: string, cost: ModelCost): Bar => {
      const value = pick(cost);
      return { name, colour, value, text: show(value) };
    };
    const own = bar(modelLabel(report), MODEL_COLOUR, costs.model);
    const bars = costs.reference ? [bar(against!, REFERENCE_COLOUR, costs.reference), own] : [own];
    return { label, bars };
  };
  const rate = (value: number): string => value.toFixed(value < 100 ? 1 : 0);
  return [
    [
      'Size, speed and memory (fast precision)',
      barChart([
        group('size', (c) => c.sizeBytes, bytes),
        group(
          'bits per weight',
          (c) => c.bitsPerWeight,
          (bits) => bits.toFixed(2),
        ),
        group('prefill, tokens/s', (c) => c.prefillTokensPerSecond, rate),
        group('decode, tokens/s', (c) => c.decodeTokensPerSecond, rate),
        group('memory', (c) => c.residentBytes, bytes),
        group('memory, peak', (c) => c.peakBytes, bytes),
      ]),
    ],
  ];
}
