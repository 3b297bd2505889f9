/**
 * Runs every test of the project (`*.test.ts` under src/ and test/) with Node's own runner, a bounded number of files at a time, and prints
 * the runner's summary last.
 *
 *   node scripts/test.ts [part of a path ...]   only the files whose path holds one of these
 */
import { spawn } from 'node:child_process';
import { globSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const FOLDERS = ['src', 'test'];
/** A file that takes longer hangs; the slowest takes well under a minute. */
const FILE_TIMEOUT_MS = 300_000;

const wanted = process.argv.slice(2);
const files = FOLDERS.flatMap((folder) => globSync(`${folder}/**/*.test.ts`, { cwd: root }))
  .filter((file) => wanted.length === 0 || wanted.some((part) => file.includes(part)))
  .sort();
if (files.length === 0) {
  console.error(`no test file has ${wanted.map((part) => `"${part}"`).join(' or ')} in its path`);
  process.exit(1);
}

const runner = spawn(
  process.execPath,
  [
    '--disable-warning=ExperimentalWarning',
    '--test',
    `--test-concurrency=${Math.max(1, Math.min(4, availableParallelism()))}`,
    `--test-timeout=${FILE_TIMEOUT_MS}`,
    ...files,
  ],
  { cwd: root, stdio: 'inherit' },
);
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => runner.kill(signal));
runner.on('exit', (code, signal) => {
  process.exitCode = code ?? (signal ? 1 : 0);
});
