/**
 * General-register, control-flow, atomic and system instructions. Vector instructions are in
 * assembler.ts; prefixes and ModRM in encoder.ts.
 *
 * Method names are the Intel mnemonics, destination first; the operand width is that of the
 * register (`rax` 64, `as32(rax)` 32 …), or of `dword(mem)` and its kin where only memory and an
 * immediate are given. Locked forms are `lockXadd`, `lockCmpxchg`, `lockAdd`.
 */
import { AssemblerError } from './assembler-error.ts';
import { Encoder, OPCODE_MAP, PREFIX } from './encoder.ts';
import {
  as32,
  formatOperand,
  type Gpr,
  type GprWidth,
  gprName,
  type Label,
  type Mem,
} from './operands.ts';

/** Condition codes of `jcc`, `setcc` and `cmovcc`. */
export const CONDITIONS = {
  o: 0,
  no: 1,
  b: 2,
  c: 2,
  ae: 3,
  nc: 3,
  e: 4,
  z: 4,
  ne: 5,
  nz: 5,
  be: 6,
  a: 7,
  s: 8,
  ns: 9,
  p: 10,
  np: 11,
  l: 12,
  ge: 13,
  le: 14,
  g: 15,
} as const;
/** Condition of `jcc`, `setcc` and `cmovcc`: unsigned b ae be a, signed l ge le g. */
export type Condition = keyof typeof CONDITIONS;

/** The first opcode byte of each group-1 instruction is `n << 3`. */
const ALU = { add: 0, or: 1, and: 4, sub: 5, xor: 6, cmp: 7 } as const;

/** Byte registers 4-7 are spl, bpl, sil, dil only under a REX prefix. */
const needsRex = (r: Gpr | Mem): boolean =>
  r.kind === 'gpr' && r.width === 8 && r.n >= 4 && r.n <= 7;

const fitsInt = (value: number, bits: number): boolean =>
  value >= -(2 ** (bits - 1)) && value < 2 ** (bits - 1);

