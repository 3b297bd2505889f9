/** Which target `--target auto` means on this machine, and why. */
import { platformSupport } from '../platform/support.ts';
import { type CpuFeatures, detectCpu } from '../targets/x64/cpu-features.ts';
import { type X64Isa, x64Isas } from '../targets/x64/isa.ts';

export type TargetChoice =
  | {
      readonly target: 'x64';
      readonly isa: X64Isa;
      /** All levels that can be forced by name, best first. */
      readonly isas: readonly X64Isa[];
      readonly cpu: CpuFeatures;
      readonly reason: string;
    }
  | { readonly target: 'reference'; readonly reason: string };

/** Looks at the platform, then at the processor. */
export function chooseTarget(): TargetChoice {
  const support = platformSupport();
  if (!support.supported) {
    return { target: 'reference', reason: `native code cannot run here: ${support.reason}` };
  }
  const cpu = detectCpu();
  const isas = x64Isas(cpu);
  const [isa] = isas;
  if (isa === undefined) {
    return { target: 'reference', reason: 'the processor lacks AVX2, FMA or F16C' };
  }
  return {
    target: 'x64',
    isa,
    isas,
    cpu,
    reason: `the best that ${cpu.brand || 'this processor'} has`,
  };
}
