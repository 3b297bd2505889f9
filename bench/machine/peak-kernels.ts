/**
 * Kernels that do nothing but use up one resource of the machine: read bandwidth, 8-bit dot products, f32 multiply-adds. Written in the same
 * kernel language as the model's kernels, so that "the peak" is what code from this emitter could reach at best. Knows nothing of threads or clocks.
 *
 * Table fields: `data` (address), `count` (iterations of the outer loop).
 */
import { KernelBuilder } from '../../src/kernels/builder.ts';
import type { KernelProgram, Vector, VectorMachine } from '../../src/kernels/kernel-ir.ts';

export interface PeakKernel {
  readonly program: KernelProgram;
  /** Bytes read, or operations done (a multiply-add is two), by one iteration of `count`. */
  readonly workPerIteration: number;
}

/** Bytes that one iteration of the bandwidth kernel reads. */
export const READ_STEP_BYTES = 1024;
const PREFETCH_AHEAD_BYTES = 2048;
const UNROLL = 16;
const LINE_BYTES = 64;
/** Room at `data` for the results, so that none of the work can be left out. */
export const RESULT_BYTES = 4096;

/** Reads `count` times 1 KiB, one after the other, ORing everything into eight registers. */
export function readKernel(machine: VectorMachine): PeakKernel {
  const k = new KernelBuilder('read', machine);
  const data = k.arg('data');
  const result = k.arg('result');
  const count = k.arg('count');
  const vectorBytes = 4 * machine.lanes;
  const sums = Array.from({ length: 8 }, () => k.zero());
  k.loop(count, () => {
    for (let offset = 0; offset < READ_STEP_BYTES; offset += vectorBytes) {
      if (offset % LINE_BYTES === 0) k.prefetch(k.at(data, offset + PREFETCH_AHEAD_BYTES));
      const sum = sums[(offset / vectorBytes) % sums.length]!;
      k.binary('bits.or', sum, k.load(k.at(data, offset)), sum);
    }
    k.addTo(data, READ_STEP_BYTES);
  });
  storeAll(k, sums, result);
  return { program: k.finish(), workPerIteration: READ_STEP_BYTES };
}

/**
 * u8 x i8 dot products between registers. With VNNI each instruction sums in 32 bits; without it the fastest way sums in 16 bits
 * (vpmaddubsw, vpaddw) and widens so rarely that the bound leaves the widening out.
 */
export function int8Kernel(machine: VectorMachine): PeakKernel {
  const k = new KernelBuilder('int8', machine);
  const result = k.arg('result');
  const count = k.arg('count');
  const numSums = machine.vectorRegisters === 32 ? 24 : 10;
  const sums = Array.from({ length: numSums }, () => k.zero());
  const a = k.splatBits(0x01020304);
  const b = k.splatBits(0x01010101);
  k.loop(count, () => {
    for (let i = 0; i < UNROLL; i++) {
      for (const sum of sums) {
        if (machine.hasInt8Dot) k.dotU8I8Into(sum, a, b);
        else k.binary('i16.add', sum, k.binary('i16.dotU8I8', a, b), sum);
      }
    }
  });
  storeAll(k, sums, result);
  return {
    program: k.finish(),
    workPerIteration: UNROLL * numSums * machine.lanes * 4 * 2,
  };
}

/** f32 fused multiply-adds between registers. */
export function fmaKernel(machine: VectorMachine): PeakKernel {
  const k = new KernelBuilder('fma', machine);
  const result = k.arg('result');
  const count = k.arg('count');
  const numSums = machine.vectorRegisters === 32 ? 24 : 12;
  const sums = Array.from({ length: numSums }, () => k.zero());
  const a = k.splatF32(1.5);
  const b = k.splatF32(0.25);
  k.loop(count, () => {
    for (let i = 0; i < UNROLL; i++) for (const sum of sums) k.fmaInto(sum, a, b);
  });
  storeAll(k, sums, result);
  return { program: k.finish(), workPerIteration: UNROLL * numSums * machine.lanes * 2 };
}

function storeAll(k: KernelBuilder, sums: readonly Vector[], result: ReturnType<typeof k.arg>) {
  for (const [i, sum] of sums.entries()) k.store(k.at(result, 4 * k.lanes * i), sum);
}
