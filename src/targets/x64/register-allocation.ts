/**
 * Real registers for the virtual ones of a kernel program: live intervals, then a linear scan.
 *
 * Kernel code is structured (counted loops, ifs without jumps out), so an interval is one range from the first write to the last use, stretched over every loop
 * that it enters from outside. Nothing is spilled: a program that needs more than the machine has is refused.
 * Linear scan: Poletto & Sarkar 1999, doi:10.1145/330249.330250.
 */
import type {
  Address,
  Instruction,
  KernelProgram,
  VirtualRegister,
} from '../../kernels/kernel-ir.ts';
import { HastenError } from '../../platform/errors.ts';

/** A kernel needs more registers than the machine has. */
export class KernelTooLargeError extends HastenError {
  constructor(kernel: string, kind: 'vector' | 'scalar', available: number, at: number) {
    super(
      'kernel_too_large',
      `kernel ${kernel}: more than ${available} ${kind} registers are live at instruction ${at}; take a smaller tile`,
    );
  }
}

interface Interval {
  readonly register: VirtualRegister;
  start: number;
  end: number;
}

type Visit = (register: VirtualRegister, access: 'use' | 'define' | 'defineEarly' | 'temp') => void;

function visitAddress(address: Address, visit: Visit): void {
  visit(address.base, 'use');
  if (address.index) visit(address.index, 'use');
}

/**
 * The registers that an instruction reads and writes. `defineEarly`: written while sources are still to be read, so it may not share their registers.
 * `temp`: needed during the instruction only.
 */
function visitRegisters(instruction: Instruction, visit: Visit): void {
  switch (instruction.op) {
    case 'arg':
    case 'const':
    case 'v.zero':
    case 'v.splatBits':
    case 'v.table16':
    case 'v.laneIndex':
      visit(instruction.dst, 'define');
      return;
    case 's.move':
    case 'v.splatScalar':
      visit(instruction.src, 'use');
      visit(instruction.dst, 'define');
      return;
    case 's.binary':
      visit(instruction.a, 'use');
      if (typeof instruction.b !== 'number') visit(instruction.b, 'use');
      visit(instruction.dst, 'define');
      return;
    case 's.shift':
    case 'v.shift':
      visit(instruction.a, 'use');
      visit(instruction.dst, 'define');
      return;
    case 's.address':
    case 's.load':
    case 'v.broadcast':
      visitAddress(instruction.address, visit);
      visit(instruction.dst, 'define');
      return;
    case 'v.load':
      visitAddress(instruction.address, visit);
      visit(instruction.dst, 'define');
      return;
    case 's.store':
      visitAddress(instruction.address, visit);
      visit(instruction.src, 'use');
      return;
    case 'v.store':
      visitAddress(instruction.address, visit);
      visit(instruction.src, 'use');
      if (instruction.temp) visit(instruction.temp, 'temp');
      return;
    case 'v.binary':
      visit(instruction.a, 'use');
      visit(instruction.b, 'use');
      visit(instruction.dst, 'define');
      return;
    case 'v.unary':
      visit(instruction.a, 'use');
      if (instruction.temp) visit(instruction.temp, 'temp');
      visit(instruction.dst, instruction.temp ? 'defineEarly' : 'define');
      return;
    case 'v.fma':
    case 'v.dotU8I8':
      visit(instruction.dst, 'use');
      visit(instruction.a, 'use');
      if ('kind' in instruction.b) visit(instruction.b, 'use');
      else visitAddress(instruction.b, visit);
      visit(instruction.dst, 'define');
      return;
    case 'v.select':
      visit(instruction.value, 'use');
      visit(instruction.a, 'use');
      visit(instruction.b, 'use');
      if (instruction.otherwise !== null) visit(instruction.otherwise, 'use');
      visit(instruction.dst, 'defineEarly');
      return;
    case 'prefetch':
      visitAddress(instruction.address, visit);
      return;
    case 'loop.end':
      visit(instruction.counter, 'use');
      visit(instruction.counter, 'define');
      return;
    case 'if.begin':
      visit(instruction.a, 'use');
      if (typeof instruction.b !== 'number') visit(instruction.b, 'use');
      return;
    case 'loop.begin':
    case 'if.else':
    case 'if.end':
      return;
    default:
      instruction satisfies never;
  }
}

