/** Runs a kernel program as machine code in tests: buffers in native memory, params by name. */
import type { KernelProgram, VectorMachine } from '../../../kernels/kernel-ir.ts';
import { allocate, type NativeRegion, u64 } from '../../../platform/native-memory.ts';
import { platformSupport } from '../../../platform/support.ts';
import { detectCpu } from '../cpu-features.ts';
import { machineOf, x64Isas } from '../isa.ts';
import { loadCode } from '../loader.ts';
import { lowerToX64 } from '../lower.ts';

export interface NamedMachine {
  readonly name: string;
  readonly machine: VectorMachine;
}

/** The machines that this CPU can run; empty where native code cannot run at all. */
export function runnableMachines(): NamedMachine[] {
  if (!platformSupport().supported) return [];
  return x64Isas(detectCpu()).map((isa) => ({ name: isa, machine: machineOf(isa) }));
}

/** A buffer in native memory with `slackBytes` behind its end. */
export class NativeBuffer {
  readonly region: NativeRegion;

  constructor(bytes: Uint8Array | number, slackBytes = 4096) {
    const length = typeof bytes === 'number' ? bytes : bytes.byteLength;
    this.region = allocate(length + slackBytes);
    if (typeof bytes !== 'number') this.region.bytes().set(bytes);
  }

  static of(view: ArrayBufferView): NativeBuffer {
    return new NativeBuffer(new Uint8Array(view.buffer, view.byteOffset, view.byteLength));
  }

  get address(): bigint {
    return this.region.address;
  }

  f32(length: number): Float32Array {
    return new Float32Array(this.region.bytes(0, 4 * length).buffer, 0, length);
  }
}

/** Compiles the kernel and returns a function that runs the given number of chunks one after another. */
export function nativeKernel(program: KernelProgram): {
  run(params: Readonly<Record<string, NativeBuffer | number>>, numChunks: number): void;
  codeBytes: number;
} {
  const code = lowerToX64(program);
  const loaded = loadCode([{ name: 'kernel', code }], { numArguments: 3 });
  const table = allocate(8 * Math.max(1, program.params.length));
  const scratch = allocate(Math.max(64, program.scratchBytes));
  const fields = u64(table.address, Math.max(1, program.params.length));
  const call = loaded.function('kernel') as (a: bigint, b: bigint, c: bigint) => void;
  return {
    codeBytes: code.length,
    run(params, numChunks) {
      program.params.forEach((name, i) => {
        const value = params[name];
        if (value === undefined) throw new Error(`param ${name} is missing`);
        fields[i] = typeof value === 'number' ? BigInt(value) : value.address;
      });
      for (let chunk = 0; chunk < numChunks; chunk++)
        call(table.address, BigInt(chunk), scratch.address);
    },
  };
}
