/**
 * What goes to the terminal: results to stdout, everything else to stderr. Colours only where the stream is a terminal and NO_COLOR is
 * unset (`util.styleText` decides that).
 */
import { once } from 'node:events';
import { styleText } from 'node:util';

type Style = Parameters<typeof styleText>[0];

/** `text` coloured for stdout, or as it is where colours do not belong. */
export function styled(style: Style, text: string): string {
  return styleText(style, text, { stream: process.stdout });
}

/** `text` coloured for stderr. */
export function styledError(style: Style, text: string): string {
  return styleText(style, text, { stream: process.stderr });
}

/** Writes to stdout and waits while the reader is slow. */
export async function writeOut(text: string): Promise<void> {
  if (!process.stdout.write(text)) await once(process.stdout, 'drain');
}

/** The one JSON object of a `--json` command. */
export function printJson(value: unknown): Promise<void> {
  return writeOut(`${JSON.stringify(value)}\n`);
}

export function printLine(text = ''): Promise<void> {
  return writeOut(`${text}\n`);
}

/** A remark for the person at the terminal. */
export function note(text: string): void {
  process.stderr.write(`${text}\n`);
}

/**
 * `hasten ... | head` closes the pipe early: that ends the program quietly, as it does other tools. So does a terminal that is gone (EIO).
 * What cannot be written for another reason, such as a full disk, is said.
 */
export function handleBrokenPipes(): void {
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EPIPE' || error.code === 'EIO') process.exit(0);
      if (stream === process.stdout) {
        note(`${styledError('red', 'error:')} cannot write the output: ${error.message}`);
      }
      process.exit(1);
    });
  }
}

/** Columns padded to their widest cell; numbers (a leading digit) to the right. */
export function formatTable(
  header: readonly string[],
  rows: readonly (readonly string[])[],
): string {
  const widths = header.map((title, column) =>
    Math.max(title.length, ...rows.map((row) => (row[column] ?? '').length)),
  );
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, column) => {
        const width = widths[column] ?? 0;
        return /^[\d.-]/.test(cell) ? cell.padStart(width) : cell.padEnd(width);
      })
      .join('  ')
      .trimEnd();
  return [styled('bold', line(header)), ...rows.map(line)].join('\n');
}

/** 1536 -> "1.5 kB", in powers of 1000 as disks and networks count. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 || value >= 100 ? value.toFixed(0) : value.toFixed(1)} ${units[unit]}`;
}

/** 71.2 -> "1m11s". */
export function formatSeconds(seconds: number): string {
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m${String(whole % 60).padStart(2, '0')}s`;
  return `${Math.floor(whole / 3600)}h${String(Math.floor((whole % 3600) / 60)).padStart(2, '0')}m`;
}
