/**
 * The vocabulary in which vector instructions are described: one `form` per row of the processor
 * manual. Knows the description language and how operands match it; the instructions themselves
 * are in vector-instructions.ts, the bytes in encoder.ts.
 *
 * A form is `form(operands, roles, opcode, options)`, for instance
 * `form('v v v/m', 'RVM', 'np.0F 58', { vex: 0, evex: 0, bcst: 32 })` for `vaddps`.
 *
 * Operand tokens, separated by spaces, destination first:
 *   v        vector register of the instruction's width L
 *   h q e    vector register of half, a quarter, an eighth of L, never less than xmm
 *   x y      xmm, ymm
 *   k        mask register;  r32 r64  general register;  i  8-bit immediate
 *   m128 …   memory of that many bits;  m  memory of L bits
 *   a/m      either; `v/m` reads L bits, `h/m` L/2 …, `x/m32` 32 bits
 * Roles, one letter per operand: where it goes.
 *   R ModRM.reg   V VEX.vvvv   M ModRM.rm   I immediate   S immediate bits 7:4
 */
import { AssemblerError } from './assembler-error.ts';
import { OPCODE_MAP, PREFIX } from './encoder.ts';
import type { Gpr, Mask, Mem, Operand, Vec, VecWidth } from './operands.ts';

/** The TypeScript type of one operand token. */
type OperandOf<T> = T extends `${infer A}/m${string}`
  ? OperandOf<A> | Mem
  : T extends `m${string}`
    ? Mem
    : T extends 'k'
      ? Mask
      : T extends 'i'
        ? number
        : T extends `r${string}`
          ? Gpr
          : Vec;

/** The argument list that a token string describes. */
export type OperandsOf<S extends string> = S extends `${infer A} ${infer B}`
  ? [OperandOf<A>, ...OperandsOf<B>]
  : [OperandOf<S>];

export interface FormOptions {
  /** VEX.W where a VEX encoding exists. */
  readonly vex?: 0 | 1;
  /** EVEX.W where an EVEX encoding exists. */
  readonly evex?: 0 | 1;
  /** Element bits of the embedded broadcast, where the EVEX form has one. */
  readonly bcst?: 32 | 64;
  /** The widths it exists in, where that is not all; the first counts if no operand shows L. */
  readonly widths?: readonly VecWidth[];
  /** The EVEX form takes no write mask. */
  readonly unmasked?: boolean;
  /** Opcode extension /n in ModRM.reg. */
  readonly ext?: number;
  /** What GNU `as` calls the EVEX (`evexName`) or VEX encoding, where that is not the method name. */
  readonly evexName?: string;
  readonly vexName?: string;
}

export interface Form<S extends string = string> {
  readonly operands: S;
  readonly roles: string;
  readonly opcode: string;
  readonly options: FormOptions;
}

export function form<const S extends string>(
  operands: S,
  roles: string,
  opcode: string,
  options: FormOptions,
): Form<S> {
  return { operands, roles, opcode, options };
}

/** One operand slot of a parsed form. */
interface Slot {
  readonly register: 'vec' | 'mask' | 'gpr' | 'imm' | undefined;
  /** Register width in bits, or 0 if it follows L. */
  readonly registerBits: number;
  /** Register and memory are L >> shift. */
  readonly shift: number;
  readonly memory: boolean;
  /** Memory bits, or 0 if they follow L. */
  readonly memoryBits: number;
}

/** A form ready for matching: the same facts as numbers. */
export interface ParsedForm {
  readonly slots: readonly Slot[];
  readonly roles: string;
  readonly prefix: number;
  readonly map: number;
  readonly opcode: number;
  readonly options: FormOptions;
  /** Index of the operand whose width is L, or -1. */
  readonly widthFrom: number;
  readonly hasImmediate: boolean;
}

const SHIFTS: Readonly<Record<string, number>> = { v: 0, h: 1, q: 2, e: 3 };

function parseSlot(token: string): Slot {
  const [first, second] = token.split('/') as [string, string?];
  const memoryToken = second ?? (/^m\d*$/.test(first) ? first : undefined);
  const memory = memoryToken !== undefined;
  const memoryBits = Number(memoryToken?.slice(1) ?? 0);
  const slot = { registerBits: 0, shift: 0, memory, memoryBits };
  if (memoryToken === first) return { ...slot, register: undefined };
  const shift = SHIFTS[first];
  if (shift !== undefined) return { ...slot, register: 'vec', shift };
  switch (first) {
    case 'x':
      return { ...slot, register: 'vec', registerBits: 128, memoryBits: memoryBits || 128 };
    case 'y':
      return { ...slot, register: 'vec', registerBits: 256, memoryBits: memoryBits || 256 };
    case 'k':
      return { ...slot, register: 'mask' };
    case 'i':
      return { ...slot, register: 'imm' };
    case 'r32':
      return { ...slot, register: 'gpr', registerBits: 32 };
    case 'r64':
      return { ...slot, register: 'gpr', registerBits: 64 };
    default:
      throw new AssemblerError('', `operand token ${JSON.stringify(token)}`);
  }
}

export function parseForm(f: Form): ParsedForm {
  const slots = f.operands.split(' ').map(parseSlot);
  const [encoding, opcode] = f.opcode.split(' ') as [string, string];
  const [prefix, map] = encoding.split('.') as [keyof typeof PREFIX, keyof typeof OPCODE_MAP];
  return {
    slots,
    roles: f.roles,
    prefix: PREFIX[prefix],
    map: OPCODE_MAP[map],
    opcode: Number.parseInt(opcode, 16),
    options: f.options,
    widthFrom: slots.findIndex(
      (s) => s.register === 'vec' && s.registerBits === 0 && s.shift === 0,
    ),
    hasImmediate: f.roles.includes('I') || f.roles.includes('S'),
  };
}

/** Bits that a memory operand in slot `i` covers when the instruction is `width` wide. */
export function memoryBitsOf(f: ParsedForm, i: number, width: VecWidth): number {
  const slot = f.slots[i]!;
  return slot.memoryBits === 0 ? width >> slot.shift : slot.memoryBits;
}

const ALL_WIDTHS: readonly VecWidth[] = [128, 256, 512];

/** The instruction width L if the operands fit the form, else undefined. */
export function matchWidth(f: ParsedForm, operands: readonly Operand[]): VecWidth | undefined {
  if (operands.length !== f.slots.length) return undefined;
  let width: VecWidth | undefined = f.options.widths?.[0] ?? 128;
  if (f.widthFrom >= 0) {
    const from = operands[f.widthFrom]!;
    if (typeof from === 'number') return undefined;
    if (from.kind === 'vec') width = from.width;
    // A form with one vector operand that may also be memory shows L elsewhere or not at all.
    else if (from.kind !== 'mem') return undefined;
    if (!(f.options.widths ?? ALL_WIDTHS).includes(width)) return undefined;
  }
  for (let i = 0; i < operands.length; i++) {
    const operand = operands[i]!;
    const slot = f.slots[i]!;
    if (typeof operand === 'number') {
      if (slot.register !== 'imm') return undefined;
    } else if (operand.kind === 'mem') {
      if (!slot.memory) return undefined;
    } else if (operand.kind !== slot.register) {
      return undefined;
    } else if (operand.kind === 'vec') {
      const bits = slot.registerBits === 0 ? Math.max(128, width >> slot.shift) : slot.registerBits;
      if (operand.width !== bits) return undefined;
    } else if (operand.kind === 'gpr' && operand.width !== slot.registerBits) {
      return undefined;
    }
  }
  return width;
}
