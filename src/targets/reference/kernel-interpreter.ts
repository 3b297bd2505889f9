/**
 * Runs a kernel program (kernels/kernel-ir.ts) in plain TypeScript, one instruction at a time: the meaning of the kernel language, for tests and for
 * machines without a code generator.
 *
 * Memory is one ArrayBuffer and an address is an offset in it. Every access is checked against the regions that were allocated, so a kernel that
 * reads or writes past its buffers is found here and not by a crash. Arithmetic is that of f32 hardware, fused multiply-add included; unlike kernel
 * threads it keeps denormals. Knows nothing of what a kernel computes.
 */
import type {
  Address,
  Instruction,
  KernelProgram,
  Scalar,
  Vector,
} from '../../kernels/kernel-ir.ts';
import { HastenError } from '../../platform/errors.ts';
import { bf16Value, f16Bits, f16Value } from '../../tensor/half.ts';

/** A kernel touched memory that is not its own, or was called without a parameter that it reads. */
export class KernelFaultError extends HastenError {
  constructor(kernel: string, message: string) {
    super('kernel_fault', `kernel ${kernel}: ${message}`);
  }
}

interface Region {
  readonly name: string;
  readonly start: number;
  readonly end: number;
}

const GUARD_BYTES = 256;

/** Memory of interpreted kernels: named regions, 64-byte aligned, with forbidden bytes between them. */
export class KernelMemory {
  readonly buffer: ArrayBuffer;
  readonly view: DataView;
  readonly #regions: Region[] = [];
  #end = GUARD_BYTES;
  #last: Region | undefined;

  constructor(sizeBytes: number) {
    this.buffer = new ArrayBuffer(sizeBytes);
    this.view = new DataView(this.buffer);
  }

  /** Address of `sizeBytes` fresh bytes. */
  allocate(name: string, sizeBytes: number): number {
    const start = this.#end;
    const end = start + sizeBytes;
    if (end + GUARD_BYTES > this.buffer.byteLength) {
      throw new KernelFaultError(
        name,
        `${sizeBytes} bytes do not fit in ${this.buffer.byteLength}`,
      );
    }
    this.#regions.push({ name, start, end });
    this.#end = Math.ceil((end + GUARD_BYTES) / 64) * 64;
    return start;
  }

  check(kernel: string, access: 'read' | 'write', address: number, sizeBytes: number): void {
    const last = this.#last;
    if (last && address >= last.start && address + sizeBytes <= last.end) return;
    const region = this.#regions.find((x) => address >= x.start && address + sizeBytes <= x.end);
    if (!region) {
      const near = this.#regions.findLast((x) => x.start <= address);
      const where = near
        ? `offset ${address - near.start} of "${near.name}" (${near.end - near.start} bytes)`
        : `address ${address}`;
      throw new KernelFaultError(kernel, `${access} of ${sizeBytes} bytes at ${where}`);
    }
    this.#last = region;
  }
}

const F64 = new Float64Array(1);
const F64_WORDS = new Uint32Array(F64.buffer);

/**
 * a * b + c rounded once to f32. The product is exact in f64; the sum is rounded to odd there, after which rounding to f32 is right
 * (Boldo & Melquiond 2008, doi:10.1109/TC.2007.70819).
 */
export function fmaF32(a: number, b: number, c: number): number {
  const product = a * b;
  const sum = product + c;
  if (!Number.isFinite(sum)) return Math.fround(sum);
  const part = sum - product;
  const error = product - (sum - part) + (c - part);
  if (error === 0) return Math.fround(sum);
  F64[0] = sum;
  if ((F64_WORDS[0]! & 1) === 0) {
    if (error > 0 === sum > 0) F64_WORDS[0]! += 1;
    else {
      if (F64_WORDS[0] === 0) F64_WORDS[1]! -= 1;
      F64_WORDS[0]! -= 1;
    }
  }
  return Math.fround(F64[0]);
}

function roundToEven(x: number): number {
  const floor = Math.floor(x);
  const fraction = x - floor;
  if (fraction < 0.5) return floor;
  if (fraction > 0.5) return floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}

