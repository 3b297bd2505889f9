/**
 * Records a kernel program (kernel-ir.ts). Methods that make a value return a new virtual register; methods ending in `Into` or `To` change one.
 *
 * What differs between machines is decided here where it changes how many registers a kernel needs (broadcast operands, 8-bit dots), so that a
 * tile that does not fit is found when it is recorded. Knows nothing of encodings.
 */
import type {
  Address,
  Condition,
  Instruction,
  KernelProgram,
  LoadFormat,
  Scalar,
  ScalarBinaryOp,
  StoreFormat,
  Vector,
  VectorBinaryOp,
  VectorMachine,
  VectorUnaryOp,
} from './kernel-ir.ts';

const FLOAT_BITS = new Float32Array(1);
const INT_BITS = new Int32Array(FLOAT_BITS.buffer);

function bitsOfF32(value: number): number {
  FLOAT_BITS[0] = value;
  return INT_BITS[0]!;
}

export class KernelBuilder {
  readonly machine: VectorMachine;
  /** f32 lanes of a vector. */
  readonly lanes: number;
  /** Which share of the work this call does. */
  readonly chunk: Scalar;
  /** Memory of the calling thread. */
  readonly scratch: Scalar;
  readonly #name: string;
  readonly #instructions: Instruction[] = [];
  readonly #params: string[] = [];
  #scratchBytes = 0;
  #nextRegister = 0;
  #nextLabel = 0;

  constructor(name: string, machine: VectorMachine) {
    this.#name = name;
    this.machine = machine;
    this.lanes = machine.lanes;
    this.chunk = this.scalar();
    this.scratch = this.scalar();
  }

  finish(): KernelProgram {
    return {
      name: this.#name,
      params: this.#params,
      scratchBytes: this.#scratchBytes,
      chunk: this.chunk,
      scratch: this.scratch,
      instructions: this.#instructions,
      machine: this.machine,
    };
  }

  // Registers and memory

