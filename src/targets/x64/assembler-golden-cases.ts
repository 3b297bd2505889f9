/**
 * The instructions whose bytes are compared with GNU `as`: every form of every instruction, each
 * with registers below and above 8 and 16, and with rotating memory shapes. Used by the test and by
 * make-assembler-golden.ts, which stores what `as` says.
 */
import {
  Assembler,
  as8,
  as16,
  as32,
  bcst,
  byte,
  type Condition,
  cl,
  dword,
  gpr,
  k1,
  k6,
  kreg,
  type Mask,
  type Mem,
  masked,
  mem,
  type Operand,
  qword,
  type Vec,
  type VecWidth,
  vec,
  word,
  zeroed,
} from './assembler.ts';
import { type Form, parseForm } from './vector-form.ts';
import { VECTOR_INSTRUCTIONS } from './vector-instructions.ts';

/** base, displacement, index, scale: rsp/r12 need a SIB byte, rbp/r13 a displacement. */
const MEMORY: readonly (readonly [number, number, number?, number?])[] = [
  [7, 0],
  [6, 64],
  [5, 0],
  [4, 8],
  [12, 32],
  [13, 4],
  [9, 508],
  [3, 512],
  [10, -128],
  [14, 100000],
  [0, 256, 1, 1],
  [11, 64, 15, 4],
  [5, 128, 9, 8],
  [13, 12, 2, 2],
  [12, 0, 13, 8],
  [4, -8192, 12, 4],
  [1, -4096],
  [8, 8128],
  [2, 1],
  [15, 16384, 5, 1],
  [13, 0, 0, 1],
];

/** Register triples; first source and second on the same side of 8, since `as` may swap them. */
const LOW_REGISTERS = [
  [1, 2, 3, 4],
  [9, 10, 11, 12],
  [15, 0, 7, 5],
] as const;
const HIGH_REGISTERS = [
  [31, 17, 9, 1],
  [8, 24, 16, 2],
] as const;

class CaseWriter {
  readonly asm = new Assembler({ listing: true });
  #turn = 0;

  /** The next memory shape in rotation. */
  memory(make: (...p: [ReturnType<typeof gpr>, number, never?, number?]) => Mem = mem): Mem {
    const [base, disp, index, scale] = MEMORY[this.#turn++ % MEMORY.length]!;
    const indexRegister = index === undefined ? undefined : gpr(index);
    return make(gpr(base), disp, indexRegister as never, scale);
  }

  vectorForm(name: string, f: Form): void {
    const parsed = parseForm(f);
    const { options } = parsed;
    const widths: readonly VecWidth[] = options.widths ?? [128, 256, 512];
    for (const width of parsed.widthFrom < 0 ? [widths[0]!] : widths) {
      const hasMaskOperand = f.operands.split(' ').includes('k');
      if (options.vex !== undefined && width !== 512) {
        for (const registers of LOW_REGISTERS) this.#one(name, f, width, registers, false);
        for (let i = 0; i < 2; i++) this.#one(name, f, width, LOW_REGISTERS[i]!, true);
      }
      if (options.evex === undefined) continue;
      const highest = hasMaskOperand && parsed.widthFrom < 0 ? [] : HIGH_REGISTERS;
      for (const registers of highest) this.#one(name, f, width, registers, false);
      this.#one(name, f, width, HIGH_REGISTERS[0]!, true);
      this.#one(name, f, width, HIGH_REGISTERS[1]!, true, { broadcast: true });
      if (options.unmasked) continue;
      this.#one(name, f, width, HIGH_REGISTERS[1]!, false, { mask: k1 });
      this.#one(name, f, width, LOW_REGISTERS[1]!, true, { mask: k6, zeroing: true });
    }
  }

  #one(
    name: string,
    f: Form,
    width: VecWidth,
    registers: readonly number[],
    useMemory: boolean,
    how: { broadcast?: boolean; mask?: Mask; zeroing?: boolean } = {},
  ): void {
    const tokens = f.operands.split(' ');
    const parsed = parseForm(f);
    if (how.broadcast && f.options.bcst === undefined) return;
    const hasMemory = parsed.slots.some((s) => s.memory);
    const onlyMemory = parsed.slots.some((s) => s.memory && s.register === undefined);
    if (useMemory && !hasMemory && how.mask === undefined) return;
    if (!useMemory && onlyMemory && how.mask === undefined && !how.broadcast) return;
    let operands = tokens.map((_token, i): Operand => {
      const slot = parsed.slots[i]!;
      const n = registers[i]!;
      if (slot.memory && (useMemory || slot.register === undefined)) {
        return this.memory(how.broadcast ? bcst : mem);
      }
      switch (slot.register) {
        case 'vec':
          return vec(n, (slot.registerBits || Math.max(128, width >> slot.shift)) as VecWidth);
        case 'mask':
          return kreg(n & 7);
        case 'gpr':
          return gpr(n & 15, slot.registerBits as 32 | 64);
        default:
          return 5;
      }
    });
    if (how.mask !== undefined) {
      const d = operands[0] as Vec | Mem | Mask;
      const first =
        how.zeroing && d.kind === 'vec' ? zeroed(d, how.mask) : masked(d as Vec, how.mask);
      operands = [first, ...operands.slice(1)];
    }
    this.asm.emit(name, operands);
  }