function i32FromF32(x: number): number {
  const rounded = roundToEven(x);
  return rounded >= -2147483648 && rounded <= 2147483647 ? rounded : -2147483648;
}

const clampToI16 = (x: number): number => Math.max(-32768, Math.min(32767, x));
const signed8 = (x: number): number => (x << 24) >> 24;
const signed16 = (x: number): number => (x << 16) >> 16;

function i32Binary(kind: string, a: number, b: number): number {
  switch (kind) {
    case 'i32.add':
      return (a + b) | 0;
    case 'i32.sub':
      return (a - b) | 0;
    case 'i32.mul':
      return Math.imul(a, b);
    case 'i16.add':
      return ((a + b) & 0xffff) | ((((a >>> 16) + (b >>> 16)) & 0xffff) << 16);
    case 'bits.and':
      return a & b;
    case 'bits.andNot':
      return ~a & b;
    case 'bits.or':
      return a | b;
    case 'bits.xor':
      return a ^ b;
    case 'i16.dotU8I8': {
      const pair = (shift: number): number =>
        clampToI16(
          ((a >>> shift) & 255) * signed8(b >>> shift) +
            ((a >>> (shift + 8)) & 255) * signed8(b >>> (shift + 8)),
        );
      return (pair(0) & 0xffff) | (pair(16) << 16);
    }
    case 'i32.dotI16':
      return (signed16(a) * signed16(b) + (a >> 16) * (b >> 16)) | 0;
    default:
      throw new TypeError(`unknown vector operation ${kind}`);
  }
}

/** Like the hardware: the second operand if either is NaN, or if they compare equal. */
const maxF32 = (a: number, b: number): number => (a > b ? a : b);
const minF32 = (a: number, b: number): number => (a < b ? a : b);

class Interpreter {
  readonly #program: KernelProgram;
  readonly #memory: KernelMemory;
  readonly #fields: readonly number[];
  readonly #lanes: number;
  readonly #scalars: Float64Array;
  readonly #f32: Float32Array;
  readonly #i32: Int32Array;
  readonly #temp: Float32Array;
  readonly #tempBits: Int32Array;

  constructor(program: KernelProgram, memory: KernelMemory, fields: readonly number[]) {
    this.#program = program;
    this.#memory = memory;
    this.#fields = fields;
    this.#lanes = program.machine.lanes;
    const numRegisters = 1 + highestRegister(program);
    this.#scalars = new Float64Array(numRegisters).fill(Number.NaN);
    this.#f32 = new Float32Array(numRegisters * this.#lanes).fill(Number.NaN);
    this.#i32 = new Int32Array(this.#f32.buffer);
    this.#temp = new Float32Array(this.#lanes);
    this.#tempBits = new Int32Array(this.#temp.buffer);
  }

  run(chunk: number, scratch: number): void {
    const { instructions } = this.#program;
    this.#scalars[this.#program.chunk.id] = chunk;
    this.#scalars[this.#program.scratch.id] = scratch;
    const jumps = jumpTargets(instructions);
    for (let at = 0; at < instructions.length; ) {
      const x = instructions[at]!;
      switch (x.op) {
        case 'loop.end': {
          const left = this.#scalars[x.counter.id]! - 1;
          this.#scalars[x.counter.id] = left;
          at = left === 0 ? at + 1 : jumps.get(at)!;
          break;
        }
        case 'if.begin':
          at = this.#holds(x) ? at + 1 : jumps.get(at)!;
          break;
        case 'if.else':
          at = jumps.get(at)!;
          break;
        case 'loop.begin':
        case 'if.end':
          at++;
          break;
        default:
          this.#execute(x);
          at++;
      }
    }
  }

