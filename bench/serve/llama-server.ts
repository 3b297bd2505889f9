/** llama-server compiled for this very machine, of the same llama.cpp version as the other peers. Knows its build, nothing of measuring. */
import { existsSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { runChild } from '../lib/child.ts';
import { nativeLlamaBench } from '../peers/install.ts';

/**
 * Path of the program; the first time it is compiled, beside llama-bench and from the same sources (minutes; cmake, g++).
 * @throws {ChildFailedError} if npm, cmake or the compiler fail
 */
export async function nativeLlamaServer(numJobs = availableParallelism()): Promise<string> {
  const bench = await nativeLlamaBench(numJobs);
  const program = join(dirname(bench), 'llama-server');
  if (existsSync(program)) return program;
  const build = dirname(dirname(bench));
  const flags = ['-DLLAMA_BUILD_SERVER=ON', '-DLLAMA_BUILD_MTMD=ON', '-DLLAMA_BUILD_UI=OFF'];
  await runChild('cmake', ['-S', join(dirname(build), 'source'), '-B', build, ...flags]);
  const target = ['--build', build, '--target', 'llama-server', '--parallel', `${numJobs}`];
  await runChild('cmake', target, { timeoutMs: 2 * 3_600_000 });
  return program;
}