  scalar(): Scalar {
    return { kind: 's', id: this.#nextRegister++ };
  }

  vector(): Vector {
    return { kind: 'v', id: this.#nextRegister++ };
  }

  at(base: Scalar, offsetBytes = 0, index?: Scalar, scale: 1 | 2 | 4 | 8 = 1): Address {
    return index ? { base, index, scale, offsetBytes } : { base, offsetBytes };
  }

  /** Reserves thread scratch; the offset from `scratch`, 64-byte aligned. */
  reserveScratch(sizeBytes: number): number {
    const offset = this.#scratchBytes;
    this.#scratchBytes = Math.ceil((offset + sizeBytes) / 64) * 64;
    return offset;
  }

  /** A 64-bit scalar kept in thread scratch, for values that are rarely read: it holds no register. */
  slot(): ScalarSlot {
    return new ScalarSlot(this, this.reserveScratch(8));
  }

  /** The same of a vector. */
  vectorSlot(): VectorSlot {
    return new VectorSlot(this, this.reserveScratch(4 * this.lanes));
  }

  // Scalars

  /** The named 64-bit field of the argument table, loaded here. */
  arg(name: string): Scalar {
    let index = this.#params.indexOf(name);
    if (index < 0) index = this.#params.push(name) - 1;
    const dst = this.scalar();
    this.#push({ op: 'arg', dst, index });
    return dst;
  }

  const(value: number): Scalar {
    const dst = this.scalar();
    this.#push({ op: 'const', dst, value });
    return dst;
  }

  copy(src: Scalar): Scalar {
    const dst = this.scalar();
    this.setScalar(dst, src);
    return dst;
  }

  setScalar(dst: Scalar, src: Scalar | number): void {
    if (typeof src === 'number') this.#push({ op: 'const', dst, value: src });
    else this.#push({ op: 's.move', dst, src });
  }

  #scalarBinary(kind: ScalarBinaryOp, a: Scalar, b: Scalar | number, dst = this.scalar()): Scalar {
    this.#push({ op: 's.binary', kind, dst, a, b });
    return dst;
  }

  add(a: Scalar, b: Scalar | number): Scalar {
    return this.#scalarBinary('add', a, b);
  }
  sub(a: Scalar, b: Scalar | number): Scalar {
    return this.#scalarBinary('sub', a, b);
  }
  mul(a: Scalar, b: Scalar | number): Scalar {
    return this.#scalarBinary('mul', a, b);
  }
  /** Unsigned quotient. */
  div(a: Scalar, b: Scalar | number): Scalar {
    if (typeof b === 'number' && Number.isInteger(Math.log2(b))) return this.shr(a, Math.log2(b));
    return this.#scalarBinary('div', a, typeof b === 'number' ? this.const(b) : b);
  }
  and(a: Scalar, b: number): Scalar {
    return this.#scalarBinary('and', a, b);
  }
  min(a: Scalar, b: Scalar | number): Scalar {
    return this.#scalarBinary('min', a, typeof b === 'number' ? this.const(b) : b);
  }
  max(a: Scalar, b: Scalar | number): Scalar {
    return this.#scalarBinary('max', a, typeof b === 'number' ? this.const(b) : b);
  }
  shl(a: Scalar, bits: number): Scalar {
    const dst = this.scalar();
    this.#push({ op: 's.shift', kind: 'shl', dst, a, bits });
    return dst;
  }
  shr(a: Scalar, bits: number): Scalar {
    const dst = this.scalar();
    this.#push({ op: 's.shift', kind: 'shr', dst, a, bits });
    return dst;
  }
  addTo(dst: Scalar, b: Scalar | number): void {
    this.#scalarBinary('add', dst, b, dst);
  }
  subTo(dst: Scalar, b: Scalar | number): void {
    this.#scalarBinary('sub', dst, b, dst);
  }
  /** The address itself as a pointer. */
  pointer(address: Address): Scalar {
    const dst = this.scalar();
    this.#push({ op: 's.address', dst, address });
    return dst;
  }
  loadScalar(bits: 8 | 16 | 32 | 64, address: Address): Scalar {
    const dst = this.scalar();
    this.#push({ op: 's.load', dst, bits, address });
    return dst;
  }
  storeScalar(bits: 8 | 16 | 32 | 64, address: Address, src: Scalar): void {
    this.#push({ op: 's.store', src, bits, address });
  }

  // Control

  /**
   * body `count` times; a zero (or negative) count skips it. `count` itself is left as it is.
   * `countIsPositive` saves the test; `counterInMemory` keeps the counter in thread scratch: for outer loops around a body that needs the registers.
   */
  loop(
    count: Scalar | number,
    body: () => void,
    options: { countIsPositive?: boolean; counterInMemory?: boolean } = {},
  ): void {
    if (typeof count === 'number') {
      if (count <= 0) return;
      if (count === 1) {
        body();
        return;
      }
    }
    const counter = typeof count === 'number' ? this.const(count) : this.copy(count);
    const slot = options.counterInMemory ? this.slot() : null;
    const run = (): void => {
      slot?.set(counter);
      const id = this.#nextLabel++;
      this.#push({ op: 'loop.begin', id });
      body();
      if (slot) {
        const left = slot.get();
        slot.set(this.sub(left, 1));
        this.#push({ op: 'loop.end', id, counter: left });
      } else this.#push({ op: 'loop.end', id, counter });
    };
    if (typeof count === 'number' || options.countIsPositive) run();
    else this.if(counter, 'gt', 0, run);
  }

  if(
    a: Scalar,
    condition: Condition,
    b: Scalar | number,
    then: () => void,
    otherwise?: () => void,
  ): void {
    const id = this.#nextLabel++;
    this.#push({ op: 'if.begin', id, a, condition, b });
    then();
    if (otherwise) {
      this.#push({ op: 'if.else', id });
      otherwise();
    }
    this.#push({ op: 'if.end', id });
  }

  prefetch(address: Address, into: 'l1' | 'l2' = 'l1'): void {
    this.#push({ op: 'prefetch', address, into });
  }

  // Vectors

  zero(): Vector {
    const dst = this.vector();
    this.setZero(dst);
    return dst;
  }
  setZero(dst: Vector): void {
    this.#push({ op: 'v.zero', dst });
  }
  splatBits(bits: number): Vector {
    const dst = this.vector();
    this.#push({ op: 'v.splatBits', dst, bits });
    return dst;
  }
  splatF32(value: number): Vector {
    return this.splatBits(bitsOfF32(value));
  }
  /** 16 bytes for `i8.lookup16`. */
  table16(bytes: readonly number[]): Vector {
    const dst = this.vector();
    this.#push({ op: 'v.table16', dst, bytes });
    return dst;
  }
  /** Low 32 bits of a scalar in every lane. */
  splatScalar(src: Scalar): Vector {
    const dst = this.vector();
    this.#push({ op: 'v.splatScalar', dst, src });
    return dst;
  }
  laneIndex(): Vector {
    const dst = this.vector();
    this.#push({ op: 'v.laneIndex', dst });
    return dst;
  }

  binary(kind: VectorBinaryOp, a: Vector, b: Vector, dst = this.vector()): Vector {
    this.#push({ op: 'v.binary', kind, dst, a, b });
    return dst;
  }
  unary(kind: VectorUnaryOp, a: Vector, dst = this.vector()): Vector {
    if (kind === 'f32.reduceAdd' || kind === 'f32.reduceMax' || kind === 'i32.reduceAdd') {
      const temp = this.vector();
      this.#push({ op: 'v.unary', kind, dst, a, temp });
    } else this.#push({ op: 'v.unary', kind, dst, a });
    return dst;
  }
  move(dst: Vector, src: Vector): void {
    this.unary('move', src, dst);
  }
  shift(
    kind: 'i16.shr' | 'i32.shl' | 'i32.shr' | 'i32.sar',
    a: Vector,
    bits: number,
    dst = this.vector(),
  ): Vector {
    this.#push({ op: 'v.shift', kind, dst, a, bits });
    return dst;
  }

  addF(a: Vector, b: Vector, dst?: Vector): Vector {
    return this.binary('f32.add', a, b, dst);
  }
  subF(a: Vector, b: Vector, dst?: Vector): Vector {
    return this.binary('f32.sub', a, b, dst);
  }
  mulF(a: Vector, b: Vector, dst?: Vector): Vector {
    return this.binary('f32.mul', a, b, dst);
  }
  divF(a: Vector, b: Vector, dst?: Vector): Vector {
    return this.binary('f32.div', a, b, dst);
  }
  maxF(a: Vector, b: Vector, dst?: Vector): Vector {
    return this.binary('f32.max', a, b, dst);
  }
  minF(a: Vector, b: Vector, dst?: Vector): Vector {
    return this.binary('f32.min', a, b, dst);
  }

  /** dst += a * b */
  fmaInto(dst: Vector, a: Vector, b: Vector): void {
    this.#push({ op: 'v.fma', dst, a, b, subtract: false });
  }
  /** dst -= a * b */
  fnmaInto(dst: Vector, a: Vector, b: Vector): void {
    this.#push({ op: 'v.fma', dst, a, b, subtract: true });
  }
  /** dst += a * (the f32 at `address` in every lane) */
  fmaBroadcastInto(dst: Vector, a: Vector, address: Address): void {
    const b = this.machine.hasBroadcastOperand ? address : this.broadcast(address);
    this.#push({ op: 'v.fma', dst, a, b, subtract: false });
  }
  /** dst (i32) += dot of the four u8 of `a` with the four i8 of `b`, per lane. Only where the machine has it. */
  dotU8I8Into(dst: Vector, a: Vector, b: Vector | Address): void {
    this.#push({ op: 'v.dotU8I8', dst, a, b });
  }
  /** The same with the four i8 at `address` in every lane. */
  dotU8I8BroadcastInto(dst: Vector, a: Vector, address: Address): void {
    const b = this.machine.hasBroadcastOperand ? address : this.broadcast(address);
    this.dotU8I8Into(dst, a, b);
  }
  /** `value` where a >= b, else 0. */
  keepWhereGe(value: Vector, a: Vector, b: Vector): Vector {
    return this.#select('ge', a, b, value, null);
  }
  /** `value` where a > b, else `otherwise`. */
  selectWhereGt(a: Vector, b: Vector, value: Vector, otherwise: Vector): Vector {
    return this.#select('gt', a, b, value, otherwise);
  }
  #select(
    condition: 'ge' | 'gt',
    a: Vector,
    b: Vector,
    value: Vector,
    otherwise: Vector | null,
  ): Vector {
    const dst = this.vector();
    this.#push({ op: 'v.select', condition, dst, a, b, value, otherwise });
    return dst;
  }

