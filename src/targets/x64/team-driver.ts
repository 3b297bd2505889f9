/**
 * The native side of the thread team: machine code that walks a command list on every thread, shares out the chunks of each command, and meets at a barrier
 * behind it. One call from TypeScript runs a whole step; nothing is allocated and no TypeScript runs in between.
 *
 * Chunks are claimed one at a time from an atomic counter, so a thread that is held up takes fewer of them. Waiting spins for a bounded time,
 * then sleeps in futex(2): with more threads than cores spinning would take the core from the thread that is waited for.
 *
 * Control block (bytes; every field that threads write has a cache line of its own):
 *
 *     0    u32  epoch: step number << 8 | threads in the step; workers wait for it to change
 *     64   u32  arrived at the current barrier
 *     128  u32  barriers passed; threads wait for it to change
 *     192  u32  threads asleep on `barriers passed`
 *     256  u32  threads asleep on `epoch`
 *     320  u32  threads that have joined; a thread's rank is its turn of joining, from 1
 *     384  u32  nonzero: workers leave
 *     392  u64  address of the first command
 *     400  u64  number of commands
 *     408  u64  address of the profile, or 0
 *     416  u32  threads of the next step, the caller included
 *     448  u32  times that a thread slept at a barrier, ever: how the caller sees that a core is wanted by others
 *     456  u64  signals that workers leave to other threads: all
 *
 * Seat of a worker, in the 64 bytes before its scratch:
 *
 *     -64  u64  address of the control block
 *
 * Command (128 bytes):
 *
 *     0    u64  kernel
 *     8    u64  argument table
 *     16   u32  number of chunks
 *     64   u32  next chunk to claim; 0 between steps
 *
 * Profile, per command on the calling thread: three u64 time stamps: begin, own chunks done, barrier passed.
 */
import {
  Assembler,
  as32,
  type Gpr,
  type Label,
  mem,
  r8,
  r9,
  r10,
  r12,
  r13,
  r14,
  r15,
  rax,
  rbp,
  rbx,
  rcx,
  rdi,
  rdx,
  rsi,
  rsp,
} from './assembler.ts';

export const CONTROL_BYTES = 4096;
export const CONTROL = {
  epoch: 0,
  arrived: 64,
  barriers: 128,
  barrierSleepers: 192,
  epochSleepers: 256,
  joined: 320,
  leave: 384,
  commands: 392,
  numCommands: 400,
  profile: 408,
  threads: 416,
  sleeps: 448,
  blockedSignals: 456,
} as const;

/** Bytes that a worker's scratch must have before it. */
export const SEAT_BYTES = 64;
export const SEAT = { control: -64 } as const;

export const COMMAND_BYTES = 128;
export const COMMAND = { kernel: 0, table: 8, numChunks: 16, nextChunk: 64 } as const;
export const PROFILE_STAMPS = 3;

/** Time-stamp ticks (about 0.4 ns each) to spin before sleeping: well above a barrier and a chunk, well below a scheduler quantum. */
const BARRIER_SPIN_TICKS = 100_000;
/** Between steps: the engine's own work takes some ten microseconds. */
const EPOCH_SPIN_TICKS = 200_000;

const SYS_RT_SIGPROCMASK = 14;
const SIG_SETMASK = 2;
const SIGNAL_SET_BYTES = 8;
const SYS_FUTEX = 202;
const FUTEX_WAIT_PRIVATE = 128;
const FUTEX_WAKE_PRIVATE = 129;
const ALL_WAITERS = 0x7fffffff;
/** Flush denormal results and inputs to zero: denormals make multiplications 2 to 4 times slower. */
const MXCSR_FLUSH = 0x1f80 | 0x8000 | 0x0040;

const SAVED: readonly Gpr[] = [rbx, rbp, r12, r13, r14, r15];
/** Where the frame keeps what the loop needs, from rsp. */
const FRAME = {
  mxcsr: 0,
  flushMxcsr: 4,
  threads: 8,
  profile: 16,
  lastEpoch: 24,
  rank: 28,
} as const;
/** Keeps the stack aligned to 16 bytes at calls. */
const FRAME_BYTES = 40;

class DriverEmitter {
  readonly a = new Assembler();

  enter(): void {
    const { a } = this;
    for (const r of SAVED) a.push(r);
    a.sub(rsp, FRAME_BYTES);
    a.mov(r13, rdi); // control
    a.mov(r14, rsi); // thread scratch
    a.stmxcsr(mem(rsp, FRAME.mxcsr));
    a.mov(as32(rax), MXCSR_FLUSH);
    a.mov(mem(rsp, FRAME.flushMxcsr), as32(rax));
  }

  leave(): void {
    const { a } = this;
    a.add(rsp, FRAME_BYTES);
    for (const r of [...SAVED].reverse()) a.pop(r);
    a.ret();
  }