  #holds(x: Extract<Instruction, { op: 'if.begin' }>): boolean {
    const a = this.#scalar(x.a);
    const b = typeof x.b === 'number' ? x.b : this.#scalar(x.b);
    switch (x.condition) {
      case 'eq':
        return a === b;
      case 'ne':
        return a !== b;
      case 'lt':
        return a < b;
      case 'le':
        return a <= b;
      case 'gt':
        return a > b;
      case 'ge':
        return a >= b;
    }
  }

  #fault(message: string): KernelFaultError {
    return new KernelFaultError(this.#program.name, message);
  }

  #scalar(register: Scalar): number {
    const value = this.#scalars[register.id]!;
    if (Number.isNaN(value))
      throw this.#fault(`scalar ${register.id} is read before it is written`);
    return value;
  }

  #setScalar(register: Scalar, value: number): void {
    if (!Number.isSafeInteger(value)) {
      throw this.#fault(`scalar ${register.id} becomes ${value}, which is not exact here`);
    }
    this.#scalars[register.id] = value;
  }

  #addressOf(address: Address): number {
    const index = address.index ? this.#scalar(address.index) * (address.scale ?? 1) : 0;
    return this.#scalar(address.base) + index + address.offsetBytes;
  }

  #place(access: 'read' | 'write', address: Address, sizeBytes: number): number {
    const place = this.#addressOf(address);
    this.#memory.check(this.#program.name, access, place, sizeBytes);
    return place;
  }

  #lane(register: Vector): number {
    return register.id * this.#lanes;
  }

  #forLanes(dst: Vector, value: (lane: number) => number): void {
    for (let i = 0; i < this.#lanes; i++) this.#temp[i] = value(i);
    this.#i32.set(this.#tempBits, this.#lane(dst));
  }

  #forLaneBits(dst: Vector, value: (lane: number) => number): void {
    for (let i = 0; i < this.#lanes; i++) this.#tempBits[i] = value(i);
    this.#i32.set(this.#tempBits, this.#lane(dst));
  }

  #execute(x: Exclude<Instruction, { op: `loop.${string}` | `if.${string}` }>): void {
    const { view } = this.#memory;
    switch (x.op) {
      case 'arg':
        this.#setScalar(x.dst, this.#fields[x.index]!);
        return;
      case 'const':
        this.#setScalar(x.dst, x.value);
        return;
      case 's.move':
        this.#setScalar(x.dst, this.#scalar(x.src));
        return;
      case 's.binary':
        this.#scalarBinary(x);
        return;
      case 's.shift': {
        const bits = BigInt.asUintN(64, BigInt(this.#scalar(x.a)));
        const shifted = x.kind === 'shl' ? bits << BigInt(x.bits) : bits >> BigInt(x.bits);
        this.#setScalar(x.dst, Number(BigInt.asIntN(64, shifted)));
        return;
      }
      case 's.address':
        this.#setScalar(x.dst, this.#addressOf(x.address));
        return;
      case 's.load': {
        const place = this.#place('read', x.address, x.bits / 8);
        if (x.bits === 8) this.#setScalar(x.dst, view.getUint8(place));
        else if (x.bits === 16) this.#setScalar(x.dst, view.getUint16(place, true));
        else if (x.bits === 32) this.#setScalar(x.dst, view.getInt32(place, true));
        else this.#setScalar(x.dst, Number(view.getBigInt64(place, true)));
        return;
      }
      case 's.store': {
        const place = this.#place('write', x.address, x.bits / 8);
        const bits = BigInt(this.#scalar(x.src));
        if (x.bits === 8) view.setUint8(place, Number(BigInt.asUintN(8, bits)));
        else if (x.bits === 16) view.setUint16(place, Number(BigInt.asUintN(16, bits)), true);
        else if (x.bits === 32) view.setInt32(place, Number(BigInt.asIntN(32, bits)), true);
        else view.setBigInt64(place, bits, true);
        return;
      }
      case 'v.zero':
        this.#forLaneBits(x.dst, () => 0);
        return;
      case 'v.splatBits':
        this.#forLaneBits(x.dst, () => x.bits);
        return;
      case 'v.table16': {
        const words = new Int32Array(Uint8Array.from(x.bytes).buffer);
        this.#forLaneBits(x.dst, (i) => words[i % 4]!);
        return;
      }
      case 'v.splatScalar': {
        const bits = Number(BigInt.asIntN(32, BigInt(this.#scalar(x.src))));
        this.#forLaneBits(x.dst, () => bits);
        return;
      }
      case 'v.laneIndex':
        this.#forLaneBits(x.dst, (i) => i);
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
        const dst = this.#lane(x.dst);
        const a = this.#lane(x.a);
        const sign = x.subtract ? -1 : 1;
        if ('kind' in x.b) {
          const b = this.#lane(x.b);
          this.#forLanes(x.dst, (i) =>
            fmaF32(sign * this.#f32[a + i]!, this.#f32[b + i]!, this.#f32[dst + i]!),
          );
        } else {
          const b = view.getFloat32(this.#place('read', x.b, 4), true);
          this.#forLanes(x.dst, (i) => fmaF32(sign * this.#f32[a + i]!, b, this.#f32[dst + i]!));
        }
        return;
      }
      case 'v.dotU8I8':
        this.#dotU8I8(x);
        return;
      case 'v.select': {
        const [value, a, b] = [this.#lane(x.value), this.#lane(x.a), this.#lane(x.b)];
        const otherwise = x.otherwise === null ? null : this.#lane(x.otherwise);
        this.#forLaneBits(x.dst, (i) => {
          const [p, q] = [this.#f32[a + i]!, this.#f32[b + i]!];
          if (x.condition === 'ge' ? p >= q : p > q) return this.#i32[value + i]!;
          return otherwise === null ? 0 : this.#i32[otherwise + i]!;
        });
        return;
      }
      case 'v.load':
        this.#load(x);
        return;
      case 'v.broadcast': {
        const place = this.#place('read', x.address, x.format === 'bits' ? 4 : 2);
        const bits = this.#element(x.format, place);
        this.#forLaneBits(x.dst, () => bits);
        return;
      }
      case 'v.store':
        this.#store(x);
        return;
      case 'prefetch':
        this.#addressOf(x.address);
        return;
      default:
        x satisfies never;
    }
  }

  #scalarBinary(x: Extract<Instruction, { op: 's.binary' }>): void {
    const a = this.#scalar(x.a);
    const b = typeof x.b === 'number' ? x.b : this.#scalar(x.b);
    switch (x.kind) {
      case 'add':
        this.#setScalar(x.dst, a + b);
        return;
      case 'sub':
        this.#setScalar(x.dst, a - b);
        return;
      case 'mul':
        this.#setScalar(x.dst, a * b);
        return;
      case 'min':
        this.#setScalar(x.dst, Math.min(a, b));
        return;
      case 'max':
        this.#setScalar(x.dst, Math.max(a, b));
        return;
      case 'and':
        this.#setScalar(x.dst, Number(BigInt.asIntN(64, BigInt(a) & BigInt(b))));
        return;
      case 'div':
        if (a < 0 || b <= 0) throw this.#fault(`unsigned division of ${a} by ${b}`);
        this.#setScalar(x.dst, Math.floor(a / b));
        return;
      default:
        x.kind satisfies never;
    }
  }

  #vectorBinary(x: Extract<Instruction, { op: 'v.binary' }>): void {
    const f = this.#f32;
    const [a, b] = [this.#lane(x.a), this.#lane(x.b)];
    switch (x.kind) {
      case 'f32.add':
        this.#forLanes(x.dst, (i) => f[a + i]! + f[b + i]!);
        return;
      case 'f32.sub':
        this.#forLanes(x.dst, (i) => f[a + i]! - f[b + i]!);
        return;
      case 'f32.mul':
        this.#forLanes(x.dst, (i) => f[a + i]! * f[b + i]!);
        return;
      case 'f32.div':
        this.#forLanes(x.dst, (i) => f[a + i]! / f[b + i]!);
        return;
      case 'f32.max':
        this.#forLanes(x.dst, (i) => maxF32(f[a + i]!, f[b + i]!));
        return;
      case 'f32.min':
        this.#forLanes(x.dst, (i) => minF32(f[a + i]!, f[b + i]!));
        return;
      case 'i8.lookup16':
        this.#forLaneBits(x.dst, (i) => this.#lookup16(a + (i & ~3), this.#i32[b + i]!));
        return;
      default:
        this.#forLaneBits(x.dst, (i) => i32Binary(x.kind, this.#i32[a + i]!, this.#i32[b + i]!));
    }
  }

  /** Bytes of the 16 from lane `table` on, by the four indices in `indices`. */
  #lookup16(table: number, indices: number): number {
    let word = 0;
    for (let s = 0; s < 32; s += 8) {
      const index = (indices >>> s) & 255;
      if (index > 15) throw this.#fault(`lookup of byte ${index} of 16`);
      word |= ((this.#i32[table + (index >> 2)]! >>> (8 * (index & 3))) & 255) << s;
    }
    return word;
  }

  #vectorUnary(x: Extract<Instruction, { op: 'v.unary' }>): void {
    const f = this.#f32;
    const n = this.#i32;
    const a = this.#lane(x.a);
    switch (x.kind) {
      case 'move':
        this.#forLaneBits(x.dst, (i) => n[a + i]!);
        return;
      case 'f32.sqrt':
        this.#forLanes(x.dst, (i) => Math.sqrt(f[a + i]!));
        return;
      case 'f32.fromI32':
        this.#forLanes(x.dst, (i) => n[a + i]!);
        return;
      case 'i32.fromF32':
        this.#forLaneBits(x.dst, (i) => i32FromF32(f[a + i]!));
        return;
      case 'f32.round':
        this.#forLanes(x.dst, (i) => roundToEven(f[a + i]!));
        return;
      case 'f32.swap1':
      case 'f32.swap2':
      case 'f32.swap4':
      case 'f32.swap8': {
        const distance = Number(x.kind.slice('f32.swap'.length));
        if (distance >= this.#lanes) throw this.#fault(`${x.kind} of ${this.#lanes} lanes`);
        this.#forLaneBits(x.dst, (i) => n[a + (i ^ distance)]!);
        return;
      }
      case 'f32.broadcastLane0':
        this.#forLaneBits(x.dst, () => n[a]!);
        return;
      case 'f32.reduceAdd':
        this.#reduce(x, (p, q) => Math.fround(p + q));
        return;
      case 'f32.reduceMax':
        this.#reduce(x, maxF32);
        return;
      case 'i32.reduceAdd': {
        let sum = 0;
        for (let i = 0; i < this.#lanes; i++) sum = (sum + n[a + i]!) | 0;
        this.#forLaneBits(x.dst, () => sum);
        return;
      }
      default:
        x.kind satisfies never;
    }
  }

  /** Halves are combined, then quarters, and so on down to neighbours. */
  #reduce(
    x: Extract<Instruction, { op: 'v.unary' }>,
    combine: (p: number, q: number) => number,
  ): void {
    const a = this.#lane(x.a);
    const values = Array.from(this.#f32.subarray(a, a + this.#lanes));
    for (let distance = this.#lanes / 2; distance >= 1; distance /= 2) {
      const before = [...values];
      for (let i = 0; i < this.#lanes; i++) values[i] = combine(before[i]!, before[i ^ distance]!);
    }
    this.#forLanes(x.dst, (i) => values[i]!);
  }

  #vectorShift(x: Extract<Instruction, { op: 'v.shift' }>): void {
    const a = this.#lane(x.a);
    this.#forLaneBits(x.dst, (i) => {
      const bits = this.#i32[a + i]!;
      switch (x.kind) {
        case 'i32.shl':
          return bits << x.bits;
        case 'i32.shr':
          return bits >>> x.bits;
        case 'i32.sar':
          return bits >> x.bits;
        case 'i16.shr':
          return ((bits & 0xffff) >>> x.bits) | (((bits >>> 16) >>> x.bits) << 16);
      }
    });
  }

  #dotU8I8(x: Extract<Instruction, { op: 'v.dotU8I8' }>): void {
    const dst = this.#lane(x.dst);
    const a = this.#lane(x.a);
    const dot = (p: number, q: number): number => {
      let sum = 0;
      for (let s = 0; s < 32; s += 8) sum += ((p >>> s) & 255) * signed8(q >>> s);
      return sum;
    };
    const b = x.b;
    const operand =
      'kind' in b
        ? (i: number): number => this.#i32[this.#lane(b) + i]!
        : (
            (word) => (): number =>
              word
          )(this.#memory.view.getInt32(this.#place('read', b, 4), true));
    this.#forLaneBits(x.dst, (i) => (this.#i32[dst + i]! + dot(this.#i32[a + i]!, operand(i))) | 0);
  }

  /** The 32 bits that one element in memory becomes. */
  #element(format: 'bits' | 'f16' | 'bf16' | 'u8' | 'i8', place: number): number {
    const { view } = this.#memory;
    switch (format) {
      case 'bits':
        return view.getInt32(place, true);
      case 'f16':
        return f32Bits(f16Value(view.getUint16(place, true)));
      case 'bf16':
        return f32Bits(bf16Value(view.getUint16(place, true)));
      case 'u8':
        return view.getUint8(place);
      case 'i8':
        return view.getInt8(place);
    }
  }

  #load(x: Extract<Instruction, { op: 'v.load' }>): void {
    const size = ELEMENT_BYTES[x.format];
    const place = this.#place('read', x.address, size * x.count);
    this.#forLaneBits(x.dst, (i) => (i < x.count ? this.#element(x.format, place + size * i) : 0));
  }

  #store(x: Extract<Instruction, { op: 'v.store' }>): void {
    const { view } = this.#memory;
    const src = this.#lane(x.src);
    const size = ELEMENT_BYTES[x.format];
    const place = this.#place('write', x.address, size * x.count);
    for (let i = 0; i < x.count; i++) {
      if (x.format === 'bits') view.setInt32(place + 4 * i, this.#i32[src + i]!, true);
      else if (x.format === 'f16') {
        const clamped = maxF32(minF32(this.#f32[src + i]!, 65504), -65504);
        view.setUint16(place + 2 * i, f16Bits(clamped), true);
      } else if (x.format === 'f16OrInfinity') {
        view.setUint16(place + 2 * i, f16Bits(this.#f32[src + i]!), true);
      } else {
        view.setInt8(place + i, Math.max(-128, Math.min(127, this.#i32[src + i]!)));
      }
    }
  }
}

const ELEMENT_BYTES = { bits: 4, f16: 2, f16OrInfinity: 2, bf16: 2, u8: 1, i8: 1 } as const;

const F32 = new Float32Array(1);
const F32_BITS = new Int32Array(F32.buffer);

function f32Bits(value: number): number {
  F32[0] = value;
  return F32_BITS[0]!;
}

function highestRegister(program: KernelProgram): number {
  let highest = Math.max(program.chunk.id, program.scratch.id);
  const visit = (value: unknown): void => {
    if (typeof value !== 'object' || value === null) return;
    if ('id' in value && 'kind' in value && typeof value.id === 'number') {
      highest = Math.max(highest, value.id);
    } else for (const inner of Object.values(value)) visit(inner);
  };
  for (const instruction of program.instructions) {
    for (const operand of Object.values(instruction)) visit(operand);
  }
  return highest;
}

/** Where loop.end, if.begin and if.else go on when they do not fall through. */
function jumpTargets(instructions: readonly Instruction[]): Map<number, number> {
  const targets = new Map<number, number>();
  const open = new Map<string, number>();
  instructions.forEach((x, at) => {
    if (x.op === 'loop.begin') open.set(`loop ${x.id}`, at);
    else if (x.op === 'loop.end') targets.set(at, open.get(`loop ${x.id}`)! + 1);
    else if (x.op === 'if.begin') open.set(`if ${x.id}`, at);
    else if (x.op === 'if.else') {
      targets.set(open.get(`if ${x.id}`)!, at + 1);
      open.set(`if ${x.id}`, at);
    } else if (x.op === 'if.end') targets.set(open.get(`if ${x.id}`)!, at);
  });
  return targets;
}

/**
 * Runs one chunk of a kernel.
 *
 * @param fields value of each parameter by name; buffers as addresses in `memory`
 * @param scratch address of `program.scratchBytes` bytes
 * @throws {KernelFaultError} if a parameter is missing or memory outside every region is touched
 */
export function interpretKernel(
  program: KernelProgram,
  memory: KernelMemory,
  fields: Readonly<Record<string, number>>,
  options: { chunk: number; scratch: number },
): void {
  const values = program.params.map((name) => {
    const value = fields[name];
    if (value === undefined)
      throw new KernelFaultError(program.name, `parameter "${name}" is missing`);
    return value;
  });
  new Interpreter(program, memory, values).run(options.chunk, options.scratch);
}
