/** Markdown tables that also read well in a terminal. Knows nothing of what is in them. */

const NUMERIC = /^[-+<>≥≤~]?[\d.,]+(?:\s?(?:x|×|%|ms|s|t\/s|GB\/s|GOPS|GFLOP\/s|MB))?$/;

/** Pads the columns; columns whose cells are all numbers (or a dash) go to the right. */
export function markdownTable(
  header: readonly string[],
  rows: readonly (readonly string[])[],
): string {
  const widths = header.map((title, column) =>
    Math.max(3, title.length, ...rows.map((row) => (row[column] ?? '').length)),
  );
  const isNumeric = header.map(
    (_, column) =>
      rows.length > 0 &&
      rows.every((row) => {
        const cell = (row[column] ?? '').replaceAll('*', '');
        return cell === '' || cell === '–' || NUMERIC.test(cell);
      }),
  );
  const line = (cells: readonly string[]): string =>
    `| ${widths
      .map((width, column) => {
        const cell = cells[column] ?? '';
        return isNumeric[column] ? cell.padStart(width) : cell.padEnd(width);
      })
      .join(' | ')} |`;
  const rule = widths.map((width, column) =>
    isNumeric[column] ? `${'-'.repeat(width - 1)}:` : '-'.repeat(width),
  );
  return [line(header), line(rule), ...rows.map(line)].join('\n');
}

/** Three significant digits, without an exponent: 1234 -> "1,234", 12.345 -> "12.3". */
export function significant(value: number, digits = 3): string {
  if (!Number.isFinite(value)) return '–';
  return Number(value.toPrecision(digits)).toLocaleString('en-US', {
    maximumFractionDigits: 10,
    useGrouping: value >= 10_000,
  });
}

export function percent(share: number): string {
  return Number.isFinite(share) ? `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}%` : '–';
}

/** Milliseconds for people. */
export function ms(value: number): string {
  return `${significant(value)} ms`;
}
