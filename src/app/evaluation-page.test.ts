import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { KLD_SHARES } from './evaluate.ts';
import { evaluationPage } from './evaluation-page.ts';
import { type EvaluationReport, reportMarkdown } from './evaluation-report.ts';
import { barChart, lineChart, ticks } from './svg-chart.ts';

const quality = (perplexity: number, meanKld: number) => ({
  ...{ tokens: 100, nll: Math.log(perplexity), perplexity, meanKld, sameTop: 0.9 },
  ...{ medianKld: 0.01, p90Kld: 0.1, p99Kld: 0.2, p999Kld: 0.3, maxKld: 0.4 },
});
const cost = (sizeBytes: number) => ({
  ...{ sizeBytes, bitsPerWeight: 4.5, prefillTokensPerSecond: 1000, decodeTokensPerSecond: 99.5 },
  ...{ residentBytes: 2 * sizeBytes, peakBytes: 3 * sizeBytes },
});
const task = (acc: number) => ({
  ...{ name: 'capitals', numItems: 50, acc, accStderr: 0.05, perplexity: 3 },
  ...{ accNorm: acc, accNormStderr: 0.05 },
});
const REPORT: EvaluationReport = {
  ...{
    model: 'a <small> one',
    loadIn: null,
    against: 'the "large" one',
    text: 'book.txt',
    precision: 'fast',
  },
  protocol: 'disjoint-512',
  quality: {
    ...{ model: quality(12, 0.05), reference: quality(10, 0) },
    windows: [
      { perplexity: 11, referencePerplexity: 9, meanKld: 0.04 },
      { perplexity: 13, referencePerplexity: 11, meanKld: 0.06 },
    ],
    kldQuantiles: KLD_SHARES.map((share) => 0.4 * share ** 2),
  },
  tasks: [{ model: task(0.5), reference: task(0.75), flips: 0.3 }],
  costs: { model: cost(1000), reference: cost(4000) },
};
const bytes = (n: number): string => `${n} bytes`;

describe('an evaluation', () => {
  it('is a page with all plots that loads nothing and escapes names', () => {
    const page = evaluationPage(REPORT, bytes);
    assert.ok(!/(src|href)=|@import|<script/.test(page));
    assert.ok(!page.includes('<small>') && !page.includes('"large"'));
    assert.equal(page.match(/<svg /g)?.length, 4);
    assert.equal(page.match(/<polyline /g)?.length, 3); // divergences, two perplexities
    assert.ok(!/NaN|undefined|Infinity/.test(page));
    assert.ok(page.includes('12000 bytes'));
  });

  it('tells a model from itself where it was quantized while loading', () => {
    const again: EvaluationReport = { ...REPORT, loadIn: 'nf4', against: REPORT.model };
    const [header] = reportMarkdown(again, bytes).split('\n');
    assert.equal(header, '| | a <small> one (f32) | a <small> one as nf4 (fast) |');
    assert.ok(evaluationPage(again, bytes).includes('one as nf4 against'));
  });

  it('of a model alone has no plot of divergences', () => {
    const { model, windows } = REPORT.quality;
    const alone = { ...REPORT, against: null, quality: { model, windows }, tasks: [], costs: null };
    const page = evaluationPage(alone, bytes);
    assert.equal(page.match(/<svg /g)?.length, 1);
    assert.ok(!reportMarkdown(alone, bytes).includes('KL divergence'));
  });

  it('is a table in Markdown: the reference, then the model', () => {
    const lines = reportMarkdown(REPORT, bytes).split('\n');
    assert.equal(lines[0], '| | the "large" one (f32) | a <small> one (fast) |');
    assert.ok(lines.includes('| perplexity | 10.0000 | 12.0000 |'));
    assert.ok(lines.includes('| KL divergence, mean | – | 0.05000 |'));
    assert.ok(lines.includes('| capitals, acc | 75.0 ± 5.0 % | 50.0 ± 5.0 % |'));
    assert.ok(lines.includes('| capitals, answers changed | – | 30.00 % |'));
    assert.ok(lines.includes('| memory, peak | 12000 bytes | 3000 bytes |'));
    assert.match(
      lines.at(-1)!,
      /100 tokens of book\.txt in 2 windows, .* 50 questions of capitals/,
    );
  });
});

describe('charts', () => {
  it('have round ticks', () => {
    assert.deepEqual(ticks(0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1]);
    assert.deepEqual(ticks(9, 13), [9, 10, 11, 12, 13]);
    assert.deepEqual(ticks(3, 3), [3]);
  });

  it('draw larger values higher, and on a logarithmic scale none that are not positive', () => {
    const points = [
      [0, 0],
      [1, 0.01],
      [2, 1],
    ] as const;
    const series = [{ name: 'one', colour: '#000', points }];
    const svg = lineChart({ xLabel: 'x', yLabel: 'y', series, isLogY: true });
    const drawn = /points="([^"]+)"/
      .exec(svg)![1]!
      .split(' ')
      .map((p) => p.split(',').map(Number));
    assert.equal(drawn.length, 2);
    assert.ok(drawn[1]![0]! > drawn[0]![0]! && drawn[1]![1]! < drawn[0]![1]!);
    assert.equal(lineChart({ xLabel: 'x', yLabel: 'y', series: [] }), '');
  });

  it('label whole numbers only where they count', () => {
    const points = [1, 2].map((x) => [x, x] as const);
    const series = [{ name: 'a', colour: 'red', points }];
    const labels = (isWholeX: boolean): string =>
      lineChart({ xLabel: 'window', yLabel: 'y', isWholeX, series });
    assert.match(labels(false), />1\.2</);
    assert.equal(labels(true).match(/text-anchor="middle">[\d.]+</g)?.length, 2);
  });

  it('give the largest of a group the full width, and zero none', () => {
    const bar = (value: number) => ({ name: 'a', colour: '#000', value, text: `${value}` });
    const svg = barChart([{ label: 'some', bars: [bar(2), bar(1), bar(0)] }]);
    const widths = [...svg.matchAll(/ width="([\d.]+)"/g)].map(([, width]) => Number(width));
    assert.equal(widths[1], widths[0]! / 2);
    assert.equal(widths[2], 0);
  });
});
