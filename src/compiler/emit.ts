/** Kernels of a plan → machine code: programs are made for the machine, lowered, and checked against the params that the plan gives them. */
import type { VectorMachine } from '../kernels/kernel-ir.ts';
import { InternalError } from '../platform/errors.ts';
import { lowerToX64 } from '../targets/x64/lower.ts';
import { kernelProgram } from './kernel-spec.ts';
import type { Plan } from './plan.ts';

export interface EmittedKernel {
  readonly name: string;
  readonly params: readonly string[];
  readonly scratchBytes: number;
  readonly code: Uint8Array;
}

/** @throws {KernelTooLargeError} if a kernel does not fit the machine's registers */
export function emitKernels(plan: Plan, machine: VectorMachine): EmittedKernel[] {
  const kernels = plan.kernels.map((spec, i) => {
    const program = kernelProgram(spec, machine);
    return {
      name: `k${i}_${program.name}`,
      params: program.params,
      scratchBytes: program.scratchBytes,
      code: lowerToX64(program),
    };
  });
  for (const command of plan.commands) {
    for (const variant of command.variants) {
      const kernel = kernels[variant.kernel]!;
      const missing = kernel.params.filter((name) => !Object.hasOwn(variant.params, name));
      if (missing.length > 0) {
        throw new InternalError(
          `${command.label}: kernel ${kernel.name} takes ${missing.join(', ')}, which the plan does not give`,
        );
      }
    }
  }
  return kernels;
}
