/** The instruction set levels that the x64 target emits for, and what each offers the vector builder. */
import type { VectorMachine } from '../../kernels/kernel-ir.ts';
import type { CpuFeatures } from './cpu-features.ts';

export const X64_ISAS = ['avx512vnni', 'avx512', 'avx2'] as const;
export type X64Isa = (typeof X64_ISAS)[number];

const MACHINES: Record<X64Isa, VectorMachine> = {
  avx512vnni: { lanes: 16, vectorRegisters: 32, hasInt8Dot: true, hasBroadcastOperand: true },
  avx512: { lanes: 16, vectorRegisters: 32, hasInt8Dot: false, hasBroadcastOperand: true },
  avx2: { lanes: 8, vectorRegisters: 16, hasInt8Dot: false, hasBroadcastOperand: false },
};

export function machineOf(isa: X64Isa): VectorMachine {
  return MACHINES[isa];
}

/** The levels this CPU and operating system can run, best first; none without AVX2, FMA and F16C. */
export function x64Isas(cpu: CpuFeatures): X64Isa[] {
  if (!(cpu.osAvx && cpu.avx2 && cpu.fma && cpu.f16c)) return [];
  const avx512 = cpu.osAvx512 && cpu.avx512f && cpu.avx512bw && cpu.avx512vl && cpu.avx512dq;
  if (!avx512) return ['avx2'];
  return cpu.avx512vnni ? ['avx512vnni', 'avx512', 'avx2'] : ['avx512', 'avx2'];
}
