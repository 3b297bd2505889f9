/**
 * The kernel language: straight-line vector code with counted loops over typed virtual registers.
 *
 * A kernel program is written once against `KernelBuilder` for a `VectorMachine` and lowered by each target, one instruction to one or a few
 * machine instructions. Registers are virtual and mutable; a target assigns real ones and refuses a program that needs more vector registers
 * than the machine has (it never spills them). Knows nothing of encodings, graphs, or memory plans.
 */

/** What the vector builder may count on. */
export interface VectorMachine {
  /** f32 or i32 lanes of one vector register. */
  readonly lanes: 4 | 8 | 16;
  readonly vectorRegisters: number;
  /** 8-bit dot products summed in 32 bits by one instruction (VNNI). Without it sums are kept in 16 bits for a while. */
  readonly hasInt8Dot: boolean;
  /** An arithmetic instruction can take a broadcast memory operand without a register for it. */
  readonly hasBroadcastOperand: boolean;
}

/** A virtual register: `s` a 64-bit integer or pointer, `v` a vector of `lanes` 32-bit lanes. */
export interface VirtualRegister<Kind extends 's' | 'v' = 's' | 'v'> {
  readonly kind: Kind;
  readonly id: number;
}
export type Scalar = VirtualRegister<'s'>;
export type Vector = VirtualRegister<'v'>;

/** base + index * scale + offsetBytes */
export interface Address {
  readonly base: Scalar;
  readonly index?: Scalar;
  readonly scale?: 1 | 2 | 4 | 8;
  readonly offsetBytes: number;
}

export type Condition = 'eq' | 'ne' | 'lt' | 'le' | 'gt' | 'ge';

/** (destination, a, b) on all lanes. `and`..`xor` are bitwise; i16 and i8 ops act on sub-lanes of the same bits. */
export type VectorBinaryOp =
  | 'f32.add'
  | 'f32.sub'
  | 'f32.mul'
  | 'f32.div'
  | 'f32.max'
  | 'f32.min'
  | 'i32.add'
  | 'i32.sub'
  | 'i32.mul'
  | 'i16.add'
  | 'bits.and'
  | 'bits.andNot'
  | 'bits.or'
  | 'bits.xor'
  /** i16 lanes: u8 of a times i8 of b, neighbouring products added with saturation */
  | 'i16.dotU8I8'
  /** i32 lanes: i16 of a times i16 of b, neighbouring products added */
  | 'i32.dotI16'
  /** bytes: byte b[i] of the 16 bytes of a, which are the same in every 128 bits; b[i] is 0..15 */
  | 'i8.lookup16';

export type VectorUnaryOp =
  | 'move'
  | 'f32.sqrt'
  | 'f32.fromI32'
  /** to nearest, ties to even */
  | 'i32.fromF32'
  | 'f32.round'
  /** lane i gets lane i ^ 1 (2, 4, 8); only where a vector has more lanes than that */
  | 'f32.swap1'
  | 'f32.swap2'
  | 'f32.swap4'
  | 'f32.swap8'
  /** every lane gets the sum (largest) of all lanes, in a fixed tree order */
  | 'f32.reduceAdd'
  | 'f32.reduceMax'
  | 'i32.reduceAdd'
  /** lane 0 to every lane */
  | 'f32.broadcastLane0';

/** Memory formats that a load widens to 32-bit lanes, and a store narrows to. `bits` moves 32-bit lanes as they are. */
export type LoadFormat = 'bits' | 'f16' | 'bf16' | 'u8' | 'i8';
export type StoreFormat = 'bits' | 'f16' | 'f16OrInfinity' | 'i8';

export type ScalarBinaryOp = 'add' | 'sub' | 'mul' | 'and' | 'min' | 'max' | 'div';
export type ScalarShiftOp = 'shl' | 'shr';

