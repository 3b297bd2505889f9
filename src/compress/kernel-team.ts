/** Kernels run one at a time on all cores, outside of any plan: for work on matrices that has no graph. Knows nothing of what they compute. */
import type { KernelProgram, VectorMachine } from '../kernels/kernel-ir.ts';
import { InternalError } from '../platform/errors.ts';
import { allocate, type NativeRegion, u32, u64 } from '../platform/native-memory.ts';
import { ThreadTeam } from '../runtime/thread-team.ts';
import { type LoadedCode, loadCode } from '../targets/x64/loader.ts';
import { lowerToX64 } from '../targets/x64/lower.ts';
import { COMMAND, COMMAND_BYTES } from '../targets/x64/team-driver.ts';

const SCRATCH_BYTES = 64 * 1024;
const MOST_PARAMS = 32;
/** Chunks per thread: enough to even out what one thread is ahead. */
const CHUNKS = 8;

export type KernelMaker = (machine: VectorMachine) => KernelProgram;

interface LoadedKernel {
  readonly code: LoadedCode;
  readonly address: bigint;
  readonly params: readonly string[];
}

export class KernelTeam implements Disposable {
  readonly machine: VectorMachine;
  readonly #numThreads: number;
  readonly #team: ThreadTeam;
  readonly #memory: NativeRegion;
  /** Views of it: the command, as quads and as words, and the kernel's params. */
  readonly #quads: BigUint64Array;
  readonly #words: Uint32Array;
  readonly #table: BigUint64Array;
  readonly #loaded = new Map<string, LoadedKernel>();

  constructor(machine: VectorMachine, numThreads: number) {
    this.machine = machine;
    this.#numThreads = numThreads;
    this.#team = new ThreadTeam(numThreads, SCRATCH_BYTES);
    this.#memory = allocate(COMMAND_BYTES + 8 * MOST_PARAMS);
    const { address } = this.#memory;
    this.#quads = u64(address, COMMAND_BYTES / 8);
    this.#words = u32(address, COMMAND_BYTES / 4);
    this.#table = u64(address + BigInt(COMMAND_BYTES), MOST_PARAMS);
    this.#quads[COMMAND.table >> 3] = address + BigInt(COMMAND_BYTES);
    this.#team.setCommands(address, 1);
  }

  /**
   * Runs a kernel to its end.
   *
   * @param name by which what `make` makes is kept
   * @param numUnits of work, cut into chunks, or one chunk for one thread; it and `unitsPerChunk` are params too
   */
  run(
    name: string,
    make: KernelMaker,
    numUnits: number,
    params: Readonly<Record<string, bigint>>,
  ): void {
    const kernel = this.#kernel(name, make);
    const mostChunks = this.#numThreads === 1 ? 1 : this.#numThreads * CHUNKS;
    const unitsPerChunk = Math.max(1, Math.ceil(numUnits / mostChunks));
    const values: Readonly<Record<string, bigint>> = {
      ...params,
      numUnits: BigInt(numUnits),
      unitsPerChunk: BigInt(unitsPerChunk),
    };
    for (const [i, param] of kernel.params.entries()) {
      const value = values[param];
      if (value === undefined) throw new InternalError(`${name} takes ${param}`);
      this.#table[i] = value;
    }
    this.#quads[COMMAND.kernel >> 3] = kernel.address;
    this.#words[COMMAND.numChunks >> 2] = Math.ceil(numUnits / unitsPerChunk);
    this.#team.run(this.#numThreads);
  }

  #kernel(name: string, make: KernelMaker): LoadedKernel {
    const known = this.#loaded.get(name);
    if (known !== undefined) return known;
    const program = make(this.machine);
    if (program.scratchBytes > SCRATCH_BYTES || program.params.length > MOST_PARAMS) {
      throw new InternalError(`${program.name} needs more scratch or params than there are`);
    }
    const code = loadCode([{ name: 'kernel', code: lowerToX64(program) }]);
    const kernel = { code, address: code.address('kernel'), params: program.params };
    this.#loaded.set(name, kernel);
    return kernel;
  }

  [Symbol.dispose](): void {
    this.#team[Symbol.dispose]();
    for (const { code } of this.#loaded.values()) code.dispose();
    this.#memory.free();
  }
}