  load(
    address: Address,
    format: LoadFormat = 'bits',
    count = this.lanes,
    dst = this.vector(),
  ): Vector {
    this.#push({ op: 'v.load', dst, format, address, count });
    return dst;
  }
  broadcast(
    address: Address,
    format: 'bits' | 'f16' | 'bf16' = 'bits',
    dst = this.vector(),
  ): Vector {
    this.#push({ op: 'v.broadcast', dst, format, address });
    return dst;
  }
  store(address: Address, src: Vector, format: StoreFormat = 'bits', count = this.lanes): void {
    const temp = format === 'bits' && count === this.lanes ? undefined : this.vector();
    this.#push({ op: 'v.store', src, format, address, count, ...(temp ? { temp } : {}) });
  }

  /**
   * Visits `length` consecutive elements a vector at a time: body(first element, lanes in use). The offsets are constants: fully unrolled, so for short,
   * known lengths such as a head.
   */
  unrolledLanes(length: number, body: (element: number, count: number) => void): void {
    for (let element = 0; element < length; element += this.lanes) {
      body(element, Math.min(this.lanes, length - element));
    }
  }

  #push(instruction: Instruction): void {
    this.#instructions.push(instruction);
  }
}

/** See `KernelBuilder.slot`. */
export class ScalarSlot {
  readonly #k: KernelBuilder;
  readonly #offset: number;

  constructor(k: KernelBuilder, offset: number) {
    this.#k = k;
    this.#offset = offset;
  }

  get(): Scalar {
    return this.#k.loadScalar(64, this.#k.at(this.#k.scratch, this.#offset));
  }

  set(value: Scalar): void {
    this.#k.storeScalar(64, this.#k.at(this.#k.scratch, this.#offset), value);
  }

  addTo(value: Scalar | number): void {
    this.set(this.#k.add(this.get(), value));
  }
}

/** See `KernelBuilder.vectorSlot`. */
export class VectorSlot {
  readonly #k: KernelBuilder;
  readonly address: Address;

  constructor(k: KernelBuilder, offset: number) {
    this.#k = k;
    this.address = k.at(k.scratch, offset);
  }

  get(): Vector {
    return this.#k.load(this.address);
  }

  set(value: Vector): void {
    this.#k.store(this.address, value);
  }
}
