/** Commands for a thread team that count how often each of their chunks was carried out, in place of kernels. */
import { allocate, type NativeRegion, u32, u64 } from '../../platform/native-memory.ts';
import { Assembler, as32, mem, rax, rdi, rsi } from '../../targets/x64/assembler.ts';
import { type LoadedCode, loadCode } from '../../targets/x64/loader.ts';
import { COMMAND, COMMAND_BYTES } from '../../targets/x64/team-driver.ts';

/** count(table, chunk): table[chunk]++, as a u32 and atomically, so that two threads with one chunk would show. */
function countingKernel(): Uint8Array {
  const a = new Assembler();
  a.mov(as32(rax), 1);
  a.shl(rsi, 2);
  a.add(rdi, rsi);
  a.lockXadd(mem(rdi), as32(rax));
  a.ret();
  return a.code();
}

export class CountingCommands implements Disposable {
  readonly address: bigint;
  readonly numCommands: number;
  readonly #code: LoadedCode;
  readonly #commands: NativeRegion;
  readonly #counters: NativeRegion;
  readonly #counts: Uint32Array;

  /** @param chunks of each command */
  constructor(chunks: readonly number[]) {
    const total = chunks.reduce((sum, count) => sum + count, 0);
    this.numCommands = chunks.length;
    this.#code = loadCode([{ name: 'count', code: countingKernel() }]);
    this.#commands = allocate(COMMAND_BYTES * chunks.length);
    this.#counters = allocate(4 * Math.max(1, total));
    this.#counts = u32(this.#counters.address, total);
    this.address = this.#commands.address;
    const quads = u64(this.address, (COMMAND_BYTES / 8) * chunks.length);
    const words = u32(this.address, (COMMAND_BYTES / 4) * chunks.length);
    let first = 0;
    for (const [i, count] of chunks.entries()) {
      const at = (COMMAND_BYTES / 8) * i;
      quads[at + COMMAND.kernel / 8] = this.#code.address('count');
      quads[at + COMMAND.table / 8] = this.#counters.address + BigInt(4 * first);
      words[2 * at + COMMAND.numChunks / 4] = count;
      first += count;
    }
  }

  /** Times that each chunk was carried out, of all commands in a row. */
  get counts(): readonly number[] {
    return [...this.#counts];
  }

  [Symbol.dispose](): void {
    this.#code.dispose();
    this.#commands.free();
    this.#counters.free();
  }
}
