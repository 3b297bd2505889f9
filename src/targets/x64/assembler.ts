/**
 * The x86-64 assembler: a class whose methods are Intel mnemonics and emit bytes, destination
 * first, in the manner of Xbyak. Integer and control-flow methods come from assembler-integer.ts;
 * one method per entry of VECTOR_INSTRUCTIONS is added here.
 *
 * Encoding choice: VEX for xmm/ymm 0-15 where the instruction has a VEX form and nothing asks for
 * EVEX; EVEX for zmm, registers 16-31, write masks, embedded broadcast and EVEX-only instructions.
 *
 * Knows nothing of kernels or of what this CPU supports; see cpu-features.ts for that.
 */
import { AssemblerError } from './assembler-error.ts';
import { CONDITIONS, type Condition, IntegerAssembler } from './assembler-integer.ts';
import {
  formatOperand,
  type Gpr,
  type Label,
  type Mem,
  type Operand,
  type VecWidth,
} from './operands.ts';
import {
  type Form,
  matchWidth,
  memoryBitsOf,
  type OperandsOf,
  type ParsedForm,
  parseForm,
} from './vector-form.ts';
import { VECTOR_INSTRUCTIONS, type VectorMnemonic } from './vector-instructions.ts';

export { AssemblerError } from './assembler-error.ts';
export type { Condition } from './assembler-integer.ts';
export * from './operands.ts';
export type { VectorMnemonic } from './vector-instructions.ts';

type Forms = Form | readonly Form[];
type SignatureOf<F> =
  F extends Form<infer S>
    ? (...operands: OperandsOf<S>) => void
    : F extends readonly Form[]
      ? UnionToIntersection<SignatureOf<F[number]>>
      : never;
/** A union of functions to one function with an overload each. */
type UnionToIntersection<U> = (U extends unknown ? (x: U) => void : never) extends (
  x: infer I,
) => void
  ? I
  : never;

type VectorMethods = {
  readonly [K in VectorMnemonic]: SignatureOf<(typeof VECTOR_INSTRUCTIONS)[K]>;
};

/** Parsed on first use: a kernel uses a few dozen of them. */
const parsedForms = new Map<string, readonly ParsedForm[]>();

function formsOf(name: string): readonly ParsedForm[] {
  let forms = parsedForms.get(name);
  if (forms === undefined) {
    const entry = VECTOR_INSTRUCTIONS[name as VectorMnemonic] as Forms | undefined;
    if (entry === undefined) throw new AssemblerError(name, 'unknown instruction');
    forms = ('operands' in entry ? [entry] : entry).map(parseForm);
    parsedForms.set(name, forms);
  }
  return forms;
}

/** What in the operands only EVEX can say, or undefined. */
function evexReason(width: VecWidth, operands: readonly Operand[]): string | undefined {
  if (width === 512) return 'a 512-bit operand';
  for (const o of operands) {
    if (typeof o === 'number') continue;
    if (o.kind === 'vec' && o.n > 15) return `vector register ${o.n}`;
    if (o.kind === 'mem' && o.broadcast) return 'an embedded broadcast';
    if (o.kind !== 'gpr' && o.mask !== undefined) return 'a write mask';
  }
  return undefined;
}

class VectorAssembler extends IntegerAssembler {
  /**
   * Emits the vector instruction `name`; the methods of the same names call this.
   * @throws {AssemblerError} if no form takes these operands, a register above 15 meets a VEX-only
   *   form, an immediate is not 8 bits, or a mask or broadcast is given where there is none
   */
  emit(name: string, operands: readonly Operand[]): void {
    let reason: string | undefined;
    for (const f of formsOf(name)) {
      const width = matchWidth(f, operands);
      if (width === undefined) continue;
      const needsEvex = evexReason(width, operands);
      if (needsEvex === undefined && f.options.vex !== undefined) {
        this.#emitForm(name, f, width, operands, false);
        return;
      }
      if (f.options.evex !== undefined) {
        this.#emitForm(name, f, width, operands, true);
        return;
      }
      reason = needsEvex;
    }
    if (reason !== undefined) {
      throw new AssemblerError(name, `has no EVEX encoding, which ${reason} needs`);
    }
    const entry = VECTOR_INSTRUCTIONS[name as VectorMnemonic] as Forms;
    const accepted = ('operands' in entry ? [entry] : entry).map((f) => f.operands).join(' | ');
    const seen = operands.map((o) => formatOperand(o)).join(', ');
    throw new AssemblerError(name, `operands (${seen}) do not fit; accepted: ${accepted}`);
  }

