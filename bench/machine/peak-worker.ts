/**
 * One thread of a peak measurement: calls a kernel that the main thread loaded, when told, and notes when it began and ended.
 * Knows nothing of which kernel it is.
 */
import { workerData } from 'node:worker_threads';
import { callerOfAddresses } from '../../src/targets/x64/loader.ts';

/** Words of the control array; every write is followed by a notify. */
export const Control = { round: 0, ready: 1, finished: 2, arrived: 3, numWords: 4 } as const;

export interface PeakWorkerData {
  /** Int32 words as in {@link Control}: `round` goes up to start one, -1 ends the thread. */
  readonly control: SharedArrayBuffer;
  /** hrtime of begin and end, BigInt64 `[numThreads, 2]`. */
  readonly times: SharedArrayBuffer;
  readonly rank: number;
  /** Address of the kernel's code and of this thread's argument table. */
  readonly code: bigint;
  readonly table: bigint;
}

if (workerData !== null && typeof workerData === 'object' && 'peak' in workerData) {
  serve((workerData as { peak: PeakWorkerData }).peak);
}

function serve({ control, times, rank, code, table }: PeakWorkerData): void {
  const words = new Int32Array(control);
  const numThreads = times.byteLength / 16;
  const clock = new BigInt64Array(times);
  const call = callerOfAddresses();
  Atomics.add(words, Control.ready, 1);
  Atomics.notify(words, Control.ready);
  for (let round = 0; ; ) {
    Atomics.wait(words, Control.round, round);
    const next = Atomics.load(words, Control.round);
    if (next < 0) return;
    if (next === round) continue;
    round = next;
    // Threads wake up to 0.1 ms apart; they begin together, unless one of them has no core to run on.
    Atomics.add(words, Control.arrived, 1);
    const deadline = performance.now() + 1;
    while (Atomics.load(words, Control.arrived) < numThreads && performance.now() < deadline);
    clock[2 * rank] = process.hrtime.bigint();
    call(code, table, 0n);
    clock[2 * rank + 1] = process.hrtime.bigint();
    Atomics.add(words, Control.finished, 1);
    Atomics.notify(words, Control.finished);
  }
}