export class IntegerAssembler extends Encoder {
  /** Legacy instruction without immediate: [66] [F2/F3] [REX] opcode ModRM. */
  #legacy(
    width: GprWidth,
    opcode: readonly number[],
    reg: number,
    rm: Gpr | Mem,
    options: { readonly prefix?: number; readonly rex?: boolean; readonly immBytes?: number } = {},
  ): void {
    if (width === 16) this.emit8(0x66);
    if (options.prefix !== undefined) this.emit8(options.prefix);
    this.rex(width === 64 ? 1 : 0, reg, rm, options.rex);
    for (const b of opcode) this.emit8(b);
    this.modrm(reg, rm, 1, options.immBytes ?? 0);
  }

  #text(name: string, width: number, ...operands: readonly (Gpr | Mem | number | bigint)[]): void {
    if (!this.isListing) return;
    const texts = operands.map((o) =>
      typeof o === 'bigint' ? String(o) : formatOperand(o, width),
    );
    this.note(`${name} ${texts.join(', ')}`.trimEnd());
  }

  /** The common width of register operands, checked against a memory operand's stated size. */
  #width(name: string, a: Gpr | Mem, b?: Gpr | Mem): GprWidth {
    const width = a.kind === 'gpr' ? a.width : b?.kind === 'gpr' ? b.width : a.size;
    if (width === undefined) {
      throw new AssemblerError(name, 'the memory operand needs a size: byte(), dword(), qword()');
    }
    for (const o of [a, b]) {
      const seen = o?.kind === 'gpr' ? o.width : o?.size;
      if (seen !== undefined && seen !== width) {
        throw new AssemblerError(name, `operand widths differ: ${width} and ${seen} bits`);
      }
    }
    if (a.kind === 'mem' && b?.kind === 'mem') {
      throw new AssemblerError(name, 'two memory operands');
    }
    return width;
  }

  #immediate(name: string, value: number, width: GprWidth): void {
    const bits = width === 64 ? 32 : width;
    const ok = Number.isInteger(value) && value >= -(2 ** (bits - 1));
    if (!ok || value >= (width === 64 ? 2 ** 31 : 2 ** bits)) {
      throw new AssemblerError(name, `immediate ${value} does not fit ${bits} bits`);
    }
    if (bits === 8) this.emit8(value);
    else if (bits === 16) this.emit16(value);
    else this.emit32(value);
  }

  #requireWidth(name: string, r: Gpr, ...widths: readonly GprWidth[]): void {
    if (!widths.includes(r.width)) {
      const names = widths.join(' or ');
      throw new AssemblerError(name, `register ${gprName(r)}: expected ${names} bits`);
    }
  }

  // --- moves ---

  /**
   * Register, memory or immediate move. A 64-bit register takes any integer of 64 bits (bigint
   * beyond 2^53) in the shortest encoding; memory takes at most a signed 32-bit immediate.
   */
  mov(d: Gpr | Mem, s: Gpr | Mem | number | bigint): void {
    if (typeof s === 'bigint' || typeof s === 'number') {
      if (d.kind === 'gpr') this.#movImmediate(d, s);
      else this.#movToMemory(d, Number(s));
      return;
    }
    const width = this.#width('mov', d, s);
    this.#text('mov', width, d, s);
    const low = width === 8 ? 0 : 1;
    if (s.kind === 'gpr') {
      this.#legacy(width, [0x88 | low], s.n, d, { rex: needsRex(s) || needsRex(d) });
    } else if (d.kind === 'gpr') {
      this.#legacy(width, [0x8a | low], d.n, s, { rex: needsRex(d) });
    }
  }

  #movImmediate(d: Gpr, s: number | bigint): void {
    if (typeof s === 'number' && !Number.isSafeInteger(s)) {
      throw new AssemblerError('mov', `immediate ${s} is not a safe integer; pass a bigint`);
    }
    this.#requireWidth('mov', d, 32, 64);
    const value = BigInt(s);
    if (value < -(1n << BigInt(d.width - 1)) || value >= 1n << BigInt(d.width)) {
      throw new AssemblerError('mov', `immediate ${value} does not fit ${d.width} bits`);
    }
    if (d.width === 32 || (value >= 0n && value < 1n << 32n)) {
      this.#text('mov', 32, as32(d), value);
      this.rex(0, 0, d);
      this.emit8(0xb8 | (d.n & 7));
      this.emit32(Number(BigInt.asIntN(32, value)));
    } else if (value >= -(1n << 31n) && value < 0n) {
      this.#text('mov', 64, d, value);
      this.#legacy(64, [0xc7], 0, d);
      this.emit32(Number(value));
    } else {
      this.#text('movabs', 64, d, value);
      this.rex(1, 0, d);
      this.emit8(0xb8 | (d.n & 7));
      this.emit32(Number(BigInt.asIntN(32, value)));
      this.emit32(Number(BigInt.asIntN(32, value >> 32n)));
    }
  }

  #movToMemory(d: Mem, value: number): void {
    const width = this.#width('mov', d);
    this.#text('mov', width, d, value);
    const immBytes = Math.min(width, 32) / 8;
    this.#legacy(width, [width === 8 ? 0xc6 : 0xc7], 0, d, { immBytes });
    this.#immediate('mov', value, width);
  }

  /** Zero-extending load or move of a byte or word; the source states its size. */
  movzx(d: Gpr, s: Gpr | Mem): void {
    this.#extend('movzx', 0xb6, d, s);
  }

  /** Sign-extending load or move of a byte or word; the source states its size. */
  movsx(d: Gpr, s: Gpr | Mem): void {
    this.#extend('movsx', 0xbe, d, s);
  }

  #extend(name: string, opcode: number, d: Gpr, s: Gpr | Mem): void {
    this.#requireWidth(name, d, 32, 64);
    const from = s.kind === 'gpr' ? s.width : s.size;
    if (from !== 8 && from !== 16) {
      throw new AssemblerError(name, 'the source must be 8 or 16 bits: byte(m), word(m), as8(r)');
    }
    this.#text(name, from, d, s);
    this.#legacy(d.width, [0x0f, from === 8 ? opcode : opcode | 1], d.n, s, { rex: needsRex(s) });
  }

  /** Sign-extends 32 bits to 64. */
  movsxd(d: Gpr, s: Gpr | Mem): void {
    this.#requireWidth('movsxd', d, 64);
    if (s.kind === 'gpr') this.#requireWidth('movsxd', s, 32);
    this.#text('movsxd', 32, d, s);
    this.#legacy(64, [0x63], d.n, s);
  }

  lea(d: Gpr, m: Mem): void {
    this.#requireWidth('lea', d, 32, 64);
    this.#text('lea', 0, d, m);
    this.#legacy(d.width, [0x8d], d.n, m);
  }

  push(r: Gpr): void {
    this.#requireWidth('push', r, 64);
    this.#text('push', 64, r);
    this.rex(0, 0, r);
    this.emit8(0x50 | (r.n & 7));
  }

  pop(r: Gpr): void {
    this.#requireWidth('pop', r, 64);
    this.#text('pop', 64, r);
    this.rex(0, 0, r);
    this.emit8(0x58 | (r.n & 7));
  }

  /** Exchange; with memory it is a full barrier and atomic without a lock prefix. */
  xchg(d: Mem, r: Gpr): void {
    const width = this.#width('xchg', d, r);
    this.#text('xchg', width, d, r);
    this.#legacy(width, [width === 8 ? 0x86 : 0x87], r.n, d, { rex: needsRex(r) });
  }

  cmovcc(condition: Condition, d: Gpr, s: Gpr | Mem): void {
    this.#requireWidth('cmovcc', d, 32, 64);
    const width = this.#width('cmovcc', d, s);
    this.#text(`cmov${condition}`, width, d, s);
    this.#legacy(width, [0x0f, 0x40 | CONDITIONS[condition]], d.n, s);
  }

  setcc(condition: Condition, d: Gpr | Mem): void {
    if (d.kind === 'gpr') this.#requireWidth('setcc', d, 8);
    this.#text(`set${condition}`, 8, d);
    this.#legacy(8, [0x0f, 0x90 | CONDITIONS[condition]], 0, d, { rex: needsRex(d) });
  }

  // --- arithmetic ---

  #alu(name: keyof typeof ALU, d: Gpr | Mem, s: Gpr | Mem | number): void {
    const n = ALU[name];
    if (typeof s !== 'number') {
      const width = this.#width(name, d, s);
      this.#text(name, width, d, s);
      const low = width === 8 ? 0 : 1;
      const rex = needsRex(d) || needsRex(s);
      if (s.kind === 'gpr') this.#legacy(width, [(n << 3) | low], s.n, d, { rex });
      else if (d.kind === 'gpr') this.#legacy(width, [(n << 3) | 2 | low], d.n, s, { rex });
      return;
    }
    const width = this.#width(name, d);
    this.#text(name, width, d, s);
    const options = { rex: needsRex(d) };
    if (width !== 8 && fitsInt(s, 8)) {
      this.#legacy(width, [0x83], n, d, { ...options, immBytes: 1 });
      this.#immediate(name, s, 8);
      return;
    }
    if (d.kind === 'gpr' && d.n === 0) {
      // The accumulator has a form without ModRM.
      if (width === 16) this.emit8(0x66);
      if (width === 64) this.emit8(0x48);
      this.emit8((n << 3) | (width === 8 ? 4 : 5));
    } else {
      const immBytes = Math.min(width, 32) / 8;
      this.#legacy(width, [width === 8 ? 0x80 : 0x81], n, d, { ...options, immBytes });
    }
    this.#immediate(name, s, width);
  }

  add(d: Gpr | Mem, s: Gpr | Mem | number): void {
    this.#alu('add', d, s);
  }
  or(d: Gpr | Mem, s: Gpr | Mem | number): void {
    this.#alu('or', d, s);
  }
  and(d: Gpr | Mem, s: Gpr | Mem | number): void {
    this.#alu('and', d, s);
  }
  sub(d: Gpr | Mem, s: Gpr | Mem | number): void {
    this.#alu('sub', d, s);
  }
  xor(d: Gpr | Mem, s: Gpr | Mem | number): void {
    this.#alu('xor', d, s);
  }
  cmp(d: Gpr | Mem, s: Gpr | Mem | number): void {
    this.#alu('cmp', d, s);
  }

  /** Sets the flags of `d & s`. */
  test(d: Gpr | Mem, s: Gpr | number): void {
    const width = typeof s === 'number' ? this.#width('test', d) : this.#width('test', d, s);
    this.#text('test', width, d, s);
    const low = width === 8 ? 0 : 1;
    if (typeof s !== 'number') {
      this.#legacy(width, [0x84 | low], s.n, d, { rex: needsRex(s) || needsRex(d) });
      return;
    }
    if (d.kind === 'gpr' && d.n === 0) {
      if (width === 16) this.emit8(0x66);
      if (width === 64) this.emit8(0x48);
      this.emit8(0xa8 | low);
    } else {
      const immBytes = Math.min(width, 32) / 8;
      this.#legacy(width, [0xf6 | low], 0, d, { rex: needsRex(d), immBytes });
    }
    this.#immediate('test', s, width);
  }

  /** `d *= s`, or `d = s * immediate`. */
  imul(d: Gpr, s: Gpr | Mem, immediate?: number): void {
    this.#requireWidth('imul', d, 32, 64);
    const width = this.#width('imul', d, s);
    if (immediate === undefined) {
      this.#text('imul', width, d, s);
      this.#legacy(width, [0x0f, 0xaf], d.n, s);
      return;
    }
    this.#text('imul', width, d, s, immediate);
    const short = fitsInt(immediate, 8);
    this.#legacy(width, [short ? 0x6b : 0x69], d.n, s, { immBytes: short ? 1 : 4 });
    this.#immediate('imul', immediate, short ? 8 : width);
  }

  #unary(name: string, opcode: number, ext: number, d: Gpr | Mem): void {
    const width = this.#width(name, d);
    this.#text(name, width, d);
    this.#legacy(width, [opcode | (width === 8 ? 0 : 1)], ext, d, { rex: needsRex(d) });
  }

  inc(d: Gpr | Mem): void {
    this.#unary('inc', 0xfe, 0, d);
  }
  dec(d: Gpr | Mem): void {
    this.#unary('dec', 0xfe, 1, d);
  }
  not(d: Gpr | Mem): void {
    this.#unary('not', 0xf6, 2, d);
  }
  neg(d: Gpr | Mem): void {
    this.#unary('neg', 0xf6, 3, d);
  }
  /** Unsigned rdx:rax = rax * s. */
  mul(s: Gpr | Mem): void {
    this.#unary('mul', 0xf6, 4, s);
  }
  /** Unsigned rax = rdx:rax / s, rdx = remainder; clear rdx first. */
  div(s: Gpr | Mem): void {
    this.#unary('div', 0xf6, 6, s);
  }
  /** Signed division of rdx:rax; `cqo` first. */
  idiv(s: Gpr | Mem): void {
    this.#unary('idiv', 0xf6, 7, s);
  }
  /** Sign-extends rax into rdx. */
  cqo(): void {
    this.#fixed('cqo', 0x48, 0x99);
  }

  #shift(name: string, ext: number, d: Gpr | Mem, count: number | Gpr): void {
    const width = this.#width(name, d);
    const low = width === 8 ? 0 : 1;
    const rex = needsRex(d);
    if (this.isListing) {
      const amount = typeof count === 'number' ? String(count) : 'cl';
      this.note(`${name} ${formatOperand(d, width)}, ${amount}`);
    }
    if (typeof count !== 'number') {
      if (count.n !== 1) throw new AssemblerError(name, 'a variable count must be in cl');
      this.#legacy(width, [0xd2 | low], ext, d, { rex });
      return;
    }
    if (!Number.isInteger(count) || count < 0 || count >= width) {
      throw new AssemblerError(name, `count ${count}: expected 0 to ${width - 1}`);
    }
    if (count === 1) {
      this.#legacy(width, [0xd0 | low], ext, d, { rex });
      return;
    }
    this.#legacy(width, [0xc0 | low], ext, d, { rex, immBytes: 1 });
    this.emit8(count);
  }

  shl(d: Gpr | Mem, count: number | Gpr): void {
    this.#shift('shl', 4, d, count);
  }
  shr(d: Gpr | Mem, count: number | Gpr): void {
    this.#shift('shr', 5, d, count);
  }
  sar(d: Gpr | Mem, count: number | Gpr): void {
    this.#shift('sar', 7, d, count);
  }

  #shiftx(name: string, prefix: number, d: Gpr, s: Gpr | Mem, count: Gpr): void {
    this.#requireWidth(name, d, 32, 64);
    this.#requireWidth(name, count, d.width);
    const width = this.#width(name, d, s);
    this.#text(name, width, d, s, count);
    this.vex({
      prefix,
      map: OPCODE_MAP['0F38'],
      opcode: 0xf7,
      w: width === 64 ? 1 : 0,
      width: 128,
      reg: d.n,
      vvvv: count.n,
      rm: s,
      immBytes: 0,
    });
  }

  /** `d = s << count` without touching flags (BMI2). */
  shlx(d: Gpr, s: Gpr | Mem, count: Gpr): void {
    this.#shiftx('shlx', PREFIX['66'], d, s, count);
  }
  shrx(d: Gpr, s: Gpr | Mem, count: Gpr): void {
    this.#shiftx('shrx', PREFIX.F2, d, s, count);
  }
  sarx(d: Gpr, s: Gpr | Mem, count: Gpr): void {
    this.#shiftx('sarx', PREFIX.F3, d, s, count);
  }

  #count(name: string, opcode: number, d: Gpr, s: Gpr | Mem): void {
    this.#requireWidth(name, d, 32, 64);
    const width = this.#width(name, d, s);
    this.#text(name, width, d, s);
    this.#legacy(width, [0x0f, opcode], d.n, s, { prefix: 0xf3 });
  }

  popcnt(d: Gpr, s: Gpr | Mem): void {
    this.#count('popcnt', 0xb8, d, s);
  }
  tzcnt(d: Gpr, s: Gpr | Mem): void {
    this.#count('tzcnt', 0xbc, d, s);
  }
  lzcnt(d: Gpr, s: Gpr | Mem): void {
    this.#count('lzcnt', 0xbd, d, s);
  }

  // --- control flow ---

  /** Signed 8-bit distance to a label that is already bound, if it is that near. */
  #nearDistance(label: Label): number | undefined {
    if (label.position === undefined) return undefined;
    const distance = label.position - (this.length + 2);
    return distance >= -128 ? distance : undefined;
  }

  /** Jump to a label (2 bytes if it is bound and near, else 5) or to the address in a register. */
  jmp(target: Label | Gpr): void {
    if ('kind' in target) {
      this.#text('jmp', 64, target);
      this.#legacy(32, [0xff], 4, target);
      return;
    }
    this.note(`jmp L${target.id}`);
    const near = this.#nearDistance(target);
    if (near !== undefined) {
      this.emit8(0xeb);
      this.emit8(near);
      return;
    }
    this.emit8(0xe9);
    this.emitDistance(target);
  }

  /** Conditional jump: 2 bytes if the label is bound and near, else 6. */
  jcc(condition: Condition, target: Label): void {
    this.note(`j${condition} L${target.id}`);
    const near = this.#nearDistance(target);
    if (near !== undefined) {
      this.emit8(0x70 | CONDITIONS[condition]);
      this.emit8(near);
      return;
    }
    this.emit8(0x0f);
    this.emit8(0x80 | CONDITIONS[condition]);
    this.emitDistance(target);
  }

  /** Call of a label, or of the address in a register or in memory. */
  call(target: Label | Gpr | Mem): void {
    if (!('kind' in target)) {
      this.note(`call L${target.id}`);
      this.emit8(0xe8);
      this.emitDistance(target);
      return;
    }
    if (target.kind === 'gpr') this.#requireWidth('call', target, 64);
    this.#text('call', 64, target);
    this.#legacy(32, [0xff], 2, target);
  }

  #fixed(name: string, ...bytes: readonly number[]): void {
    this.note(name);
    for (const b of bytes) this.emit8(b);
  }

  ret(): void {
    this.#fixed('ret', 0xc3);
  }
  int3(): void {
    this.#fixed('int3', 0xcc);
  }
  ud2(): void {
    this.#fixed('ud2', 0x0f, 0x0b);
  }
  nop(): void {
    this.#fixed('nop', 0x90);
  }

  // --- atomics, fences, prefetch ---

  /** Atomically swaps `r` with memory and stores their sum; `r` receives the old value. */
  lockXadd(d: Mem, r: Gpr): void {
    this.#requireWidth('lock xadd', r, 32, 64);
    const width = this.#width('lock xadd', d, r);
    this.#text('lock xadd', width, d, r);
    this.emit8(0xf0);
    this.#legacy(width, [0x0f, 0xc1], r.n, d);
  }

  /** If memory equals rax/eax it becomes `r` and ZF is set, else rax/eax receives it. */
  lockCmpxchg(d: Mem, r: Gpr): void {
    this.#requireWidth('lock cmpxchg', r, 32, 64);
    const width = this.#width('lock cmpxchg', d, r);
    this.#text('lock cmpxchg', width, d, r);
    this.emit8(0xf0);
    this.#legacy(width, [0x0f, 0xb1], r.n, d);
  }

  /** Atomic `d += s`. */
  lockAdd(d: Mem, s: Gpr | number): void {
    if (this.isListing) {
      const width = typeof s === 'number' ? this.#width('lock add', d) : s.width;
      this.note(`lock add ${formatOperand(d, width)}, ${formatOperand(s)}`);
    }
    this.emit8(0xf0);
    this.#silently(() => this.#alu('add', d, s));
  }

  /** Runs `emit` without recording its text, for instructions made of a prefix and another. */
  #silently(emit: () => void): void {
    this.muted = true;
    try {
      emit();
    } finally {
      this.muted = false;
    }
  }

  pause(): void {
    this.#fixed('pause', 0xf3, 0x90);
  }
  lfence(): void {
    this.#fixed('lfence', 0x0f, 0xae, 0xe8);
  }
  mfence(): void {
    this.#fixed('mfence', 0x0f, 0xae, 0xf0);
  }
  sfence(): void {
    this.#fixed('sfence', 0x0f, 0xae, 0xf8);
  }

  #prefetch(name: string, opcode: number, ext: number, m: Mem): void {
    this.#text(name, 8, m);
    this.#legacy(32, [0x0f, opcode], ext, m);
  }
  prefetchnta(m: Mem): void {
    this.#prefetch('prefetchnta', 0x18, 0, m);
  }
  prefetcht0(m: Mem): void {
    this.#prefetch('prefetcht0', 0x18, 1, m);
  }
  prefetcht1(m: Mem): void {
    this.#prefetch('prefetcht1', 0x18, 2, m);
  }
  prefetcht2(m: Mem): void {
    this.#prefetch('prefetcht2', 0x18, 3, m);
  }
  prefetchw(m: Mem): void {
    this.#prefetch('prefetchw', 0x0d, 1, m);
  }

  // --- system ---

  rdtsc(): void {
    this.#fixed('rdtsc', 0x0f, 0x31);
  }
  rdtscp(): void {
    this.#fixed('rdtscp', 0x0f, 0x01, 0xf9);
  }
  cpuid(): void {
    this.#fixed('cpuid', 0x0f, 0xa2);
  }
  xgetbv(): void {
    this.#fixed('xgetbv', 0x0f, 0x01, 0xd0);
  }
  syscall(): void {
    this.#fixed('syscall', 0x0f, 0x05);
  }
  /** Stores al at [rdi] rcx times. */
  repStosb(): void {
    this.#fixed('rep stosb', 0xf3, 0xaa);
  }
  /** Copies rcx bytes from [rsi] to [rdi]. */
  repMovsb(): void {
    this.#fixed('rep movsb', 0xf3, 0xa4);
  }
  /** Loads MXCSR (rounding, FTZ, DAZ) from 32 bits of memory. */
  ldmxcsr(m: Mem): void {
    this.#text('ldmxcsr', 32, m);
    this.#legacy(32, [0x0f, 0xae], 2, m);
  }
  stmxcsr(m: Mem): void {
    this.#text('stmxcsr', 32, m);
    this.#legacy(32, [0x0f, 0xae], 3, m);
  }
  /** Clears the upper halves of all ymm; needed before `ret`, or later SSE code is slow. */
  vzeroupper(): void {
    this.#fixed('vzeroupper', 0xc5, 0xf8, 0x77);
  }
}
