/**
 * The figures of README, as a chart (docs/images/headline.svg) and a table: taken from what bench/compare.ts and bench/serve/compare.ts wrote into
 * docs/benchmarks.md, and bench/quantization.ts (part beside) into docs/quantization.md, never typed. Run it after any of them.
 *
 *   node bench/headline.ts
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { escaped } from '../src/app/html.ts';
import { BENCHMARKS_DOC, QUANTIZATION_DOC, writeSection } from './lib/doc-section.ts';
import { markdownTable } from './lib/table.ts';

const README = fileURLToPath(new URL('../README.md', import.meta.url));
const CHART = fileURLToPath(new URL('../docs/images/headline.svg', import.meta.url));
const TESTS: Readonly<Record<string, string>> = { pp: 'reading a prompt', tg: 'writing' };

/** Reads on white and on black. */
const BAR_COLOUR = '#3b82c4';
/** Of the chart, in its units. */
const [LABEL_WIDTH, BAR_WIDTH, TOP, ROW] = [360, 430, 32, 26];

/** One bar. */
interface Figure {
  readonly what: string;
  readonly hasten: string;
  readonly peer: string;
  readonly ratio: number;
}

/** The first table of a section whose header begins with `column`, as records by header. */
function tableOf(document: string, section: string, column: string): Record<string, string>[] {
  const begin = document.indexOf(`<!-- begin ${section} `);
  const end = document.indexOf(`<!-- end ${section} -->`, begin);
  if (begin < 0 || end < 0) throw new Error(`there is no section "${section}"`);
  const cells = (line: string): string[] =>
    line
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.replaceAll('**', '').trim());
  const lines = document.slice(begin, end).split('\n');
  const at = lines.findIndex((line) => line.startsWith('|') && cells(line)[0] === column);
  if (at < 0) throw new Error(`section "${section}" has no table that begins with "${column}"`);
  const header = cells(lines[at]!);
  const rows: Record<string, string>[] = [];
  for (const line of lines.slice(at + 2)) {
    if (!line.startsWith('|')) break;
    rows.push(Object.fromEntries(cells(line).map((cell, i) => [header[i]!, cell])));
  }
  return rows;
}

/** Of several peers on the same test the quickest: the smallest ratio. */
function speedFigures(document: string): Figure[] {
  const worst = new Map<string, Figure>();
  for (const row of tableOf(document, 'compare', 'model')) {
    const [kind, size] = [row.test!.slice(0, 2), row.test!.slice(2)];
    if (row.threads === '1') continue;
    const what = `${row.model}, ${TESTS[kind]} (${size} tokens)`;
    const ratio = Number.parseFloat(row.ratio!);
    if (ratio >= (worst.get(what)?.ratio ?? Number.POSITIVE_INFINITY)) continue;
    const peer = row['t/s']!;
    worst.set(what, {
      what,
      hasten: `${row['hasten t/s']} tokens/s`,
      peer: `${peer} tokens/s`,
      ratio,
    });
  }
  return [...worst.values()];
}

function serverFigures(document: string): Figure[] {
  return tableOf(document, 'serve/compare', 'load')
    .filter((row) => row.load!.includes('client') && row.against!.startsWith('llama-server'))
    .map((row) => {
      const [hasten, peer] = row['req/s']!.split(':').map((text) => text.trim());
      return {
        what: `server, ${row.load}`,
        hasten: `${hasten} requests/s`,
        peer: `${peer} requests/s`,
        ratio: Number.parseFloat(row.ratio!),
      };
    });
}

/** The type that most take, and the one that is least work. */
const QUANTIZED_TYPES = ['Q4_K_M', 'Q8_0'];

function quantizingFigures(document: string): Figure[] {
  return tableOf(document, 'quantization#beside', 'type')
    .filter((row) => QUANTIZED_TYPES.includes(row.type!))
    .map((row) => ({
      what: `quantizing 1.1B weights to ${row.type}`,
      hasten: row.hasten!,
      peer: row['llama-quantize']!,
      ratio: Number.parseFloat(row['hasten is faster by']!),
    }));
}

/** Bars to compare by eye; text and axis follow the reader's light or dark. */
function chart(figures: readonly Figure[], title: string): string {
  const top = Math.max(...figures.map(({ ratio }) => ratio));
  const height = TOP + figures.length * ROW;
  const width = (ratio: number): string => ((ratio / top) * BAR_WIDTH).toFixed(1);
  const rows = figures.flatMap(({ what, ratio }, i) => {
    const y = TOP + i * ROW;
    return [
      `  <text x="${LABEL_WIDTH - 12}" y="${y + 14}" text-anchor="end">${escaped(what)}</text>`,
      `  <rect x="${LABEL_WIDTH}" y="${y}" width="${width(ratio)}" height="${ROW - 8}" rx="3" fill="${BAR_COLOUR}"/>`,
      `  <text x="${LABEL_WIDTH + Number(width(ratio)) + 8}" y="${y + 14}" class="strong">${ratio.toFixed(1)}x</text>`,
    ];
  });
  const peer = LABEL_WIDTH + Number(width(1));
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 ${height + 8}" font-family="system-ui, sans-serif" font-size="13" role="img">`,
    `  <title>${escaped(title)}</title>`,
    '  <style>text { fill: #24292f } .strong { font-weight: 600 } .quiet { fill: #6e7781 }',
    '    @media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .quiet { fill: #9198a1 } }</style>',
    ...rows,
    `  <line x1="${peer}" x2="${peer}" y1="${TOP - 8}" y2="${height}" stroke="#8b949e" stroke-dasharray="3 3"/>`,
    `  <text x="${peer}" y="${TOP - 12}" text-anchor="middle" class="quiet">llama.cpp</text>`,
    '</svg>',
    '',
  ].join('\n');
}

const document = readFileSync(BENCHMARKS_DOC, 'utf8');
const figures = [
  ...speedFigures(document),
  ...serverFigures(document),
  ...quantizingFigures(readFileSync(QUANTIZATION_DOC, 'utf8')),
];
const { ratio: best } = figures.reduce((a, b) => (a.ratio > b.ratio ? a : b));
const alt = `How many times as fast as llama.cpp: from ${Math.min(...figures.map(({ ratio }) => ratio)).toFixed(1)} to ${best.toFixed(1)}`;
writeFileSync(CHART, chart(figures, alt));
writeSection('headline#chart', `![${alt}](docs/images/headline.svg)`, README);
const text = markdownTable(
  ['2 cores of a server, AVX-512', 'hasten', 'llama.cpp', 'times'],
  figures.map(({ what, hasten, peer, ratio }) => [what, hasten, peer, `${ratio.toFixed(1)}x`]),
);
writeSection('headline', text, README);
console.log(text);
