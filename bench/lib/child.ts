/**
 * Runs a measurement in a fresh process and gives back what it printed. Knows nothing of what it runs.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';

export class ChildFailedError extends Error {
  readonly command: string;
  readonly exitCode: number | null;

  constructor(command: string, exitCode: number | null, signal: string | null, stderr: string) {
    const how = exitCode === null ? `was ended by ${signal}` : `exited with ${exitCode}`;
    super(`${command}\n  ${how}: ${stderr.trim().split('\n').slice(-6).join('\n  ')}`);
    this.name = 'ChildFailedError';
    this.command = command;
    this.exitCode = exitCode;
  }
}

export interface ChildOptions {
  readonly cwd?: string;
  readonly env?: NodeJS.ProcessEnv;
  /** Default 20 minutes; a child that hangs is killed. */
  readonly timeoutMs?: number;
  /** Written to the child's stdin. */
  readonly input?: string;
}

/**
 * @returns stdout as text
 * @throws {ChildFailedError} if the process does not exit with 0; its last lines of stderr are in the message
 */
export async function runChild(
  file: string,
  args: readonly string[],
  options: ChildOptions = {},
): Promise<string> {
  const { cwd, env, timeoutMs = 20 * 60_000, input } = options;
  const child = spawn(file, args, { cwd, env, timeout: timeoutMs, stdio: 'pipe' });
  const stdout: Buffer[] = [];
  const stderr: Buffer[] = [];
  child.stdout.on('data', (part: Buffer) => stdout.push(part));
  child.stderr.on('data', (part: Buffer) => stderr.push(part));
  child.stdin.on('error', () => {}); // A child that dies early says why itself.
  child.stdin.end(input ?? '');
  const [code, signal] = (await once(child, 'close')) as [number | null, string | null];
  if (code !== 0) {
    const command = [file, ...args].map((word) => (/\s/.test(word) ? `'${word}'` : word)).join(' ');
    throw new ChildFailedError(command, code, signal, Buffer.concat(stderr).toString());
  }
  return Buffer.concat(stdout).toString();
}

/** The last line of stdout that is a JSON object or array, whatever came before it. */
export function lastJson(stdout: string): unknown {
  try {
    return JSON.parse(stdout);
  } catch {
    const line = stdout
      .trimEnd()
      .split('\n')
      .findLast((text) => /^[[{]/.test(text));
    if (line === undefined) throw new Error(`no JSON in the output: ${stdout.slice(-200)}`);
    return JSON.parse(line);
  }
}
