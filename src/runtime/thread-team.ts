/**
 * The compute threads: the calling thread as rank 0 and worker threads that sit inside native code (targets/x64/team-driver.ts) between steps.
 *
 * Workers join when they have started; until then steps run on the threads that are there, so nobody waits for thread start-up.
 */
import { Worker } from 'node:worker_threads';
import { allocate, type NativeRegion, u32, u64 } from '../platform/native-memory.ts';
import { type LoadedCode, loadCode } from '../targets/x64/loader.ts';
import {
  CONTROL,
  CONTROL_BYTES,
  leadDriver,
  SEAT_BYTES,
  wakeDriver,
  workerDriver,
} from '../targets/x64/team-driver.ts';

/** Sent to a worker: addresses of the driver, the control block and the worker's own scratch. */
export interface WorkerStart {
  readonly driver: bigint;
  readonly control: bigint;
  readonly scratch: bigint;
}

/** A worker that has had nothing to do for so long comes out of native code for a moment; a thread that is terminated ends then. */
const IDLE_MS = 50;

/** The epoch word keeps the number of threads in 8 bits. */
export const MAX_THREADS = 255;

/** The seat lies before the scratch, which stays aligned to a page. */
const SCRATCH_OFFSET = Math.ceil(SEAT_BYTES / 4096) * 4096;

export class ThreadTeam implements Disposable {
  readonly numThreads: number;
  readonly #code: LoadedCode;
  readonly #control: NativeRegion;
  readonly #words: Uint32Array;
  readonly #quads: BigUint64Array;
  readonly #scratch: NativeRegion[] = [];
  readonly #run: (a: bigint, b: bigint) => void;
  readonly #leadScratch: bigint;
  readonly #exits: Promise<unknown>[] = [];
  #isDisposed = false;
  /** A thread inside native code would keep the process from ending. */
  readonly #leaveAtExit = (): void => this.#leave();

  constructor(numThreads: number, scratchBytes: number) {
    this.numThreads = numThreads;
    this.#code = loadCode([
      { name: 'lead', code: leadDriver() },
      { name: 'work', code: workerDriver() },
      { name: 'wake', code: wakeDriver() },
    ]);
    this.#run = this.#code.function('lead') as (a: bigint, b: bigint) => void;
    this.#control = allocate(CONTROL_BYTES);
    this.#words = u32(this.#control.address, CONTROL_BYTES / 4);
    this.#quads = u64(this.#control.address, CONTROL_BYTES / 8);
    this.#quads[CONTROL.idleSeconds >> 3] = BigInt(Math.floor(IDLE_MS / 1000));
    this.#quads[CONTROL.idleNanoseconds >> 3] = BigInt((IDLE_MS % 1000) * 1_000_000);
    for (let rank = 0; rank < numThreads; rank++) {
      this.#scratch.push(allocate(SCRATCH_OFFSET + scratchBytes));
      if (rank > 0) this.#startWorker(this.#scratchAddress(rank));
    }
    this.#leadScratch = this.#scratchAddress(0);
    process.once('exit', this.#leaveAtExit);
  }

  #scratchAddress(rank: number): bigint {
    return this.#scratch[rank]!.address + BigInt(SCRATCH_OFFSET);
  }

  #startWorker(scratch: bigint): void {
    const start: WorkerStart = {
      driver: this.#code.address('work'),
      control: this.#control.address,
      scratch,
    };
    const worker = new Worker(new URL('./team-worker.ts', import.meta.url), { workerData: start });
    worker.unref();
    // Steps run on the threads that have joined.
    worker.on('error', (error) => {
      process.emitWarning(
        `a compute thread could not start: ${(error as Error).message}`,
        'HastenWarning',
      );
    });
    this.#exits.push(new Promise((resolve) => worker.once('exit', resolve)));
  }

  /** Threads that a step started now would run on. */
  get joinedThreads(): number {
    return Math.min(this.numThreads, this.#words[CONTROL.joined >> 2]! + 1);
  }

  /** What the next `run` walks. */
  setCommands(address: bigint, count: number): void {
    this.#quads[CONTROL.commands >> 3] = address;
    this.#quads[CONTROL.numCommands >> 3] = BigInt(count);
  }

  /** Address for time stamps of the calling thread, or 0n for none. */
  setProfile(address: bigint): void {
    this.#quads[CONTROL.profile >> 3] = address;
  }

  /** Times that threads slept at a barrier, ever. A quiet machine has none in a short step. */
  get numSleeps(): number {
    return this.#words[CONTROL.sleeps >> 2]!;
  }

  /** Runs the command list once on up to `maxThreads` of the joined threads; returns when every command is done. */
  run(maxThreads: number): void {
    this.#words[CONTROL.threads >> 2] = Math.min(maxThreads, this.joinedThreads);
    this.#run(this.#control.address, this.#leadScratch);
  }

  /** Sends the workers home. Memory and code stay until they have left. */
  #leave(): void {
    this.#words[CONTROL.leave >> 2] = 1;
    this.#code.call('wake', this.#control.address, 0n);
  }

  [Symbol.dispose](): void {
    if (this.#isDisposed) return;
    this.#isDisposed = true;
    process.removeListener('exit', this.#leaveAtExit);
    this.#leave();
    const release = (): void => {
      this.#code.dispose();
      this.#control.free();
      for (const region of this.#scratch) region.free();
    };
    // A worker that is still starting reads the control block later; it is released after the last exit.
    void Promise.all(this.#exits).then(release);
  }
}
