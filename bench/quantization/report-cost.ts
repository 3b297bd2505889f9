/** Loaded before a command (`node --import`): when the process ends, its CPU time and peak memory go into the file that BENCH_COST_FILE names. */
import { writeFileSync } from 'node:fs';
import { isMainThread } from 'node:worker_threads';
import { peakBytes } from '../../src/platform/peak-memory.ts';

export interface ProcessCost {
  /** Of all threads, user and system. */
  readonly cpuSeconds: number;
  /** Largest resident set. */
  readonly peakBytes: number;
}

export const COST_FILE = 'BENCH_COST_FILE';

const path = process.env[COST_FILE];
if (path !== undefined && isMainThread) {
  process.on('exit', () => {
    const { user, system } = process.cpuUsage();
    const cost: ProcessCost = { cpuSeconds: (user + system) / 1e6, peakBytes: peakBytes() };
    writeFileSync(path, JSON.stringify(cost));
  });
}
