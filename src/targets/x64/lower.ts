/**
 * Lowers a kernel program (kernels/kernel-ir.ts) to x86-64 machine code: AVX2 for 8 lanes, AVX-512 for 16.
 *
 * Instruction selection is one function per kernel instruction; registers come from register-allocation.ts. rax, rdx, k1 and rsp are the lowering's own.
 * A kernel is a System V function of (table, chunk, scratch); it keeps the callee-saved registers that it uses and leaves the upper vector halves clean.
 * Knows nothing of what the kernel computes.
 */
import type {
  Address,
  Condition,
  Instruction,
  KernelProgram,
  Scalar,
  Vector,
  VirtualRegister,
} from '../../kernels/kernel-ir.ts';
import { InternalError } from '../../platform/errors.ts';
import { Assembler, type Condition as X64Condition } from './assembler.ts';
import type { EncoderOptions } from './encoder.ts';
import {
  as32,
  asXmm,
  asYmm,
  bcst,
  type Gpr,
  gpr,
  k1,
  kreg,
  type Label,
  type Mask,
  type Mem,
  masked,
  mem,
  rax,
  rcx,
  rdx,
  ripMem,
  type Vec,
  vec,
  zeroed,
} from './operands.ts';
import { type Assignment, allocateRegisters } from './register-allocation.ts';

/** rdi, rsi and rcx first: the arguments stay where they come in (scratch moves from rdx to rcx). */
const SCALAR_POOL = [7, 6, 1, 8, 9, 10, 11, 3, 5, 12, 13, 14, 15] as const;
const CALLEE_SAVED: ReadonlySet<number> = new Set([3, 5, 12, 13, 14, 15]);
const FIRST_TAIL_MASK = 2;
const LAST_TAIL_MASK = 7;

/** vcmpps predicates, ordered, quiet. */
const COMPARE = { ge: 29, gt: 30 } as const;
const ROUND_TO_NEAREST = 0;
const ROUND_SUPPRESS_EXCEPTIONS = 8;
const LARGEST_F16 = 65504;

const NEGATED: Record<Condition, X64Condition> = {
  eq: 'ne',
  ne: 'e',
  lt: 'ge',
  le: 'g',
  gt: 'le',
  ge: 'l',
};

/** 32-bit constants and lane patterns, stored behind the code. */
class ConstantPool {
  readonly #asm: Assembler;
  readonly #entries = new Map<string, { label: Label; words: readonly number[] }>();

  constructor(asm: Assembler) {
    this.#asm = asm;
  }

