/**
 * Runs kernel programs in tests, on every machine there is: interpreted at 4, 8 and 16 lanes anywhere, and as machine code where the CPU has it.
 *
 * Buffers are given as typed arrays by param name; a run works on copies and gives them back, so that runs can be compared bit for bit. Scratch starts
 * as NaN everywhere: a kernel that reads what it has not written shows it.
 */
import assert from 'node:assert/strict';
import { interpretKernel, KernelMemory } from '../../targets/reference/kernel-interpreter.ts';
import { loadCode } from '../../targets/x64/loader.ts';
import { lowerToX64 } from '../../targets/x64/lower.ts';
import { NativeBuffer, runnableMachines } from '../../targets/x64/testing/native-kernel.ts';
import type { KernelProgram, VectorMachine } from '../kernel-ir.ts';

type Field = number | ArrayBufferView;
export type Fields = Readonly<Record<string, Field>>;
/** Contents of every buffer after a run. */
export type Buffers = Readonly<Record<string, Uint8Array>>;

export interface TestMachine {
  readonly name: string;
  readonly machine: VectorMachine;
  /** Runs chunks in the order given; `fields` are left as they are. */
  run(program: KernelProgram, fields: Fields, chunks: readonly number[]): Buffers;
}

const bytesOf = (view: ArrayBufferView): Uint8Array =>
  new Uint8Array(view.buffer, view.byteOffset, view.byteLength);

function runInterpreted(
  program: KernelProgram,
  fields: Fields,
  chunks: readonly number[],
): Buffers {
  const buffers = Object.entries(fields).filter(
    (x): x is [string, ArrayBufferView] => typeof x[1] !== 'number',
  );
  const total = buffers.reduce((sum, [, view]) => sum + view.byteLength + 1024, 0);
  const memory = new KernelMemory(total + program.scratchBytes + 4096);
  const addresses: Record<string, number> = {};
  for (const [name, field] of Object.entries(fields)) {
    if (typeof field === 'number') addresses[name] = field;
    else {
      addresses[name] = memory.allocate(name, field.byteLength);
      new Uint8Array(memory.buffer).set(bytesOf(field), addresses[name]);
    }
  }
  const scratch = memory.allocate('scratch', program.scratchBytes);
  for (const chunk of chunks) {
    new Uint8Array(memory.buffer, scratch, program.scratchBytes).fill(255);
    interpretKernel(program, memory, addresses, { chunk, scratch });
  }
  return Object.fromEntries(
    buffers.map(([name, view]) => [
      name,
      new Uint8Array(memory.buffer).slice(addresses[name]!, addresses[name]! + view.byteLength),
    ]),
  );
}

function runNative(program: KernelProgram, fields: Fields, chunks: readonly number[]): Buffers {
  using code = loadCode([{ name: 'kernel', code: lowerToX64(program) }], { numArguments: 3 });
  const buffers = new Map<string, NativeBuffer>();
  for (const [name, field] of Object.entries(fields)) {
    if (typeof field !== 'number') buffers.set(name, NativeBuffer.of(field));
  }
  const table = new NativeBuffer(8 * Math.max(1, program.params.length));
  const words = new DataView(table.region.bytes().buffer);
  program.params.forEach((name, i) => {
    const field = fields[name];
    if (field === undefined) throw new Error(`param ${name} is missing`);
    const value = typeof field === 'number' ? BigInt(field) : buffers.get(name)!.address;
    words.setBigInt64(8 * i, value, true);
  });
  const scratch = new NativeBuffer(program.scratchBytes);
  for (const chunk of chunks) {
    scratch.region.bytes().fill(255);
    code.call('kernel', table.address, BigInt(chunk), scratch.address);
  }
  const after = Object.fromEntries(
    [...buffers].map(([name, buffer]) => [
      name,
      buffer.region.bytes(0, (fields[name] as ArrayBufferView).byteLength).slice(),
    ]),
  );
  for (const buffer of [...buffers.values(), table, scratch]) buffer.region.free();
  return after;
}

export const INTERPRETED_MACHINES: readonly TestMachine[] = [
  { name: 'interpreted, 4 lanes', lanes: 4, vectorRegisters: 32 },
  { name: 'interpreted, 8 lanes', lanes: 8, vectorRegisters: 16 },
  { name: 'interpreted, 16 lanes', lanes: 16, vectorRegisters: 32 },
].map(({ name, lanes, vectorRegisters }) => ({
  name,
  machine: {
    lanes,
    vectorRegisters,
    hasInt8Dot: false,
    hasBroadcastOperand: lanes === 16,
  } as VectorMachine,
  run: runInterpreted,
}));

/** Machine code; empty on platforms that have none. */
export const NATIVE_MACHINES: readonly TestMachine[] = runnableMachines()
  .filter((x) => !x.machine.hasInt8Dot)
  .map(({ name, machine }) => ({ name: `x64 ${name}`, machine, run: runNative }));

/** What stands in a test's name so that its report says which code ran. */
export function nativeMachineNames(): string {
  return NATIVE_MACHINES.map((x) => x.name).join(', ') || 'no machine code on this platform';
}

/**
 * Runs a kernel everywhere and checks that machine code gives the very bits of the interpreter with as many lanes.
 * `onResult` then judges each run once against what is right. `nativeOnly` skips the interpreter where sizes make it slow.
 */
export function runEverywhere(options: {
  record: (machine: VectorMachine) => KernelProgram;
  fields: Fields;
  chunks: readonly number[];
  nativeOnly?: boolean;
  onResult: (buffers: Buffers, machine: TestMachine) => void;
}): void {
  const { record, fields, chunks } = options;
  const interpreted = new Map<number, Buffers>();
  if (!options.nativeOnly || NATIVE_MACHINES.length === 0) {
    for (const machine of INTERPRETED_MACHINES) {
      const after = machine.run(record(machine.machine), fields, chunks);
      interpreted.set(machine.machine.lanes, after);
      options.onResult(after, machine);
    }
  }
  for (const machine of NATIVE_MACHINES) {
    const after = machine.run(record(machine.machine), fields, chunks);
    const expected = interpreted.get(machine.machine.lanes);
    if (expected) {
      for (const [name, bytes] of Object.entries(after)) {
        assert.ok(
          Buffer.compare(bytes, expected[name]!) === 0,
          `${machine.name}: ${name} differs from the interpreter`,
        );
      }
    }
    options.onResult(after, machine);
  }
}

export function f32Of(bytes: Uint8Array): Float32Array {
  return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
}

/** 0 .. count - 1 */
export function range(count: number): number[] {
  return Array.from({ length: count }, (_, i) => i);
}

/** Uniform in [0, 1), the same on every run. */
export function randomSource(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

/** Roughly normal values. */
export function randomF32(length: number, seed: number, size = 1): Float32Array {
  const random = randomSource(seed);
  return Float32Array.from({ length }, () => size * (random() + random() + random() - 1.5) * 2);
}

/**
 * A matrix whose rows are padded: `width` values, then NaN up to the stride (rows start 64-byte aligned).
 * Kernels must not let the padding through.
 */
export function paddedMatrix(
  rows: number,
  width: number,
  values: Float32Array,
): { data: Float32Array; strideBytes: number } {
  const stride = Math.ceil(width / 16) * 16 + 16;
  const data = new Float32Array(rows * stride).fill(Number.NaN);
  for (let r = 0; r < rows; r++) data.set(values.subarray(r * width, (r + 1) * width), r * stride);
  return { data, strideBytes: 4 * stride };
}
