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

const UNROLL = 16;
const LINE_BYTES = 64;
/** What a stream of the bandwidth kernel advances by in an iteration. */
const STREAM_STEP_BYTES = 512;
/** Room at `result`, so that none of the work can be left out. */
export const RESULT_BYTES = 4096;

export interface ReadPattern {
  /** Places of the data that are read side by side. */
  readonly numStreams: number;
  /** How far ahead lines are asked for; 0 leaves it to the processor. */
  readonly prefetchBytes: number;
}

/**
 * Ways to read, of which the best one counts as the machine's bandwidth. Which it is differs: asking ahead gains 7 to 30 % on Cascade Lake
 * and loses as much on Zen 4 (28 against 24 GB/s), where four streams are best.
 */
export const READ_PATTERNS: readonly ReadPattern[] = [1, 2, 4].flatMap((numStreams) =>
  [0, 2048].map((prefetchBytes) => ({ numStreams, prefetchBytes })),
);

/**
 * Reads `bytes` of `data` once, ORing everything into eight registers.
 * @param bytes a multiple of 2 KiB
 */
export function readKernel(machine: VectorMachine, bytes: number, pattern: ReadPattern) {
  const { numStreams, prefetchBytes } = pattern;
  const k = new KernelBuilder('read', machine);
  const data = k.arg('data');
  const result = k.arg('result');
  const count = k.arg('count');
  const vectorBytes = 4 * machine.lanes;
  const sums = Array.from({ length: 8 }, () => k.zero());
  const streams = Array.from({ length: numStreams }, (_, i) =>
    i === 0 ? data : k.add(data, i * (bytes / numStreams)),
  );
  k.loop(count, () => {
    for (const stream of streams) {
      for (let offset = 0; offset < STREAM_STEP_BYTES; offset += vectorBytes) {
        if (prefetchBytes > 0 && offset % LINE_BYTES === 0) {
          k.prefetch(k.at(stream, offset + prefetchBytes));
        }
        const sum = sums[(offset / vectorBytes) % sums.length]!;
        k.binary('bits.or', sum, k.load(k.at(stream, offset)), sum);
      }
    }
    for (const stream of streams) k.addTo(stream, STREAM_STEP_BYTES);
  });
  storeAll(k, sums, result);
  return { program: k.finish(), workPerIteration: numStreams * STREAM_STEP_BYTES };
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
