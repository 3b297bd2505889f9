/** Runs `hasten` as a user does, through its launcher, and gives back all that it did. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';

export const REPOSITORY = fileURLToPath(new URL('..', import.meta.url));
const LAUNCHER = fileURLToPath(new URL('../bin/hasten.js', import.meta.url));

/** No network, no colours, and caches of the tests' own (in a folder that git ignores). */
export const TEST_ENVIRONMENT: Readonly<Record<string, string>> = {
  HF_HUB_OFFLINE: '1',
  NO_COLOR: '1',
  HASTEN_CACHE: fileURLToPath(new URL('../.cache/test', import.meta.url)),
};

export interface HastenResult {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface HastenOptions {
  readonly stdin?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
}

/** Starts it with pipes for stdin, stdout and stderr. */
export function startHasten(args: readonly string[], options: HastenOptions = {}): ChildProcess {
  return spawn(process.execPath, [LAUNCHER, ...args], {
    cwd: options.cwd ?? REPOSITORY,
    env: { ...process.env, ...TEST_ENVIRONMENT, ...options.env },
  });
}

export async function runHasten(
  args: readonly string[],
  options: HastenOptions = {},
): Promise<HastenResult> {
  const child = startHasten(args, options);
  child.stdin?.end(options.stdin ?? '');
  const [stdout, stderr, [code, signal]] = await Promise.all([
    text(child.stdout!),
    text(child.stderr!),
    once(child, 'close') as Promise<[number | null, NodeJS.Signals | null]>,
  ]);
  return { code, signal, stdout, stderr };
}
