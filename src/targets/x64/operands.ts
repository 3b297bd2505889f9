/**
 * Operands of x86-64 instructions: registers, memory references, labels, and their Intel-syntax
 * text. Plain frozen data; knows nothing of instructions or their encoding.
 */
import { AssemblerError } from './assembler-error.ts';

export type GprWidth = 8 | 16 | 32 | 64;
export type VecWidth = 128 | 256 | 512;

/** A general-purpose register; `width` picks `al`, `ax`, `eax` or `rax`. */
export interface Gpr {
  readonly kind: 'gpr';
  /** 0-15 in encoding order: rax rcx rdx rbx rsp rbp rsi rdi r8 … r15. */
  readonly n: number;
  readonly width: GprWidth;
}

/** Write mask on a destination (EVEX): lanes whose bit is 0 keep their value, or become 0 if `zeroing`. */
export interface Masking {
  readonly mask?: Mask;
  readonly zeroing?: boolean;
}

/** A vector register; `width` picks xmm, ymm or zmm. */
export interface Vec extends Masking {
  readonly kind: 'vec';
  /** 0-31; above 15 only EVEX instructions reach it. */
  readonly n: number;
  readonly width: VecWidth;
}

/** A mask register k0-k7. */
export interface Mask extends Masking {
  readonly kind: 'mask';
  readonly n: number;
}

/** A memory reference `[base + index*scale + disp]`, or `[rip + label + disp]`. */
export interface Mem extends Masking {
  readonly kind: 'mem';
  readonly base?: Gpr;
  readonly index?: Gpr;
  readonly scale: 1 | 2 | 4 | 8;
  /** Signed 32-bit byte displacement. */
  readonly disp: number;
  /** One element is read and given to all lanes (EVEX only). */
  readonly broadcast?: boolean;
  /** Bits accessed; only needed where neither the mnemonic nor a register says (`mov [m], 5`). */
  readonly size?: GprWidth;
  /** The place in the same code block that a RIP-relative reference means. */
  readonly label?: Label;
}

export type Operand = Gpr | Vec | Mask | Mem | number;

/** A place in the code; made by `Assembler.label()`, placed by `bind`. */
export class Label {
  readonly id: number;
  /** Byte offset in the code block, or undefined until bound. */
  position: number | undefined;

  constructor(id: number) {
    this.id = id;
  }
}

const GPR_NAMES = ['ax', 'cx', 'dx', 'bx', 'sp', 'bp', 'si', 'di'] as const;

/** General-purpose register `n` (0-15) at a width. */
export function gpr(n: number, width: GprWidth = 64): Gpr {
  if (!Number.isInteger(n) || n < 0 || n > 15) {
    throw new AssemblerError('', `general register ${n}: expected 0-15`);
  }
  return { kind: 'gpr', n, width };
}

export const rax = gpr(0);
export const rcx = gpr(1);
export const rdx = gpr(2);
export const rbx = gpr(3);
export const rsp = gpr(4);
export const rbp = gpr(5);
export const rsi = gpr(6);
export const rdi = gpr(7);
export const r8 = gpr(8);
export const r9 = gpr(9);
export const r10 = gpr(10);
export const r11 = gpr(11);
export const r12 = gpr(12);
export const r13 = gpr(13);
export const r14 = gpr(14);
export const r15 = gpr(15);
export const eax = gpr(0, 32);
export const ecx = gpr(1, 32);
export const edx = gpr(2, 32);
export const ebx = gpr(3, 32);
export const esi = gpr(6, 32);
export const edi = gpr(7, 32);
export const al = gpr(0, 8);
export const cl = gpr(1, 8);

/** The low 64, 32, 16 or 8 bits of a general register. */
export const as64 = (r: Gpr): Gpr => gpr(r.n, 64);
export const as32 = (r: Gpr): Gpr => gpr(r.n, 32);
export const as16 = (r: Gpr): Gpr => gpr(r.n, 16);
export const as8 = (r: Gpr): Gpr => gpr(r.n, 8);

/** Vector register `n` (0-31) at a width. */
export function vec(n: number, width: VecWidth): Vec {
  if (!Number.isInteger(n) || n < 0 || n > 31) {
    throw new AssemblerError('', `vector register ${n}: expected 0-31`);
  }
  return { kind: 'vec', n, width };
}
export const xmm = (n: number): Vec => vec(n, 128);
export const ymm = (n: number): Vec => vec(n, 256);
export const zmm = (n: number): Vec => vec(n, 512);
/** The same register, seen as its low 128, 256 or 512 bits. */
export const asXmm = (v: Vec): Vec => vec(v.n, 128);
export const asYmm = (v: Vec): Vec => vec(v.n, 256);
export const asZmm = (v: Vec): Vec => vec(v.n, 512);

