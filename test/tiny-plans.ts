/** Plans of all tiny models, for tests that read plans without running them. */
import type { Plan } from '../src/compiler/plan.ts';
import { planModel } from '../src/compiler/plan-model.ts';
import { loadModelDescription } from '../src/models/load-model.ts';
import { lowerModel } from '../src/runtime/compile-model.ts';
import { machineOf, type X64Isa } from '../src/targets/x64/isa.ts';
import { goldenModels } from './golden-models.ts';

const PRECISIONS = ['fast', 'f32'] as const;

export interface TinyPlan {
  readonly name: string;
  readonly precision: (typeof PRECISIONS)[number];
  readonly plan: Plan;
}

const LIMITS = { maxTokens: 512, maxSeqs: 16, maxLogitRows: 16, maxModelLen: 256, numThreads: 2 };

/** Every tiny model in both precisions; works on any machine, as nothing is emitted or run. */
export function tinyPlans(isa: X64Isa): TinyPlan[] {
  return goldenModels().flatMap(({ name, path }) => {
    using model = loadModelDescription(path);
    const { config, weights: source } = model;
    return PRECISIONS.map((precision) => {
      const plan = planModel(lowerModel({ source, config, precision }).graph, {
        machine: machineOf(isa),
        precision,
        kvType: precision === 'f32' ? 'f32' : 'f16',
        directory: source.tensors,
        limits: LIMITS,
      });
      return { name, precision, plan };
    });
  });
}