  integerForms(): void {
    const a = this.asm;
    const pairs = [
      [1, 3],
      [7, 6],
      [8, 3],
      [4, 13],
      [12, 15],
      [5, 9],
      [0, 10],
    ] as const;
    for (const [i, j] of pairs) {
      const d = gpr(i);
      const s = gpr(j);
      for (const view of [(r: typeof d) => r, as32]) {
        const [x, y] = [view(d), view(s)];
        for (const op of ['add', 'or', 'and', 'sub', 'xor', 'cmp'] as const) {
          a[op](x, y);
          a[op](x, this.memory());
          a[op](this.memory(), y);
          for (const k of [8, -128, 128, 100000, -100000]) a[op](x, k);
        }
        a.mov(x, y);
        a.mov(x, this.memory());
        a.mov(this.memory(), y);
        a.mov(x, 123456);
        a.mov(x, -5);
        a.test(x, y);
        a.test(x, 100000);
        a.test(this.memory(), y);
        a.imul(x, y);
        a.imul(x, this.memory());
        a.imul(x, y, 24);
        a.imul(x, this.memory(), 4096);
        for (const op of ['shl', 'shr', 'sar'] as const) {
          a[op](x, 5);
          a[op](x, 1);
          a[op](x, cl);
        }
        for (const op of ['shlx', 'shrx', 'sarx'] as const) {
          a[op](x, y, view(gpr(11)));
          a[op](x, this.memory(), view(gpr(2)));
        }
        for (const op of ['neg', 'not', 'inc', 'dec', 'mul', 'div', 'idiv'] as const) a[op](x);
        for (const op of ['popcnt', 'tzcnt', 'lzcnt'] as const) {
          a[op](x, y);
          a[op](x, this.memory());
        }
        a.xchg(this.memory(), x);
        a.lockXadd(this.memory(), x);
        a.lockCmpxchg(this.memory(), x);
        a.lockAdd(this.memory(), x);
        a.lea(x, this.memory());
        a.cmovae(x, y);
        a.cmovl(x, this.memory());
        for (const m of [byte, word]) {
          a.movzx(x, m(this.memory()));
          a.movsx(x, m(this.memory()));
        }
        a.movzx(x, as8(s));
        a.movsx(x, as16(s));
      }
      a.mov(d, 0x1_2345_6789);
      a.mov(d, -0x7fff_ffff_ffff_fff0n);
      a.movsxd(d, as32(s));
      a.movsxd(d, this.memory());
      a.push(d);
      a.pop(d);
      a.call(d);
      a.jmp(d);
      a.setg(as8(d));
      a.mov(this.memory(), as8(d));
      a.mov(this.memory(), as16(d));
      a.mov(as8(d), this.memory());
      a.add(as8(d), as8(s));
      a.xchg(this.memory(), as8(d));
      for (const sized of [byte, word, dword, qword]) {
        a.mov(sized(this.memory()), 7);
        a.cmp(sized(this.memory()), 3);
        a.inc(sized(this.memory()));
      }
      a.add(dword(this.memory()), 1000);
      a.add(qword(this.memory()), 1000);
      a.sub(byte(this.memory()), 100);
      a.test(dword(this.memory()), 64);
      a.mov(qword(this.memory()), -70000);
      a.lockAdd(dword(this.memory()), 1);
      a.shl(qword(this.memory()), 3);
      a.call(this.memory());
      a.setcc('b', this.memory());
      for (const op of [
        'prefetchnta',
        'prefetcht0',
        'prefetcht1',
        'prefetcht2',
        'prefetchw',
        'ldmxcsr',
        'stmxcsr',
      ] as const) {
        a[op](this.memory());
      }
    }
    const conditions: readonly Condition[] = ['o', 'b', 'e', 'ne', 'be', 'a', 's', 'p', 'ge', 'le'];
    for (const c of conditions) a.cmovcc(c, gpr(9), gpr(1));
    for (const op of [
      'ret',
      'int3',
      'ud2',
      'nop',
      'cqo',
      'pause',
      'lfence',
      'mfence',
      'sfence',
      'rdtsc',
      'rdtscp',
      'cpuid',
      'xgetbv',
      'syscall',
      'repStosb',
      'repMovsb',
      'vzeroupper',
    ] as const) {
      a[op]();
    }
  }
}

/** Every golden instruction with its text and our bytes. */
export function goldenInstructions(): { readonly text: string; readonly bytes: Uint8Array }[] {
  const writer = new CaseWriter();
  for (const [name, entry] of Object.entries(VECTOR_INSTRUCTIONS)) {
    const forms = ('operands' in entry ? [entry] : entry) as readonly Form[];
    for (const f of forms) writer.vectorForm(name, f);
  }
  writer.integerForms();
  return writer.asm.instructions();
}