// Times: an instruction i reads at 2i and writes at 2i + 1, so that a result may take the register of a source that dies there.
function liveIntervals(program: KernelProgram, entry: readonly VirtualRegister[]): Interval[] {
  const intervals = new Map<number, Interval>();
  const touch = (register: VirtualRegister, time: number): void => {
    const known = intervals.get(register.id);
    if (known) {
      if (time > known.end) known.end = time;
    } else intervals.set(register.id, { register, start: time, end: time });
  };
  for (const register of entry) touch(register, -1);
  const loops: { begin: number; end: number }[] = [];
  const open: number[] = [];
  program.instructions.forEach((instruction, i) => {
    if (instruction.op === 'loop.begin') open.push(2 * i);
    visitRegisters(instruction, (register, access) => {
      if (access === 'temp') {
        touch(register, 2 * i);
        touch(register, 2 * i + 1);
      } else if (access === 'define') touch(register, 2 * i + 1);
      else touch(register, 2 * i);
      if (access === 'defineEarly') touch(register, 2 * i + 1);
    });
    if (instruction.op === 'loop.end') loops.push({ begin: open.pop()!, end: 2 * i + 1 });
  });
  // Inner loops end first, so one pass carries an interval through all loops around it.
  for (const interval of intervals.values()) {
    for (const loop of loops) {
      if (interval.start < loop.begin && interval.end >= loop.begin && interval.end < loop.end) {
        interval.end = loop.end;
      }
    }
  }
  return [...intervals.values()].sort((x, y) => x.start - y.start);
}

export interface Assignment {
  /** Virtual register id → register number of the machine. */
  readonly registers: ReadonlyMap<number, number>;
  /** Numbers of all general registers in use. */
  readonly scalars: ReadonlySet<number>;
}

/**
 * @param entry scalars that hold a value when the kernel starts, in the order of their fixed registers: table, chunk, scratch
 * @throws {KernelTooLargeError}
 */
export function allocateRegisters(
  program: KernelProgram,
  scalarPool: readonly number[],
  entry: readonly VirtualRegister[],
): Assignment {
  const intervals = liveIntervals(program, entry);
  stretchOverArgs(program, intervals, entry[0]!);
  const vectorPool = Array.from({ length: program.machine.vectorRegisters }, (_, n) => n);
  const free = { s: [...scalarPool], v: vectorPool };
  const active: { interval: Interval; register: number }[] = [];
  const registers = new Map<number, number>();
  const scalars = new Set<number>();
  for (const interval of intervals) {
    for (let i = active.length - 1; i >= 0; i--) {
      const old = active[i]!;
      if (old.interval.end < interval.start) {
        free[old.interval.register.kind].unshift(old.register);
        active.splice(i, 1);
      }
    }
    const kind = interval.register.kind;
    const register = free[kind].shift();
    if (register === undefined) {
      throw new KernelTooLargeError(
        program.name,
        kind === 'v' ? 'vector' : 'scalar',
        kind === 'v' ? program.machine.vectorRegisters : scalarPool.length,
        interval.start >> 1,
      );
    }
    registers.set(interval.register.id, register);
    if (kind === 's') scalars.add(register);
    active.push({ interval, register });
  }
  return { registers, scalars };
}

/** The table pointer is read by every `arg` without being named there. */
function stretchOverArgs(
  program: KernelProgram,
  intervals: Interval[],
  table: VirtualRegister,
): void {
  const interval = intervals.find((x) => x.register.id === table.id);
  if (!interval) return;
  let depth = 0;
  let outermostHasArg = false;
  program.instructions.forEach((instruction, i) => {
    if (instruction.op === 'loop.begin') depth++;
    if (instruction.op === 'arg') {
      interval.end = Math.max(interval.end, 2 * i);
      if (depth > 0) outermostHasArg = true;
    }
    if (instruction.op === 'loop.end' && --depth === 0) {
      if (outermostHasArg) interval.end = Math.max(interval.end, 2 * i + 1);
      outermostHasArg = false;
    }
  });
}