  words(words: readonly number[]): Mem {
    const key = words.join();
    let entry = this.#entries.get(key);
    if (!entry) {
      entry = { label: this.#asm.label(), words };
      this.#entries.set(key, entry);
    }
    return ripMem(entry.label);
  }

  emit(): void {
    if (this.#entries.size === 0) return;
    this.#asm.align(64);
    const entries = [...this.#entries.values()].sort((x, y) => y.words.length - x.words.length);
    for (const { label, words } of entries) {
      this.#asm.bind(label);
      for (const word of words) {
        this.#asm.db(word & 255, (word >> 8) & 255, (word >> 16) & 255, (word >> 24) & 255);
      }
    }
  }
}

interface OpenIf {
  readonly otherwise: Label;
  readonly end: Label;
  hasElse: boolean;
}

class Lowering {
  readonly #program: KernelProgram;
  readonly #asm: Assembler;
  readonly #pool: ConstantPool;
  readonly #assignment: Assignment;
  readonly #width: 256 | 512;
  readonly #lanes: number;
  readonly #loops = new Map<number, Label>();
  readonly #ifs = new Map<number, OpenIf>();
  readonly #tailMasks = new Map<number, Mask>();
  readonly #table: VirtualRegister<'s'> = { kind: 's', id: -1 };

  constructor(program: KernelProgram, options: EncoderOptions = {}) {
    this.#program = program;
    this.#asm = new Assembler(options);
    this.#pool = new ConstantPool(this.#asm);
    this.#lanes = program.machine.lanes;
    this.#width = this.#lanes === 16 ? 512 : 256;
    this.#assignment = allocateRegisters(program, SCALAR_POOL, [
      this.#table,
      program.chunk,
      program.scratch,
    ]);
  }

  lower(): Assembler {
    const saved = [...this.#assignment.scalars].filter((n) => CALLEE_SAVED.has(n));
    for (const n of saved) this.#asm.push(gpr(n));
    this.#asm.mov(rcx, rdx);
    if (this.#width === 512) this.#hoistTailMasks();
    for (const instruction of this.#program.instructions) this.#emit(instruction);
    for (const n of saved.reverse()) this.#asm.pop(gpr(n));
    this.#asm.vzeroupper();
    this.#asm.ret();
    this.#pool.emit();
    return this.#asm;
  }

  #hoistTailMasks(): void {
    let next = FIRST_TAIL_MASK;
    for (const x of this.#program.instructions) {
      if (x.op !== 'v.load' && x.op !== 'v.store') continue;
      if (x.count === this.#lanes || this.#tailMasks.has(x.count)) continue;
      if (next > LAST_TAIL_MASK) return;
      const mask = kreg(next++);
      this.#loadMask(mask, x.count);
      this.#tailMasks.set(x.count, mask);
    }
  }

  #loadMask(mask: Mask, count: number): void {
    this.#asm.mov(as32(rax), (1 << count) - 1);
    this.#asm.kmovw(mask, as32(rax));
  }

  #tailMask(count: number): Mask {
    const hoisted = this.#tailMasks.get(count);
    if (hoisted) return hoisted;
    this.#loadMask(k1, count);
    return k1;
  }

  #s(register: Scalar): Gpr {
    return gpr(this.#number(register));
  }

  #v(register: Vector): Vec {
    return vec(this.#number(register), this.#width);
  }

  #number(register: VirtualRegister): number {
    const n = this.#assignment.registers.get(register.id);
    if (n === undefined) {
      throw new InternalError(
        `kernel ${this.#program.name}: register ${register.id} is read but never written`,
      );
    }
    return n;
  }

  #mem(address: Address): Mem {
    const base = this.#s(address.base);
    return address.index
      ? mem(base, address.offsetBytes, this.#s(address.index), address.scale ?? 1)
      : mem(base, address.offsetBytes);
  }

  #emit(x: Instruction): void {
    const a = this.#asm;
    switch (x.op) {
      case 'arg':
        a.mov(this.#s(x.dst), mem(this.#s(this.#table), 8 * x.index));
        return;
      case 'const':
        if (x.value === 0) a.xor(as32(this.#s(x.dst)), as32(this.#s(x.dst)));
        else a.mov(this.#s(x.dst), x.value);
        return;
      case 's.move':
        this.#moveScalar(this.#s(x.dst), this.#s(x.src));
        return;
      case 's.binary':
        this.#scalarBinary(x);
        return;
      case 's.shift':
        this.#moveScalar(this.#s(x.dst), this.#s(x.a));
        a[x.kind](this.#s(x.dst), x.bits);
        return;
      case 's.address':
        a.lea(this.#s(x.dst), this.#mem(x.address));
        return;
      case 's.load':
        this.#scalarLoad(this.#s(x.dst), x.bits, this.#mem(x.address));
        return;
      case 's.store':
        a.mov(this.#mem(x.address), gpr(this.#s(x.src).n, x.bits));
        return;
      case 'v.zero':
        this.#zero(this.#v(x.dst));
        return;
      case 'v.splatBits':
        if (x.bits === 0) this.#emit({ op: 'v.zero', dst: x.dst });
        else a.vbroadcastss(this.#v(x.dst), this.#pool.words([x.bits]));
        return;
      case 'v.table16':
        a.vmovups(this.#v(x.dst), this.#pool.words(this.#tableWords(x.bytes)));
        return;
      case 'v.splatScalar':
        if (this.#width === 512) a.vpbroadcastd(this.#v(x.dst), as32(this.#s(x.src)));
        else {
          a.vmovd(asXmm(this.#v(x.dst)), as32(this.#s(x.src)));
          a.vpbroadcastd(this.#v(x.dst), asXmm(this.#v(x.dst)));
        }
        return;
      case 'v.laneIndex':
        a.vmovups(
          this.#v(x.dst),
          this.#pool.words(Array.from({ length: this.#lanes }, (_, i) => i)),
        );
        return;
      case 'v.binary':
        this.#vectorBinary(x);
        return;
      case 'v.unary':
        this.#vectorUnary(x);
        return;
      case 'v.shift':
        this.#vectorShift(x);
        return;
      case 'v.fma': {
        const b = 'kind' in x.b ? this.#v(x.b) : this.#broadcastOperand(x.b);
        if (x.subtract) a.vfnmadd231ps(this.#v(x.dst), this.#v(x.a), b);
        else a.vfmadd231ps(this.#v(x.dst), this.#v(x.a), b);
        return;
      }
      case 'v.dotU8I8': {
        const b = 'kind' in x.b ? this.#v(x.b) : this.#broadcastOperand(x.b);
        a.vpdpbusd(this.#v(x.dst), this.#v(x.a), b);
        return;
      }
      case 'v.select':
        this.#select(x);
        return;
      case 'v.load':
        this.#vectorLoad(x);
        return;
      case 'v.broadcast':
        this.#broadcast(x);
        return;
      case 'v.store':
        this.#vectorStore(x);
        return;
      case 'prefetch':
        if (x.into === 'l1') a.prefetcht0(this.#mem(x.address));
        else a.prefetcht1(this.#mem(x.address));
        return;
      case 'loop.begin': {
        const label = a.label();
        a.align(32);
        a.bind(label);
        this.#loops.set(x.id, label);
        return;
      }
      case 'loop.end':
        a.sub(this.#s(x.counter), 1);
        a.jcc('ne', this.#loops.get(x.id)!);
        return;
      case 'if.begin': {
        const open = { otherwise: a.label(), end: a.label(), hasElse: false };
        this.#ifs.set(x.id, open);
        a.cmp(this.#s(x.a), typeof x.b === 'number' ? x.b : this.#s(x.b));
        a.jcc(NEGATED[x.condition], open.otherwise);
        return;
      }
      case 'if.else': {
        const open = this.#ifs.get(x.id)!;
        open.hasElse = true;
        a.jmp(open.end);
        a.bind(open.otherwise);
        return;
      }
      case 'if.end': {
        const open = this.#ifs.get(x.id)!;
        if (!open.hasElse) a.bind(open.otherwise);
        a.bind(open.end);
        return;
      }
      default:
        x satisfies never;
    }
  }

  #select(x: Extract<Instruction, { op: 'v.select' }>): void {
    const a = this.#asm;
    const d = this.#v(x.dst);
    const value = this.#v(x.value);
    const otherwise = x.otherwise === null ? null : this.#v(x.otherwise);
    if (this.#width === 512) {
      a.vcmpps(k1, this.#v(x.a), this.#v(x.b), COMPARE[x.condition]);
      if (otherwise === null) a.vmovaps(zeroed(d, k1), value);
      else a.vblendmps(masked(d, k1), otherwise, value);
    } else {
      a.vcmpps(d, this.#v(x.a), this.#v(x.b), COMPARE[x.condition]);
      if (otherwise === null) a.vandps(d, d, value);
      else a.vblendvps(d, otherwise, value, d);
    }
  }

  #broadcastOperand(address: Address): Mem {
    const { base, disp, index, scale } = this.#mem(address);
    return bcst(base!, disp, index, scale);
  }

  /** Writing the low 128 bits clears the rest; registers above 15 have only the wide form. */
  #zero(v: Vec): void {
    if (v.n > 15) this.#asm.vpxord(v, v, v);
    else this.#asm.vpxor(asXmm(v), asXmm(v), asXmm(v));
  }

  #moveScalar(dst: Gpr, src: Gpr): void {
    if (dst.n !== src.n) this.#asm.mov(dst, src);
  }

  #scalarLoad(dst: Gpr, bits: 8 | 16 | 32 | 64, from: Mem): void {
    const a = this.#asm;
    if (bits === 64) a.mov(dst, from);
    else if (bits === 32) a.movsxd(dst, { ...from, size: 32 });
    else a.movzx(as32(dst), { ...from, size: bits });
  }

  #scalarBinary(x: Extract<Instruction, { op: 's.binary' }>): void {
    const a = this.#asm;
    const dst = this.#s(x.dst);
    const left = this.#s(x.a);
    const right = typeof x.b === 'number' ? x.b : this.#s(x.b);
    switch (x.kind) {
      case 'add':
        if (typeof right === 'number') {
          if (dst.n === left.n) a.add(dst, right);
          else a.lea(dst, mem(left, right));
        } else if (dst.n === left.n) a.add(dst, right);
        else if (dst.n === right.n) a.add(dst, left);
        else a.lea(dst, mem(left, 0, right));
        return;
      case 'mul':
        if (typeof right === 'number') a.imul(dst, left, right);
        else if (dst.n === right.n) a.imul(dst, left);
        else {
          this.#moveScalar(dst, left);
          a.imul(dst, right);
        }
        return;
      case 'sub':
      case 'and':
        if (typeof right !== 'number' && dst.n === right.n && dst.n !== left.n) {
          a.mov(rax, left);
          a[x.kind](rax, right);
          a.mov(dst, rax);
          return;
        }
        this.#moveScalar(dst, left);
        a[x.kind](dst, right);
        return;
      case 'min':
      case 'max':
        a.mov(rax, left);
        a.cmp(rax, right);
        a.cmovcc(x.kind === 'min' ? 'g' : 'l', rax, right as Gpr);
        a.mov(dst, rax);
        return;
      case 'div':
        a.mov(rax, left);
        a.xor(as32(rdx), as32(rdx));
        a.div(right as Gpr);
        a.mov(dst, rax);
        return;
      default:
        x.kind satisfies never;
    }
  }

  #vectorBinary(x: Extract<Instruction, { op: 'v.binary' }>): void {
    const a = this.#asm;
    const d = this.#v(x.dst);
    const l = this.#v(x.a);
    const r = this.#v(x.b);
    const wide = this.#width === 512;
    switch (x.kind) {
      case 'f32.add':
        a.vaddps(d, l, r);
        return;
      case 'f32.sub':
        a.vsubps(d, l, r);
        return;
      case 'f32.mul':
        a.vmulps(d, l, r);
        return;
      case 'f32.div':
        a.vdivps(d, l, r);
        return;
      case 'f32.max':
        a.vmaxps(d, l, r);
        return;
      case 'f32.min':
        a.vminps(d, l, r);
        return;
      case 'i32.add':
        a.vpaddd(d, l, r);
        return;
      case 'i32.sub':
        a.vpsubd(d, l, r);
        return;
      case 'i32.mul':
        a.vpmulld(d, l, r);
        return;
      case 'i16.add':
        a.vpaddw(d, l, r);
        return;
      case 'bits.and':
        if (wide) a.vpandd(d, l, r);
        else a.vpand(d, l, r);
        return;
      case 'bits.andNot':
        if (wide) a.vpandnd(d, l, r);
        else a.vpandn(d, l, r);
        return;
      case 'bits.or':
        if (wide) a.vpord(d, l, r);
        else a.vpor(d, l, r);
        return;
      case 'bits.xor':
        if (wide) a.vpxord(d, l, r);
        else a.vpxor(d, l, r);
        return;
      case 'i16.dotU8I8':
        a.vpmaddubsw(d, l, r);
        return;
      case 'i32.dotI16':
        a.vpmaddwd(d, l, r);
        return;
      case 'i8.lookup16':
        a.vpshufb(d, l, r);
        return;
      default:
        x.kind satisfies never;
    }
  }

  #vectorUnary(x: Extract<Instruction, { op: 'v.unary' }>): void {
    const a = this.#asm;
    const d = this.#v(x.dst);
    const s = this.#v(x.a);
    switch (x.kind) {
      case 'move':
        if (d.n !== s.n) a.vmovaps(d, s);
        return;
      case 'f32.sqrt':
        a.vsqrtps(d, s);
        return;
      case 'f32.fromI32':
        a.vcvtdq2ps(d, s);
        return;
      case 'i32.fromF32':
        a.vcvtps2dq(d, s);
        return;
      case 'f32.round':
        if (this.#width === 512) a.vrndscaleps(d, s, ROUND_TO_NEAREST);
        else a.vroundps(d, s, ROUND_TO_NEAREST | ROUND_SUPPRESS_EXCEPTIONS);
        return;
      case 'f32.swap1':
        a.vpermilps(d, s, 0xb1);
        return;
      case 'f32.swap2':
        a.vpermilps(d, s, 0x4e);
        return;
      case 'f32.swap4':
        if (this.#width === 512) a.vshuff32x4(d, s, s, 0xb1);
        else a.vperm2f128(d, s, s, 0x01);
        return;
      case 'f32.swap8':
        if (this.#width !== 512) {
          throw new InternalError(`kernel ${this.#program.name}: ${x.kind} of 8 lanes`);
        }
        a.vshuff32x4(d, s, s, 0x4e);
        return;
      case 'f32.broadcastLane0':
        a.vbroadcastss(d, asXmm(s));
        return;
      case 'f32.reduceAdd':
      case 'f32.reduceMax':
      case 'i32.reduceAdd':
        this.#reduce(x.kind, d, s, this.#v(x.temp!));
        return;
      default:
        x.kind satisfies never;
    }
  }

  /** Halves of the register are combined, then quarters, pairs and neighbours, so that every lane ends with the whole. */
  #reduce(kind: 'f32.reduceAdd' | 'f32.reduceMax' | 'i32.reduceAdd', d: Vec, s: Vec, t: Vec): void {
    const a = this.#asm;
    const combine = (source: Vec): void => {
      if (kind === 'f32.reduceAdd') a.vaddps(d, source, t);
      else if (kind === 'f32.reduceMax') a.vmaxps(d, source, t);
      else a.vpaddd(d, source, t);
    };
    let source = s;
    if (this.#width === 512) {
      a.vshuff32x4(t, source, source, 0x4e);
      combine(source);
      source = d;
      a.vshuff32x4(t, source, source, 0xb1);
      combine(source);
    } else {
      a.vperm2f128(t, source, source, 0x01);
      combine(source);
      source = d;
    }
    a.vpermilps(t, source, 0x4e);
    combine(source);
    a.vpermilps(t, source, 0xb1);
    combine(source);
  }

  #vectorShift(x: Extract<Instruction, { op: 'v.shift' }>): void {
    const a = this.#asm;
    const d = this.#v(x.dst);
    const s = this.#v(x.a);
    switch (x.kind) {
      case 'i16.shr':
        a.vpsrlw(d, s, x.bits);
        return;
      case 'i32.shl':
        a.vpslld(d, s, x.bits);
        return;
      case 'i32.shr':
        a.vpsrld(d, s, x.bits);
        return;
      case 'i32.sar':
        a.vpsrad(d, s, x.bits);
        return;
      default:
        x.kind satisfies never;
    }
  }

  /** For narrow formats a tail load reads the full vector's bytes and clears the lanes behind `count`; memory has that slack. */
  #vectorLoad(x: Extract<Instruction, { op: 'v.load' }>): void {
    const a = this.#asm;
    const d = this.#v(x.dst);
    const from = this.#mem(x.address);
    const isTail = x.count < this.#lanes;
    if (x.format === 'bits') {
      if (!isTail) a.vmovups(d, from);
      else if (this.#width === 512) a.vmovups(zeroed(d, this.#tailMask(x.count)), from);
      else {
        a.vmovups(d, this.#pool.words(this.#laneMask(x.count)));
        a.vmaskmovps(d, d, from);
      }
      return;
    }
    switch (x.format) {
      case 'f16':
        a.vcvtph2ps(d, from);
        break;
      case 'bf16':
        a.vpmovzxwd(d, from);
        a.vpslld(d, d, 16);
        break;
      case 'u8':
        a.vpmovzxbd(d, from);
        break;
      case 'i8':
        a.vpmovsxbd(d, from);
        break;
      default:
        x.format satisfies never;
    }
    if (!isTail) return;
    if (this.#width === 512) a.vmovaps(zeroed(d, this.#tailMask(x.count)), d);
    else a.vandps(d, d, this.#pool.words(this.#laneMask(x.count)));
  }

  /** 16 bytes as little-endian words, over and over for all lanes. */
  #tableWords(bytes: readonly number[]): number[] {
    return Array.from({ length: this.#lanes }, (_, lane) => {
      const first = 4 * (lane % 4);
      return bytes.slice(first, first + 4).reduceRight((word, byte) => (word << 8) | byte, 0);
    });
  }

  #laneMask(count: number): number[] {
    return Array.from({ length: this.#lanes }, (_, i) => (i < count ? -1 : 0));
  }

  #broadcast(x: Extract<Instruction, { op: 'v.broadcast' }>): void {
    const a = this.#asm;
    const d = this.#v(x.dst);
    const from = this.#mem(x.address);
    if (x.format === 'bits') {
      a.vbroadcastss(d, from);
      return;
    }
    const half = this.#width === 512 ? asYmm(d) : asXmm(d);
    a.vpbroadcastw(half, from);
    if (x.format === 'f16') a.vcvtph2ps(d, half);
    else {
      a.vpmovzxwd(d, half);
      a.vpslld(d, d, 16);
    }
  }

  #vectorStore(x: Extract<Instruction, { op: 'v.store' }>): void {
    const a = this.#asm;
    const s = this.#v(x.src);
    const to = this.#mem(x.address);
    const isTail = x.count < this.#lanes;
    if (x.format === 'bits') {
      if (!isTail) a.vmovups(to, s);
      else if (this.#width === 512) a.vmovups(masked(to, this.#tailMask(x.count)), s);
      else {
        const t = this.#v(x.temp!);
        a.vmovups(t, this.#pool.words(this.#laneMask(x.count)));
        a.vmaskmovps(to, t, s);
      }
      return;
    }
    if (isTail && this.#width === 256) {
      throw new InternalError(
        `kernel ${this.#program.name}: ${x.format} stores are of whole vectors`,
      );
    }
    const t = this.#v(x.temp!);
    if (x.format === 'f16' || x.format === 'f16OrInfinity') {
      let from = s;
      if (x.format === 'f16') {
        a.vbroadcastss(t, this.#pool.words([f32Bits(LARGEST_F16)]));
        a.vminps(t, s, t);
        this.#maxWithConstant(t, -LARGEST_F16);
        from = t;
      }
      if (this.#width === 512) {
        a.vcvtps2ph(asYmm(t), from, ROUND_TO_NEAREST);
        if (isTail) a.vmovdqu16(masked(to, this.#tailMask(x.count)), asYmm(t));
        else a.vmovups(to, asYmm(t));
      } else a.vcvtps2ph(to, from, ROUND_TO_NEAREST);
      return;
    }
    if (this.#width === 512) {
      a.vpmovdb(isTail ? masked(to, this.#tailMask(x.count)) : to, s);
      return;
    }
    a.vpackssdw(t, s, s);
    a.vpacksswb(t, t, t);
    a.vmovd(to, asXmm(t));
    a.vextracti128(asXmm(t), t, 1);
    a.vmovd({ ...to, disp: to.disp + 4 }, asXmm(t));
  }

  #maxWithConstant(v: Vec, value: number): void {
    const a = this.#asm;
    if (this.#width === 512)
      a.vmaxps(v, v, { ...this.#pool.words([f32Bits(value)]), broadcast: true });
    else a.vmaxps(v, v, this.#pool.words(Array.from({ length: 8 }, () => f32Bits(value))));
  }
}

function f32Bits(value: number): number {
  return new Int32Array(new Float32Array([value]).buffer)[0]!;
}

/**
 * Machine code of a kernel, position-independent, constants included.
 * @throws {KernelTooLargeError} if it needs more registers than the machine has
 */
export function lowerToX64(program: KernelProgram): Uint8Array {
  return new Lowering(program).lower().code();
}

/** The same code as lines of offset, bytes and assembly text, for people. */
export function x64Listing(program: KernelProgram): string {
  return new Lowering(program, { listing: true }).lower().listing();
}
