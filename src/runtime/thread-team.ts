/**
 * The compute threads: the calling thread as rank 0 and native threads that walk the steps with it (targets/x64/team-driver.ts).
 *
 * A thread joins when it runs; until then steps run on the threads that are there, so nobody waits for thread start-up.
 */
import { NativeThreadError } from '../platform/native-error.ts';
import { allocate, type NativeRegion, u32, u64 } from '../platform/native-memory.ts';
import type { NativeThread } from '../platform/native-thread.ts';
import { type LoadedCode, loadCode } from '../targets/x64/loader.ts';
import {
  CONTROL,
  CONTROL_BYTES,
  leadDriver,
  SEAT,
  SEAT_BYTES,
  wakeDriver,
  workerDriver,
} from '../targets/x64/team-driver.ts';

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
  readonly #threads: NativeThread[] = [];
  readonly #run: (a: bigint, b: bigint) => void;
  readonly #leadScratch: bigint;
  #isDisposed = false;
  /** A thread must not run code that is unloaded under it. */
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
    this.#quads[CONTROL.blockedSignals >> 3] = 2n ** 64n - 1n;
    for (let rank = 0; rank < numThreads; rank++) {
      this.#scratch.push(allocate(SCRATCH_OFFSET + scratchBytes));
      if (rank > 0) this.#startThread(this.#scratchAddress(rank));
    }
    this.#leadScratch = this.#scratchAddress(0);
    process.once('exit', this.#leaveAtExit);
  }

  #scratchAddress(rank: number): bigint {
    return this.#scratch[rank]!.address + BigInt(SCRATCH_OFFSET);
  }

  #startThread(scratch: bigint): void {
    u64(scratch + BigInt(SEAT.control), 1)[0] = this.#control.address;
    try {
      this.#threads.push(this.#code.startThread('work', scratch));
    } catch (error) {
      if (!(error instanceof NativeThreadError)) throw error;
      // Steps run on the threads that have joined.
      process.emitWarning(`a compute thread could not start: ${error.message}`, 'HastenWarning');
    }
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

  /** Sends the threads home and waits until they have left: microseconds, as no step is running. */
  #leave(): void {
    this.#words[CONTROL.leave >> 2] = 1;
    this.#code.call('wake', this.#control.address, 0n);
    for (const thread of this.#threads) thread.join();
  }

  [Symbol.dispose](): void {
    if (this.#isDisposed) return;
    this.#isDisposed = true;
    process.removeListener('exit', this.#leaveAtExit);
    this.#leave();
    this.#code.dispose();
    this.#control.free();
    for (const region of this.#scratch) region.free();
  }
}