  /** rax = time stamp; uses rdx. */
  timeStamp(): void {
    const { a } = this;
    a.rdtsc();
    a.shl(rdx, 32);
    a.or(rax, rdx);
  }

  futexWake(offset: number): void {
    const { a } = this;
    a.mov(as32(rax), SYS_FUTEX);
    a.lea(rdi, mem(r13, offset));
    a.mov(as32(rsi), FUTEX_WAKE_PRIVATE);
    a.mov(as32(rdx), ALL_WAITERS);
    a.xor(as32(r10), as32(r10));
    a.syscall();
  }

  /** Waits until the u32 at `offset` differs from ebp: spins, then sleeps (and counts it). */
  waitWhileEqual(offset: number, sleepersOffset: number, spinTicks: number): void {
    const { a } = this;
    const spin = a.label();
    const sleep = a.label();
    const done = a.label();
    a.mov(as32(rax), mem(r13, offset));
    a.cmp(as32(rax), as32(rbp));
    a.jcc('ne', done);
    this.timeStamp();
    a.mov(r15, rax);
    a.bind(spin);
    a.pause();
    a.mov(as32(rax), mem(r13, offset));
    a.cmp(as32(rax), as32(rbp));
    a.jcc('ne', done);
    this.timeStamp();
    a.sub(rax, r15);
    a.cmp(rax, spinTicks);
    a.jcc('b', spin);

    a.mov(as32(rax), 1);
    a.lockXadd(mem(r13, sleepersOffset), as32(rax));
    if (offset === CONTROL.barriers) {
      a.mov(as32(rax), 1);
      a.lockXadd(mem(r13, CONTROL.sleeps), as32(rax));
    }
    a.bind(sleep);
    a.mov(as32(rax), SYS_FUTEX);
    a.lea(rdi, mem(r13, offset));
    a.mov(as32(rsi), FUTEX_WAIT_PRIVATE);
    a.mov(as32(rdx), as32(rbp));
    a.xor(as32(r10), as32(r10));
    a.xor(as32(r8), as32(r8));
    a.xor(as32(r9), as32(r9));
    a.syscall();
    a.mov(as32(rcx), mem(r13, offset));
    a.cmp(as32(rcx), as32(rbp));
    a.jcc('e', sleep);
    a.mov(as32(rax), -1);
    a.lockXadd(mem(r13, sleepersOffset), as32(rax));
    a.bind(done);
  }

  /** Runs all commands; the number of threads stands in the frame. rbx, r12, rbp and r15 are used up. */
  runCommands(): void {
    const { a } = this;
    const nextCommand = a.label();
    const claim = a.label();
    const claimed = a.label();
    const wait = a.label();
    const passed = a.label();
    const finished = a.label();
    a.ldmxcsr(mem(rsp, FRAME.flushMxcsr));
    a.mov(rbx, mem(r13, CONTROL.commands));
    a.mov(r12, mem(r13, CONTROL.numCommands));
    a.test(r12, r12);
    a.jcc('e', finished);
    a.bind(nextCommand);
    this.#stamp(0);
    a.bind(claim);
    a.mov(as32(rax), 1);
    a.lockXadd(mem(rbx, COMMAND.nextChunk), as32(rax));
    a.cmp(as32(rax), mem(rbx, COMMAND.numChunks));
    a.jcc('ae', claimed);
    a.mov(rdi, mem(rbx, COMMAND.table));
    a.mov(as32(rsi), as32(rax));
    a.mov(rdx, r14);
    a.call(mem(rbx, COMMAND.kernel));
    a.jmp(claim);
    a.bind(claimed);
    this.#stamp(8);

    // Barrier: the last to arrive resets the counters and lets the others on.
    a.mov(as32(rbp), mem(r13, CONTROL.barriers));
    a.mov(as32(rax), 1);
    a.lockXadd(mem(r13, CONTROL.arrived), as32(rax));
    a.add(as32(rax), 1);
    a.cmp(as32(rax), mem(rsp, FRAME.threads));
    a.jcc('ne', wait);
    a.xor(as32(rax), as32(rax));
    a.mov(mem(rbx, COMMAND.nextChunk), as32(rax));
    a.mov(mem(r13, CONTROL.arrived), as32(rax));
    a.lea(rax, mem(rbp, 1));
    a.xchg(mem(r13, CONTROL.barriers), as32(rax)); // a full fence before `sleepers` is read
    a.mov(as32(rax), mem(r13, CONTROL.barrierSleepers));
    a.test(as32(rax), as32(rax));
    a.jcc('e', passed);
    this.futexWake(CONTROL.barriers);
    a.jmp(passed);
    a.bind(wait);
    this.waitWhileEqual(CONTROL.barriers, CONTROL.barrierSleepers, BARRIER_SPIN_TICKS);
    a.bind(passed);
    this.#stamp(16);
    this.#advanceProfile();
    a.add(rbx, COMMAND_BYTES);
    a.sub(r12, 1);
    a.jcc('ne', nextCommand);
    a.bind(finished);
    a.ldmxcsr(mem(rsp, FRAME.mxcsr));
  }

