import assert from 'node:assert/strict';
import { test } from 'node:test';
import { KernelBuilder } from '../../kernels/builder.ts';
import type { KernelProgram } from '../../kernels/kernel-ir.ts';
import { fmaF32, interpretKernel, KernelFaultError, KernelMemory } from './kernel-interpreter.ts';

const MACHINE = {
  lanes: 4,
  vectorRegisters: 16,
  hasInt8Dot: true,
  hasBroadcastOperand: true,
} as const;

function record(body: (k: KernelBuilder) => void): KernelProgram {
  const k = new KernelBuilder('sample', MACHINE);
  body(k);
  return k.finish();
}

/** Scalars that `body` stores to `out`, in order. */
function scalarsOf(
  body: (k: KernelBuilder, emit: (value: ReturnType<KernelBuilder['const']>) => void) => void,
): bigint[] {
  const memory = new KernelMemory(8192);
  const out = memory.allocate('out', 256);
  const program = record((k) => {
    let next = 0;
    body(k, (value) => {
      k.storeScalar(64, k.at(k.arg('out'), next), value);
      next += 8;
    });
  });
  interpretKernel(program, memory, { out }, { chunk: 3, scratch: 0 });
  return Array.from({ length: 8 }, (_, i) => memory.view.getBigInt64(out + 8 * i, true));
}

test('a fused multiply-add rounds once', () => {
  const ulp = 2 ** -23;
  // (1 + ulp)² = 1 + 2 ulp + ulp²; adding -1 - 2 ulp leaves ulp² only if the product was not rounded.
  assert.equal(fmaF32(1 + ulp, 1 + ulp, -1 - 2 * ulp), ulp * ulp);
  // Halfway between two floats by the f64 sum, but a hair below or above exactly.
  const half = 1 + ulp / 2;
  assert.equal(fmaF32(2 ** -40, -(2 ** -40), half), 1);
  assert.equal(fmaF32(2 ** -40, 2 ** -40, half), 1 + ulp);
  assert.equal(fmaF32(1, 3, 4), 7);
  assert.equal(fmaF32(3e38, 2, 0), Number.POSITIVE_INFINITY);
  assert.ok(Number.isNaN(fmaF32(Number.POSITIVE_INFINITY, 0, 1)));
});

test('loops count down, ifs take one side, and the chunk comes in', () => {
  const values = scalarsOf((k, emit) => {
    const sum = k.const(0);
    k.loop(k.const(5), () => k.addTo(sum, k.chunk));
    emit(sum);
    k.loop(k.const(0), () => k.addTo(sum, 1000));
    k.loop(k.const(-2), () => k.addTo(sum, 1000));
    emit(sum);
    const taken = k.const(0);
    k.if(
      k.chunk,
      'eq',
      3,
      () => k.setScalar(taken, 1),
      () => k.setScalar(taken, 2),
    );
    emit(taken);
    k.if(
      k.chunk,
      'gt',
      3,
      () => k.setScalar(taken, 1),
      () => k.setScalar(taken, 2),
    );
    emit(taken);
    emit(k.and(k.const(-1), -64));
    emit(k.div(k.const(17), 5));
  });
  assert.deepEqual(values.slice(0, 6), [15n, 15n, 1n, 2n, -64n, 3n]);
});

test('8-bit dots, narrow loads and saturating stores', () => {
  const memory = new KernelMemory(8192);
  const bytes = memory.allocate('bytes', 64);
  const out = memory.allocate('out', 64);
  new Uint8Array(memory.buffer).set([255, 1, 2, 3], bytes);
  new Int8Array(memory.buffer).set([-128, 2, 3, 4], bytes + 16);
  const program = record((k) => {
    const sum = k.splatBits(10);
    k.dotU8I8Into(sum, k.load(k.at(k.arg('bytes'))), k.at(k.arg('bytes'), 16));
    k.store(k.at(k.arg('out')), sum, 'bits', 1);
    k.store(k.at(k.arg('out'), 8), k.splatF32(1e6), 'f16', 2);
    k.store(k.at(k.arg('out'), 12), k.load(k.at(k.arg('bytes')), 'i8', 1), 'bits', 1);
  });
  interpretKernel(program, memory, { bytes, out }, { chunk: 0, scratch: 0 });
  assert.equal(memory.view.getInt32(out, true), 10 + 255 * -128 + 2 + 6 + 12);
  assert.equal(memory.view.getFloat16(out + 8, true), 65504);
  assert.equal(memory.view.getInt32(out + 12, true), -1);
});

test('bytes are looked up in a table of 16, and only there', () => {
  const memory = new KernelMemory(8192);
  const [out, indices] = [memory.allocate('out', 64), memory.allocate('indices', 64)];
  const program = record((k) => {
    const table = k.table16(Array.from({ length: 16 }, (_, i) => 255 - 3 * i));
    k.store(k.at(k.arg('out')), k.binary('i8.lookup16', table, k.load(k.at(k.arg('indices')))));
  });
  const index = Array.from({ length: 16 }, (_, i) => (i * 7) % 16);
  new Uint8Array(memory.buffer).set(index, indices);
  interpretKernel(program, memory, { out, indices }, { chunk: 0, scratch: 0 });
  assert.deepEqual(
    Array.from(new Uint8Array(memory.buffer, out, 16)),
    index.map((i) => 255 - 3 * i),
  );
  memory.view.setUint8(indices + 5, 16);
  assert.throws(
    () => interpretKernel(program, memory, { out, indices }, { chunk: 0, scratch: 0 }),
    /lookup of byte 16/,
  );
});

test('access outside every buffer is a fault that names the place', () => {
  const memory = new KernelMemory(8192);
  const x = memory.allocate('x', 64);
  const read = (offset: number, count: number): KernelProgram =>
    record((k) => void k.load(k.at(k.arg('x'), offset), 'bits', count));
  const run = (program: KernelProgram) =>
    interpretKernel(program, memory, { x }, { chunk: 0, scratch: 0 });
  run(read(48, 4));
  run(read(60, 1));
  assert.throws(
    () => run(read(52, 4)),
    (error) =>
      error instanceof KernelFaultError && /offset 52 of "x" \(64 bytes\)/.test(error.message),
  );
  assert.throws(() => run(read(-4, 1)), KernelFaultError);
});

test('a missing parameter and a register that was never written are faults', () => {
  const memory = new KernelMemory(8192);
  const missing = record((k) => void k.arg('x'));
  assert.throws(
    () => interpretKernel(missing, memory, {}, { chunk: 0, scratch: 0 }),
    /parameter "x" is missing/,
  );
  const unwritten = record((k) => void k.add(k.scalar(), 1));
  assert.throws(
    () => interpretKernel(unwritten, memory, {}, { chunk: 0, scratch: 0 }),
    /read before it is written/,
  );
});
