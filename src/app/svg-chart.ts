/**
 * Two kinds of chart as inline SVG: lines over a number, and groups of bars. Colours of text and axes are the page's (`currentColor`), so that they fit light and
 * dark. All text is escaped.
 */
import { escaped } from './html.ts';

const WIDTH = 640;
const HEIGHT = 300;
/** Around the plot: axis labels to the left and below. */
const MARGIN = { left: 64, right: 16, top: 12, bottom: 44 };

export interface Series {
  readonly name: string;
  readonly colour: string;
  /** x and y, ascending in x. */
  readonly points: readonly (readonly [number, number])[];
}

export interface LineChart {
  readonly xLabel: string;
  readonly yLabel: string;
  readonly series: readonly Series[];
  /** Decades upwards; what is not positive is left out. */
  readonly isLogY?: boolean;
  /** x counts: no labels between whole numbers. */
  readonly isWholeX?: boolean;
  formatX?(x: number): string;
}

export interface Bar {
  readonly name: string;
  readonly colour: string;
  readonly value: number;
  /** Half the length of its whisker. */
  readonly error?: number;
  /** What stands beside it. */
  readonly text: string;
}

export interface BarGroup {
  readonly label: string;
  readonly bars: readonly Bar[];
  /** What a full bar is worth; the group's largest value by default. */
  readonly full?: number;
}

const fixed = (value: number): string => value.toFixed(1);

/** Some 5 round numbers from `low` to `high`. */
export function ticks(low: number, high: number): number[] {
  if (!(high > low)) return [low];
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10);
  const first = Math.ceil(low / step - 1e-9);
  const count = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({ length: count }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

const decades = (low: number, high: number): number[] =>
  Array.from(
    { length: Math.floor(high + 1e-9) - Math.ceil(low - 1e-9) + 1 },
    (_, i) => Math.ceil(low - 1e-9) + i,
  );

function text(x: number, y: number, content: string, attributes = ''): string {
  return `<text x="${fixed(x)}" y="${fixed(y)}" ${attributes}>${escaped(content)}</text>`;
}

/** @returns an `<svg>`; empty where there is nothing to draw */
export function lineChart(chart: LineChart): string {
  const { xLabel, yLabel, series, isLogY = false, isWholeX = false, formatX } = chart;
  const scaled = series.map(({ points, ...rest }) => ({
    ...rest,
    points: points
      .filter(([, y]) => Number.isFinite(y) && (!isLogY || y > 0))
      .map(([x, y]) => [x, isLogY ? Math.log10(y) : y] as const),
  }));
  const all = scaled.flatMap(({ points }) => points);
  if (all.length === 0) return '';
  const [lowX, highX] = range(all.map(([x]) => x));
  const [lowY, highY] = isLogY ? decadesAround(all) : range(all.map(([, y]) => y));
  const right = WIDTH - MARGIN.right;
  const bottom = HEIGHT - MARGIN.bottom;
  const atX = (x: number) => MARGIN.left + ((x - lowX) / (highX - lowX)) * (right - MARGIN.left);
  const atY = (y: number) => bottom - ((y - lowY) / (highY - lowY)) * (bottom - MARGIN.top);
  const rules = (isLogY ? decades(lowY, highY) : ticks(lowY, highY)).map((y) => {
    const label = isLogY ? `${10 ** y}` : `${y}`;
    const line = `<line class="rule" x1="${MARGIN.left}" x2="${right}" y1="${fixed(atY(y))}" y2="${fixed(atY(y))}"/>`;
    return line + text(MARGIN.left - 6, atY(y) + 4, label, 'text-anchor="end"');
  });
  const shownX = ticks(lowX, highX).filter((x) => !isWholeX || Number.isInteger(x));
  const below = shownX.map((x) =>
    text(atX(x), bottom + 16, formatX?.(x) ?? `${x}`, 'text-anchor="middle"'),
  );
  const lines = scaled.map(({ name, colour, points }) => {
    const path = points.map(([x, y]) => `${fixed(atX(x))},${fixed(atY(y))}`).join(' ');
    return `<polyline fill="none" stroke="${colour}" stroke-width="2" points="${path}"><title>${escaped(name)}</title></polyline>`;
  });
  return svg(HEIGHT, [
    ...[...rules, ...below, ...lines],
    text((MARGIN.left + right) / 2, HEIGHT - 8, xLabel, 'text-anchor="middle"'),
    `<g transform="translate(12 ${fixed((MARGIN.top + bottom) / 2)}) rotate(-90)">${text(0, 0, yLabel, 'text-anchor="middle"')}</g>`,
  ]);
}

/** Bars from left to right, one below the other. */
export function barChart(groups: readonly BarGroup[]): string {
  const barHeight = 18;
  const left = 150;
  const widest = WIDTH - left - 130;
  const parts: string[] = [];
  let y = 4;
  for (const { label, bars, full } of groups) {
    const largest = full ?? Math.max(...bars.map(({ value }) => value));
    const width = (value: number) => (largest > 0 ? (widest * Math.max(0, value)) / largest : 0);
    const middle = y + (bars.length * (barHeight + 3)) / 2 + 3;
    parts.push(text(left - 8, middle, label, 'text-anchor="end"'));
    for (const bar of bars) {
      const end = left + width(bar.value);
      parts.push(
        `<rect x="${left}" y="${y}" width="${fixed(width(bar.value))}" height="${barHeight}" fill="${bar.colour}"><title>${escaped(`${bar.name}: ${bar.text}`)}</title></rect>`,
      );
      const whisker = bar.error === undefined ? 0 : width(bar.error);
      if (whisker > 0) {
        const center = y + barHeight / 2;
        parts.push(
          `<line class="whisker" x1="${fixed(end - whisker)}" x2="${fixed(end + whisker)}" y1="${center}" y2="${center}"/>`,
        );
      }
      parts.push(text(end + whisker + 6, y + 13, bar.text));
      y += barHeight + 3;
    }
    y += 12;
  }
  return groups.length === 0 ? '' : svg(y, parts);
}

function svg(height: number, parts: readonly string[]): string {
  return `<svg viewBox="0 0 ${WIDTH} ${height}" role="img">${parts.join('')}</svg>`;
}

/** A range of no width gets one. */
function range(values: readonly number[]): [number, number] {
  const low = Math.min(...values);
  const high = Math.max(...values);
  return high > low ? [low, high] : [low - 0.5, high + 0.5];
}

/** Whole decades around what is drawn. */
function decadesAround(points: readonly (readonly [number, number])[]): [number, number] {
  const [low, high] = range(points.map(([, y]) => y));
  return [Math.floor(low), Math.ceil(high)];
}
