/**
 * Rates of a kernel on one or more threads at once: many short rounds, of which the best says what the machine can do and the median what
 * it did while others may have been using it. Knows threads and clocks, not what the kernel does.
 */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { allocate, u64 } from '../../src/platform/native-memory.ts';
import { loadCode } from '../../src/targets/x64/loader.ts';
import { lowerToX64 } from '../../src/targets/x64/lower.ts';
import { median } from '../lib/statistics.ts';
import { type PeakKernel, RESULT_BYTES } from './peak-kernels.ts';
import { Control, type PeakWorkerData } from './peak-worker.ts';

export interface Rate {
  /** Work per second, all threads together. */
  readonly best: number;
  readonly median: number;
}

export interface MeasureOptions {
  readonly numThreads: number;
  readonly rounds: number;
  /** Iterations of the kernel per thread and round. */
  readonly iterations: number;
  /** Memory that the kernel reads: each thread gets its own equal part. */
  readonly data?: { readonly address: bigint; readonly bytesPerThread: number };
}

/**
 * @throws {UnsupportedPlatformError | NativeCodeRefusedError} where no code can be loaded
 * @throws {ThreadStuckError} if a round does not end within a minute
 */
export async function measureRate(kernel: PeakKernel, options: MeasureOptions): Promise<Rate> {
  const { numThreads, rounds, iterations, data } = options;
  const { program } = kernel;
  using code = loadCode([{ name: 'kernel', code: lowerToX64(program) }], { numArguments: 3 });
  const tableBytes = Math.max(64, 8 * program.params.length);
  using memory = allocate(numThreads * (tableBytes + RESULT_BYTES));
  const control = new SharedArrayBuffer(4 * Control.numWords);
  const times = new SharedArrayBuffer(16 * numThreads);
  const workers = Array.from({ length: numThreads }, (_, rank) => {
    const table = memory.address + BigInt(rank * (tableBytes + RESULT_BYTES));
    const values: Record<string, bigint> = {
      result: table + BigInt(tableBytes),
      count: BigInt(iterations),
      data: (data?.address ?? 0n) + BigInt(rank * (data?.bytesPerThread ?? 0)),
    };
    u64(table, program.params.length).set(program.params.map((name) => values[name]!));
    const peak: PeakWorkerData = { control, times, rank, code: code.address('kernel'), table };
    return new Worker(new URL('./peak-worker.ts', import.meta.url), { workerData: { peak } });
  });
  const ended = workers.map((worker) => once(worker, 'exit'));
  const words = new Int32Array(control);
  const clock = new BigInt64Array(times);
  try {
    await waitFor(words, Control.ready, numThreads);
    const rates: number[] = [];
    for (let round = 1; round <= rounds + 1; round++) {
      Atomics.store(words, Control.finished, 0);
      Atomics.store(words, Control.arrived, 0);
      Atomics.store(words, Control.round, round);
      Atomics.notify(words, Control.round);
      await waitFor(words, Control.finished, numThreads);
      if (round === 1) continue; // Pages are touched and clocks rise in it.
      const begins = [...clock].filter((_, i) => i % 2 === 0);
      const ends = [...clock].filter((_, i) => i % 2 === 1);
      const first = begins.reduce((a, b) => (a < b ? a : b));
      const last = ends.reduce((a, b) => (a > b ? a : b));
      const seconds = Number(last - first) / 1e9;
      rates.push((numThreads * iterations * kernel.workPerIteration) / seconds);
    }
    return { best: Math.max(...rates), median: median(rates) };
  } finally {
    Atomics.store(words, Control.round, -1);
    Atomics.notify(words, Control.round);
    await Promise.all(ended);
  }
}

export class ThreadStuckError extends Error {
  constructor(expected: number, seen: number) {
    super(`peak measurement: ${seen} of ${expected} threads answered within a minute`);
    this.name = 'ThreadStuckError';
  }
}

async function waitFor(words: Int32Array<SharedArrayBuffer>, index: number, count: number) {
  const deadline = performance.now() + 60_000;
  for (;;) {
    const seen = Atomics.load(words, index);
    if (seen >= count) return;
    if (performance.now() > deadline) throw new ThreadStuckError(count, seen);
    await Atomics.waitAsync(words, index, seen, 1000).value;
  }
}