export type Instruction =
  | { readonly op: 'arg'; readonly dst: Scalar; readonly index: number }
  | { readonly op: 'const'; readonly dst: Scalar; readonly value: number }
  | { readonly op: 's.move'; readonly dst: Scalar; readonly src: Scalar }
  | {
      readonly op: 's.binary';
      readonly kind: ScalarBinaryOp;
      readonly dst: Scalar;
      readonly a: Scalar;
      readonly b: Scalar | number;
    }
  | {
      readonly op: 's.shift';
      readonly kind: ScalarShiftOp;
      readonly dst: Scalar;
      readonly a: Scalar;
      readonly bits: number;
    }
  | { readonly op: 's.address'; readonly dst: Scalar; readonly address: Address }
  /** bits 16 and 8 are zero-extended, 32 is sign-extended */
  | {
      readonly op: 's.load';
      readonly dst: Scalar;
      readonly bits: 8 | 16 | 32 | 64;
      readonly address: Address;
    }
  | {
      readonly op: 's.store';
      readonly src: Scalar;
      readonly bits: 8 | 16 | 32 | 64;
      readonly address: Address;
    }
  | { readonly op: 'v.zero'; readonly dst: Vector }
  /** the same 32 bits in every lane */
  | { readonly op: 'v.splatBits'; readonly dst: Vector; readonly bits: number }
  /** the same 16 bytes in every 128 bits */
  | { readonly op: 'v.table16'; readonly dst: Vector; readonly bytes: readonly number[] }
  | { readonly op: 'v.splatScalar'; readonly dst: Vector; readonly src: Scalar }
  /** lane i holds i, as i32 */
  | { readonly op: 'v.laneIndex'; readonly dst: Vector }
  | {
      readonly op: 'v.binary';
      readonly kind: VectorBinaryOp;
      readonly dst: Vector;
      readonly a: Vector;
      readonly b: Vector;
    }
  | {
      readonly op: 'v.unary';
      readonly kind: VectorUnaryOp;
      readonly dst: Vector;
      readonly a: Vector;
      readonly temp?: Vector;
    }
  | {
      readonly op: 'v.shift';
      readonly kind: 'i16.shr' | 'i32.shl' | 'i32.shr' | 'i32.sar';
      readonly dst: Vector;
      readonly a: Vector;
      readonly bits: number;
    }
  /** dst += a * b, rounded once; `subtract`: dst -= a * b */
  | {
      readonly op: 'v.fma';
      readonly dst: Vector;
      readonly a: Vector;
      readonly b: Vector | Address;
      readonly subtract: boolean;
    }
  /** dst (i32) += four products u8 of a times i8 of b per lane, exact */
  | {
      readonly op: 'v.dotU8I8';
      readonly dst: Vector;
      readonly a: Vector;
      readonly b: Vector | Address;
    }
  /** dst = value in lanes where the condition holds between a and b, as f32 (never for a NaN), else `otherwise`, or 0 */
  | {
      readonly op: 'v.select';
      readonly condition: 'ge' | 'gt';
      readonly dst: Vector;
      readonly a: Vector;
      readonly b: Vector;
      readonly value: Vector;
      readonly otherwise: Vector | null;
    }
  /** `count` lanes from memory, the rest 0 */
  | {
      readonly op: 'v.load';
      readonly dst: Vector;
      readonly format: LoadFormat;
      readonly address: Address;
      readonly count: number;
    }
  /** one element to every lane */
  | {
      readonly op: 'v.broadcast';
      readonly dst: Vector;
      readonly format: 'bits' | 'f16' | 'bf16';
      readonly address: Address;
    }
  /** the first `count` lanes to memory; `i8` takes i32 lanes within -128..127, `f16` saturates, `f16OrInfinity` does not */
  | {
      readonly op: 'v.store';
      readonly src: Vector;
      readonly format: StoreFormat;
      readonly address: Address;
      readonly count: number;
      readonly temp?: Vector;
    }
  /** Asks for the line at `address`, into the first or only into the second cache: the first one has fewer lines under way at a time. */
  | { readonly op: 'prefetch'; readonly address: Address; readonly into: 'l1' | 'l2' }
  /** do { body } while (--counter != 0): the counter is at least 1 on entry */
  | { readonly op: 'loop.begin'; readonly id: number }
  | { readonly op: 'loop.end'; readonly id: number; readonly counter: Scalar }
  /** runs what follows up to `else` or `end` only if the condition holds */
  | {
      readonly op: 'if.begin';
      readonly id: number;
      readonly a: Scalar;
      readonly condition: Condition;
      readonly b: Scalar | number;
    }
  | { readonly op: 'if.else'; readonly id: number }
  | { readonly op: 'if.end'; readonly id: number };

/**
 * A finished kernel. It is called as kernel(table, chunk, scratch): `table` points to one 64-bit field per name in `params`,
 * `chunk` says which share of the work, `scratch` is `scratchBytes` of memory of the calling thread alone, 64-byte aligned.
 */
export interface KernelProgram {
  readonly name: string;
  readonly params: readonly string[];
  readonly scratchBytes: number;
  readonly chunk: Scalar;
  readonly scratch: Scalar;
  readonly instructions: readonly Instruction[];
  readonly machine: VectorMachine;
}