  #emitForm(
    name: string,
    f: ParsedForm,
    width: VecWidth,
    operands: readonly Operand[],
    useEvex: boolean,
  ): void {
    let reg = f.options.ext ?? 0;
    let vvvv = 0;
    let immediate = 0;
    let rm: Exclude<Operand, number> | undefined;
    let dispScale = 1;
    let broadcast = false;
    for (let i = 0; i < operands.length; i++) {
      const o = operands[i]!;
      const role = f.roles[i];
      if (typeof o === 'number') {
        if (!Number.isInteger(o) || o < -128 || o > 255) {
          throw new AssemblerError(name, `immediate ${o}: expected -128 to 255`);
        }
        immediate = o;
        continue;
      }
      if (role === 'M') {
        rm = o;
        if (o.kind === 'mem') {
          if (o.broadcast) {
            const element = f.options.bcst;
            if (element === undefined) throw new AssemblerError(name, 'has no embedded broadcast');
            broadcast = true;
            dispScale = element / 8;
          } else {
            dispScale = memoryBitsOf(f, i, width) / 8;
          }
        }
      } else if (o.kind === 'mem') {
        throw new AssemblerError(name, 'memory operand in a register-only place');
      } else if (role === 'R') reg = o.n;
      else if (role === 'V') vvvv = o.n;
      else if (role === 'S') immediate = o.n << 4;
    }
    const { mask, zeroing } = this.#masking(name, f, operands, useEvex);
    if (this.isListing) this.note(this.#textOf(name, f, width, operands, useEvex));
    const encoding = {
      prefix: f.prefix,
      map: f.map,
      opcode: f.opcode,
      width,
      reg,
      vvvv,
      rm: rm!,
      immBytes: f.hasImmediate ? 1 : 0,
    };
    if (useEvex) {
      this.evex({ ...encoding, w: f.options.evex!, mask, zeroing, broadcast, dispScale });
    } else {
      this.vex({ ...encoding, w: f.options.vex! });
    }
    if (f.hasImmediate) this.emit8(immediate);
  }

  /** The write mask, which only the destination may carry. */
  #masking(
    name: string,
    f: ParsedForm,
    operands: readonly Operand[],
    useEvex: boolean,
  ): { mask: number; zeroing: boolean } {
    for (let i = 1; i < operands.length; i++) {
      const o = operands[i]!;
      if (typeof o !== 'number' && o.kind !== 'gpr' && o.mask !== undefined) {
        throw new AssemblerError(name, 'only the destination can carry a write mask');
      }
    }
    const d = operands[0]!;
    if (typeof d === 'number' || d.kind === 'gpr' || d.mask === undefined) {
      return { mask: 0, zeroing: false };
    }
    if (!useEvex || f.options.unmasked) throw new AssemblerError(name, 'takes no write mask');
    if (d.zeroing && d.kind !== 'vec') {
      throw new AssemblerError(name, 'zeroing applies to vector register destinations only');
    }
    return { mask: d.mask.n, zeroing: d.zeroing ?? false };
  }

  #textOf(
    name: string,
    f: ParsedForm,
    width: VecWidth,
    operands: readonly Operand[],
    useEvex: boolean,
  ): string {
    const mnemonic = (useEvex ? f.options.evexName : f.options.vexName) ?? name;
    const texts = operands.map((o, i) => {
      if (typeof o === 'number' || o.kind !== 'mem') return formatOperand(o);
      if (!o.broadcast) return formatOperand(o, memoryBitsOf(f, i, width));
      const element = f.options.bcst!;
      return formatOperand(o, element, width / element);
    });
    return `${mnemonic} ${texts.join(', ')}`;
  }
}

const prototype = VectorAssembler.prototype as unknown as Record<string, unknown>;
for (const name of Object.keys(VECTOR_INSTRUCTIONS)) {
  prototype[name] = function (this: VectorAssembler, ...operands: Operand[]): void {
    this.emit(name, operands);
  };
}

/** `jne(label)`, `cmovl(d, s)`, `setae(d)`: the conditional instructions under their own names. */
type ConditionalMethods = {
  readonly [C in Condition as `j${C}`]: (target: Label) => void;
} & {
  readonly [C in Condition as `cmov${C}`]: (d: Gpr, s: Gpr | Mem) => void;
} & {
  readonly [C in Condition as `set${C}`]: (d: Gpr | Mem) => void;
};
for (const condition of Object.keys(CONDITIONS) as Condition[]) {
  prototype[`j${condition}`] = function (this: VectorAssembler, target: Label): void {
    this.jcc(condition, target);
  };
  prototype[`cmov${condition}`] = function (this: VectorAssembler, d: Gpr, s: Gpr | Mem): void {
    this.cmovcc(condition, d, s);
  };
  prototype[`set${condition}`] = function (this: VectorAssembler, d: Gpr | Mem): void {
    this.setcc(condition, d);
  };
}

/** An instance holds one block of code; `code()` gives its bytes. */
export type Assembler = VectorAssembler & VectorMethods & ConditionalMethods;
export const Assembler = VectorAssembler as unknown as new (
  ...options: ConstructorParameters<typeof VectorAssembler>
) => Assembler;
