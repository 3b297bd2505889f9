/**
 * Kernels as data: family and shape. Two commands with equal specs share one kernel. The program is made from the spec for a machine when it is needed.
 */
import {
  activationKernel,
  elementwiseKernel,
  gatedActivationKernel,
  scaleKernel,
  softcapKernel,
} from '../kernels/elementwise.ts';
import { embedKernel } from '../kernels/embed.ts';
import type { KernelProgram, VectorMachine } from '../kernels/kernel-ir.ts';
import { matmulKernel } from '../kernels/matmul.ts';
import { matmulQ8Kernel } from '../kernels/matmul-q8.ts';
import { matvecKernel } from '../kernels/matvec.ts';
import { matvecF32Kernel } from '../kernels/matvec-f32.ts';
import { mergeAttentionKernel } from '../kernels/merge-attention.ts';
import { layerNormKernel, rmsNormKernel } from '../kernels/norm.ts';
import { pagedAttentionKernel } from '../kernels/paged-attention.ts';
import { permuteColumnsKernel } from '../kernels/permute-columns.ts';
import { quantizeKernel } from '../kernels/quantize.ts';
import { ropeKvStoreKernel } from '../kernels/rope-kv-store.ts';
import { sealKvKernel } from '../kernels/seal-kv.ts';
import { selectRowsKernel } from '../kernels/select-rows.ts';
import { sliceStatsKernel } from '../kernels/slice-stats.ts';
import { splitOutliersKernel } from '../kernels/split-outliers.ts';

/** Every kernel family that plans use, by name. */
const FAMILIES = {
  activation: activationKernel,
  elementwise: elementwiseKernel,
  embed: embedKernel,
  gatedActivation: gatedActivationKernel,
  layerNorm: layerNormKernel,
  matmul: matmulKernel,
  matmulQ8: matmulQ8Kernel,
  matvec: matvecKernel,
  matvecF32: matvecF32Kernel,
  mergeAttention: mergeAttentionKernel,
  pagedAttention: pagedAttentionKernel,
  permuteColumns: permuteColumnsKernel,
  quantize: quantizeKernel,
  rmsNorm: rmsNormKernel,
  ropeKvStore: ropeKvStoreKernel,
  scale: scaleKernel,
  sealKv: sealKvKernel,
  selectRows: selectRowsKernel,
  sliceStats: sliceStatsKernel,
  softcap: softcapKernel,
  splitOutliers: splitOutliersKernel,
} as const;

export type KernelFamily = keyof typeof FAMILIES;

/** A family with the shape that it takes. */
export type KernelSpec = {
  [F in KernelFamily]: { readonly family: F; readonly shape: Parameters<(typeof FAMILIES)[F]>[1] };
}[KernelFamily];

export function kernelProgram(spec: KernelSpec, machine: VectorMachine): KernelProgram {
  const make = FAMILIES[spec.family] as (machine: VectorMachine, shape: unknown) => KernelProgram;
  return make(machine, spec.shape);
}

/** Equal for equal specs. */
export function kernelKey(spec: KernelSpec): string {
  return `${spec.family} ${JSON.stringify(spec.shape)}`;
}
