/** A model's description → graph → plan → machine code. What `create-runner.ts` does without where an earlier start has done it. */
import { emitKernels } from '../compiler/emit.ts';
import type { Plan } from '../compiler/plan.ts';
import { planModel } from '../compiler/plan-model.ts';
import { type LoweredGraph, lowerGraph } from '../graph/lower-graph.ts';
import { packedFormatOf } from '../kernels/packed-format.ts';
import { stepGraphOf } from '../models/step-graph.ts';
import { machineOf, type X64Isa } from '../targets/x64/isa.ts';
import type { WeightSource } from '../weights/contract.ts';
import { planSettings } from './plan-settings.ts';
import type { RunnerOptions } from './runner-options.ts';
import type { CompiledPlan } from './start-cache.ts';

/** The stored formats whose linears take int8 activations in fast precision: those with integer kernels. */
export function quantizedDtypes({ tensors }: WeightSource): Set<string> {
  const dtypes = [...tensors.values()].map(({ dtype }) => dtype);
  return new Set(
    dtypes.filter((dtype) => packedFormatOf(dtype, { rounds: true })?.kind === 'quantized'),
  );
}

type LowerOptions = Pick<RunnerOptions, 'source' | 'config' | 'precision' | 'disabledPasses'>;

/** The step graph of the model, lowered for compilers. */
export function lowerModel({
  source,
  config,
  precision,
  disabledPasses = [],
}: LowerOptions): LoweredGraph {
  return lowerGraph(stepGraphOf({ config, weights: source }), {
    directory: source.tensors,
    q8Dtypes: precision === 'fast' ? quantizedDtypes(source) : [],
    disabledPasses,
  });
}

/** A plan with what it came from, for `hasten explain`. */
export interface PlannedModel {
  readonly plan: Plan;
  readonly lowered: LoweredGraph;
  readonly numBlocks: number;
}

/** Decides everything, without packing or running anything. */
export function planRunner(options: RunnerOptions, isa: X64Isa): PlannedModel {
  const { numBlocks, ...settings } = planSettings(options);
  const lowered = lowerModel(options);
  const plan = planModel(lowered.graph, {
    ...settings,
    machine: machineOf(isa),
    directory: options.source.tensors,
  });
  return { plan, lowered, numBlocks };
}

/** The plan with its machine code. */
export function compileModel(options: RunnerOptions, isa: X64Isa): CompiledPlan {
  const { plan } = planRunner(options, isa);
  return { plan, kernels: emitKernels(plan, machineOf(isa)) };
}
