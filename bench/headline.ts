/**
 * The figures of README's section on benchmarks, as a chart and a table: taken from what bench/compare.ts and bench/serve/compare.ts wrote into
 * docs/benchmarks.md, never typed. Run it after either of them.
 *
 *   node bench/headline.ts
 */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { BENCHMARKS_DOC, writeSection } from './lib/doc-section.ts';
import { markdownTable } from './lib/table.ts';

const README = fileURLToPath(new URL('../README.md', import.meta.url));
const TESTS: Readonly<Record<string, string>> = { pp: 'reading a prompt', tg: 'writing' };

/** Reads on white and on black. */
const BAR_COLOUR = '#3b82c4';

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
  if (begin < 0 || end < 0) throw new Error(`docs/benchmarks.md has no section "${section}"`);
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

/** A picture where Mermaid is drawn (GitHub, GitLab), readable where it is not. */
function chart(figures: readonly Figure[]): string {
  const top = Math.ceil(Math.max(...figures.map(({ ratio }) => ratio)));
  return [
    '```mermaid',
    `%%{init: {"themeVariables": {"xyChart": {"plotColorPalette": "${BAR_COLOUR}"}}}}%%`,
    'xychart-beta horizontal',
    '    title "times as fast as llama.cpp"',
    `    x-axis [${figures.map(({ what }) => `"${what}"`).join(', ')}]`,
    `    y-axis 0 --> ${top}`,
    `    bar [${figures.map(({ ratio }) => ratio).join(', ')}]`,
    '```',
  ].join('\n');
}

const document = readFileSync(BENCHMARKS_DOC, 'utf8');
const figures = [...speedFigures(document), ...serverFigures(document)];
const text = [
  chart(figures),
  markdownTable(
    ['2 cores of a server, AVX-512', 'hasten', 'llama.cpp', 'times'],
    figures.map(({ what, hasten, peer, ratio }) => [what, hasten, peer, `${ratio.toFixed(1)}x`]),
  ),
].join('\n\n');
writeSection('headline', text, README);
console.log(text);
