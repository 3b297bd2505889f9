/** `hasten serve` as a process, for tests. */
import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout } from 'node:timers/promises';
import { startHasten } from './run-hasten.ts';

export interface Serving {
  readonly child: ChildProcess;
  readonly url: string;
  /** All that was printed so far. */
  readonly output: () => { stdout: string; stderr: string };
  /** Of the engine that runs now. */
  readonly enginePid: () => number;
}

/** Starts a server and waits until its model is ready. */
export async function serve(
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<Serving> {
  const child = startHasten(['serve', ...args, '--port', '0'], { env });
  let stdout = '';
  let stderr = '';
  child.stdout?.on('data', (data) => {
    stdout += data;
  });
  child.stderr?.on('data', (data) => {
    stderr += data;
  });
  for (let i = 0; i < 800 && !stdout.includes('Ctrl-C'); i++) {
    assert.equal(child.exitCode, null, stderr);
    await setTimeout(25);
  }
  const url = /at (https?:\S+)/.exec(stdout)?.[1];
  assert.ok(url, stderr);
  const enginePid = (): number => Number(/.*"enginePid":(\d+)/s.exec(stderr)?.[1]);
  return { child, url, output: () => ({ stdout, stderr }), enginePid };
}

export async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<number | null> {
  if (child.exitCode !== null) return child.exitCode;
  child.kill(signal);
  const [code] = (await once(child, 'close')) as [number | null];
  return code;
}