/** Mask register k0-k7; k0 cannot be a write mask. */
export function kreg(n: number): Mask {
  if (!Number.isInteger(n) || n < 0 || n > 7) {
    throw new AssemblerError('', `mask register ${n}: expected 0-7`);
  }
  return { kind: 'mask', n };
}
export const k0 = kreg(0);
export const k1 = kreg(1);
export const k2 = kreg(2);
export const k3 = kreg(3);
export const k4 = kreg(4);
export const k5 = kreg(5);
export const k6 = kreg(6);
export const k7 = kreg(7);

/**
 * `[base + index*scale + disp]`.
 * @throws {AssemblerError} if the index is rsp, the scale is not 1, 2, 4 or 8, a register is not
 *   64-bit, or `disp` (bytes) is not a signed 32-bit integer
 */
export function mem(base: Gpr, disp = 0, index?: Gpr, scale = 1): Mem {
  if (!Number.isInteger(disp) || disp < -0x80000000 || disp > 0x7fffffff) {
    throw new AssemblerError('', `displacement ${disp}: expected a signed 32-bit integer`);
  }
  if (scale !== 1 && scale !== 2 && scale !== 4 && scale !== 8) {
    throw new AssemblerError('', `index scale ${scale}: expected 1, 2, 4 or 8`);
  }
  if (base.width !== 64 || (index !== undefined && index.width !== 64)) {
    throw new AssemblerError('', 'address registers must be 64-bit');
  }
  if (index?.n === 4) throw new AssemblerError('', 'rsp cannot be an index register');
  return index === undefined
    ? { kind: 'mem', base, disp, scale: 1 }
    : { kind: 'mem', base, index, scale, disp };
}

/** As `mem`, reading one element and giving it to all lanes (EVEX). */
export function bcst(base: Gpr, disp = 0, index?: Gpr, scale = 1): Mem {
  return { ...mem(base, disp, index, scale), broadcast: true };
}

/** `[rip + label + disp]`: constants stored beside the code. */
export const ripMem = (label: Label, disp = 0): Mem => ({ kind: 'mem', label, disp, scale: 1 });

/** The same reference with its access size stated, for forms such as `mov dword [m], 5`. */
export const byte = (m: Mem): Mem => ({ ...m, size: 8 });
export const word = (m: Mem): Mem => ({ ...m, size: 16 });
export const dword = (m: Mem): Mem => ({ ...m, size: 32 });
export const qword = (m: Mem): Mem => ({ ...m, size: 64 });

/** `operand{k}`: only lanes whose bit in `mask` is set are written, the others keep their value. */
export function masked<T extends Vec | Mem | Mask>(operand: T, mask: Mask): T {
  if (mask.n === 0) throw new AssemblerError('', 'k0 cannot be a write mask');
  return { ...operand, mask };
}

/** `operand{k}{z}`: lanes whose bit in `mask` is clear become zero. */
export function zeroed(operand: Vec, mask: Mask): Vec {
  return { ...masked(operand, mask), zeroing: true };
}

export function gprName(r: Gpr): string {
  const legacy = GPR_NAMES[r.n];
  if (legacy === undefined) return `r${r.n}${{ 8: 'b', 16: 'w', 32: 'd', 64: '' }[r.width]}`;
  if (r.width === 8) return r.n < 4 ? `${legacy[0]}l` : `${legacy}l`;
  return { 16: '', 32: 'e', 64: 'r' }[r.width] + legacy;
}

const VEC_PREFIX = { 128: 'xmm', 256: 'ymm', 512: 'zmm' } as const;
const PTR: Readonly<Record<number, string>> = {
  8: 'byte ptr ',
  16: 'word ptr ',
  32: 'dword ptr ',
  64: 'qword ptr ',
  128: 'xmmword ptr ',
  256: 'ymmword ptr ',
  512: 'zmmword ptr ',
};

/**
 * Intel-syntax text of an operand, as GNU `as` with `.intel_syntax noprefix` takes it.
 * @param memBits bits accessed, for the `ptr` keyword; of one element where `broadcastLanes` is set
 * @param broadcastLanes lanes filled by an embedded broadcast
 */
export function formatOperand(o: Operand, memBits = 0, broadcastLanes = 0): string {
  if (typeof o === 'number') return String(o);
  if (o.kind === 'gpr') return gprName(o);
  let text: string;
  if (o.kind === 'vec') text = VEC_PREFIX[o.width] + o.n;
  else if (o.kind === 'mask') text = `k${o.n}`;
  else {
    const index = o.index === undefined ? '' : `+${gprName(o.index)}*${o.scale}`;
    const base = o.base === undefined ? `rip+L${o.label?.id ?? '?'}` : gprName(o.base);
    const disp = o.disp === 0 ? '' : o.disp < 0 ? String(o.disp) : `+${o.disp}`;
    text = `${PTR[memBits] ?? ''}[${base}${index}${disp}]`;
    if (o.broadcast) text += `{1to${broadcastLanes}}`;
  }
  if (o.mask !== undefined) text += `{k${o.mask.n}}`;
  return o.zeroing ? `${text}{z}` : text;
}
