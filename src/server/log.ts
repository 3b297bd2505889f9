/** The server's log: JSON lines, or short readable lines where a person is watching. */
import { styleText } from 'node:util';
import { destination, type Logger, pino } from 'pino';

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** Logs go to stderr: stdout belongs to the address and the curl line. */
export function createLogger(level: LogLevel): Logger {
  const options = { level, base: null };
  if (process.stderr.isTTY)
    return pino(options, { write: (line) => void process.stderr.write(pretty(line)) });
  return pino(
    { ...options, timestamp: () => `,"time":"${new Date().toISOString()}"` },
    destination(2),
  );
}

const COLOURS = { 10: 'gray', 20: 'gray', 30: 'cyan', 40: 'yellow', 50: 'red', 60: 'red' } as const;
const NAMES = {
  10: 'trace',
  20: 'debug',
  30: 'info',
  40: 'warn',
  50: 'error',
  60: 'fatal',
} as const;

function pretty(line: string): string {
  const { level, time, msg, reqId, err, ...rest } = JSON.parse(line) as {
    level: keyof typeof NAMES;
    time: number;
    msg?: string;
    reqId?: string;
    err?: { stack?: string };
  };
  const clock = new Date(time).toTimeString().slice(0, 8);
  const name = styleText(COLOURS[level] ?? 'white', (NAMES[level] ?? String(level)).padEnd(5), {
    stream: process.stderr,
  });
  const details = Object.entries(rest).map(([key, value]) => {
    return `${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`;
  });
  const stack = err?.stack === undefined ? '' : `\n${err.stack}`;
  return `${[clock, name, reqId, msg, ...details].filter((part) => part).join(' ')}${stack}\n`;
}