  #stamp(offset: number): void {
    const { a } = this;
    const skip = a.label();
    a.mov(rcx, mem(rsp, FRAME.profile));
    a.test(rcx, rcx);
    a.jcc('e', skip);
    this.timeStamp();
    a.mov(mem(rcx, offset), rax);
    a.bind(skip);
  }

  #advanceProfile(): void {
    const { a } = this;
    const skip = a.label();
    a.mov(rcx, mem(rsp, FRAME.profile));
    a.test(rcx, rcx);
    a.jcc('e', skip);
    a.add(rcx, 8 * PROFILE_STAMPS);
    a.mov(mem(rsp, FRAME.profile), rcx);
    a.bind(skip);
  }
}

/**
 * run(control, scratch): runs one step on the calling thread and on the workers of rank below `threads`. The caller has set commands, chunks and `threads`,
 * which must not exceed `joined` + 1.
 */
export function leadDriver(): Uint8Array {
  const d = new DriverEmitter();
  const { a } = d;
  const noSleepers: Label = a.label();
  d.enter();
  a.mov(rax, mem(r13, CONTROL.profile));
  a.mov(mem(rsp, FRAME.profile), rax);
  a.mov(as32(rax), mem(r13, CONTROL.threads));
  a.mov(mem(rsp, FRAME.threads), as32(rax));
  a.mov(as32(rcx), mem(r13, CONTROL.epoch));
  a.shr(as32(rcx), 8);
  a.add(as32(rcx), 1);
  a.shl(as32(rcx), 8);
  a.or(as32(rcx), as32(rax));
  a.xchg(mem(r13, CONTROL.epoch), as32(rcx));
  a.mov(as32(rax), mem(r13, CONTROL.epochSleepers));
  a.test(as32(rax), as32(rax));
  a.jcc('e', noSleepers);
  d.futexWake(CONTROL.epoch);
  a.bind(noSleepers);
  d.runCommands();
  d.leave();
  return a.code();
}

/** work(scratch): all that a thread of the team does. Joins, and takes part in steps until `leave` is set and the epoch changes. */
export function workerDriver(): Uint8Array {
  const d = new DriverEmitter();
  const { a } = d;
  const next = a.label();
  const out = a.label();
  a.mov(rsi, rdi);
  a.mov(rdi, mem(rsi, SEAT.control));
  d.enter();
  a.xor(as32(rax), as32(rax));
  a.mov(mem(rsp, FRAME.profile), rax);
  a.mov(as32(rax), SYS_RT_SIGPROCMASK);
  a.mov(as32(rdi), SIG_SETMASK);
  a.lea(rsi, mem(r13, CONTROL.blockedSignals));
  a.xor(as32(rdx), as32(rdx));
  a.mov(as32(r10), SIGNAL_SET_BYTES);
  a.syscall();
  a.mov(as32(rcx), mem(r13, CONTROL.epoch)); // before joining: a step that counts on this thread changes it
  a.mov(as32(rax), 1);
  a.lockXadd(mem(r13, CONTROL.joined), as32(rax));
  a.add(as32(rax), 1);
  a.mov(mem(rsp, FRAME.lastEpoch), as32(rcx));
  a.mov(mem(rsp, FRAME.rank), as32(rax));
  a.bind(next);
  a.mov(as32(rcx), mem(r13, CONTROL.leave)); // after the epoch was read: `leave` set since then changes it
  a.test(as32(rcx), as32(rcx));
  a.jcc('ne', out);
  a.mov(as32(rbp), mem(rsp, FRAME.lastEpoch));
  d.waitWhileEqual(CONTROL.epoch, CONTROL.epochSleepers, EPOCH_SPIN_TICKS);
  a.mov(as32(rax), mem(r13, CONTROL.epoch));
  a.mov(mem(rsp, FRAME.lastEpoch), as32(rax));
  a.and(as32(rax), 0xff);
  a.cmp(as32(rax), mem(rsp, FRAME.rank));
  a.jcc('be', next); // not in this step: threads <= rank
  a.mov(mem(rsp, FRAME.threads), as32(rax));
  d.runCommands();
  a.jmp(next);
  a.bind(out);
  d.leave();
  return a.code();
}

/** wake(control, _): changes the epoch to one of no threads and wakes all workers, so that they see `leave`. */
export function wakeDriver(): Uint8Array {
  const d = new DriverEmitter();
  const { a } = d;
  d.enter();
  a.mov(as32(rcx), mem(r13, CONTROL.epoch));
  a.shr(as32(rcx), 8);
  a.add(as32(rcx), 1);
  a.shl(as32(rcx), 8);
  a.xchg(mem(r13, CONTROL.epoch), as32(rcx));
  d.futexWake(CONTROL.epoch);
  d.leave();
  return a.code();
}
