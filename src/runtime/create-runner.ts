/**
 * Model and settings → a runner: lowers the graph, plans it for this machine, finds or packs the weights, and starts the threads. The one place that names
 * the targets.
 */
import type { Plan } from '../compiler/plan.ts';
import { kvBlockSize, kvElements } from '../kernels/kv-layout.ts';
import { allocate } from '../platform/native-memory.ts';
import type { ModelRunner } from '../targets/model-runner.ts';
import type { X64Isa } from '../targets/x64/isa.ts';
import type { WeightSource } from '../weights/contract.ts';
import { PlanCacheError, RunnerError } from './errors.ts';
import { NativeRunner } from './native-runner.ts';
import { cachedWeights, DEFAULT_PLAN_CACHE_BYTES, type MappedImage } from './plan-cache.ts';
import { budgetOf, planSettings, stepLimits } from './plan-settings.ts';
import type { RunnerOptions, TargetName } from './runner-options.ts';
import { type CompiledPlan, readStart, startKey, writeStart } from './start-cache.ts';
import { chooseTarget } from './target-choice.ts';

/** Where a model will run. */
export type ResolvedTarget =
  | { readonly kind: 'x64'; readonly isa: X64Isa }
  | { readonly kind: 'reference'; readonly reason: string };

let hasToldOfReference = false;

/**
 * Warns, once a process, where `auto` has to make do with the reference target.
 *
 * @throws {RunnerError} if the named target cannot run here
 */
export function resolveTarget(target: TargetName): ResolvedTarget {
  if (target === 'reference') return { kind: 'reference', reason: 'asked for' };
  const choice = chooseTarget();
  const isas = choice.target === 'x64' ? choice.isas : [];
  if (target === 'auto' && choice.target === 'reference') {
    if (!hasToldOfReference) {
      hasToldOfReference = true;
      process.emitWarning(
        `${choice.reason}: running on the reference target, which is right but slow, and only for small models`,
        'HastenWarning',
      );
    }
    return { kind: 'reference', reason: choice.reason };
  }
  const isa = target === 'auto' || target === 'x64' ? isas[0] : isas.find((x) => x === target);
  if (isa === undefined) {
    const here = isas.length > 0 ? isas.join(', ') : `none, ${choice.reason}`;
    throw new RunnerError(
      `--target ${target} cannot run here; native targets here: ${here}; --target reference runs anywhere, slowly`,
    );
  }
  return { kind: 'x64', isa };
}

/** Plan and code, from the cache of an earlier start where there is one. */
async function compile(options: RunnerOptions, isa: X64Isa): Promise<CompiledPlan> {
  const { planCacheFolder, config, source, disabledPasses = [] } = options;
  const make = async (): Promise<CompiledPlan> => {
    // Loaded only where it is used: graph, kernels and compiler are a third of the code that a start would read.
    const { compileModel } = await import('./compile-model.ts');
    return compileModel(options, isa);
  };
  if (planCacheFolder === null) return await make();
  const tensors = [...source.tensors.values()];
  const { numBlocks: _, ...settings } = planSettings(options);
  const key = startKey({ isa, settings, config, tensors, disabledPasses });
  const known = readStart(planCacheFolder, key);
  if (known) return known;
  const made = await make();
  await writeStart(planCacheFolder, key, made);
  return made;
}

/**
 * @throws {RunnerError} if a setting does not fit the machine
 * @throws {CapacityError} if the KV cache asked for does not fit
 * @throws {PlanError} if the model has an op or a weight format without a kernel
 */
export async function createRunner(options: RunnerOptions): Promise<ModelRunner> {
  const target = resolveTarget(options.target);
  return target.kind === 'x64'
    ? createNativeRunner(options, target.isa)
    : createReferenceRunner(options);
}

/** As `createRunner`, for callers that look into the plan and the times of commands. */
export async function createNativeRunner(
  options: RunnerOptions,
  isa: X64Isa,
): Promise<NativeRunner> {
  const { source, planCacheFolder, onProgress } = options;
  const { numBlocks } = planSettings(options);
  const { plan, kernels } = await compile(options, isa);
  const report = (done: number, total: number): void =>
    onProgress?.({ phase: 'pack', done, total });
  const image =
    (planCacheFolder && (await fromCache(plan, source, planCacheFolder, report))) ||
    (await packedInMemory(plan, source, report));
  return new NativeRunner({ plan, kernels, image, numBlocks });
}

/** Null, with a warning, if the cache cannot be used: the model runs all the same, only each start takes longer. */
async function fromCache(
  plan: Plan,
  source: WeightSource,
  folder: string,
  report: (done: number, total: number) => void,
): Promise<MappedImage | null> {
  try {
    return await cachedWeights(
      plan,
      source,
      { folder, maxBytes: DEFAULT_PLAN_CACHE_BYTES },
      report,
    );
  } catch (error) {
    if (!(error instanceof PlanCacheError)) throw error;
    process.emitWarning(
      `packed weights cannot be kept for the next start (${error.message}); HASTEN_CACHE names another folder`,
      'HastenWarning',
    );
    return null;
  }
}

async function packedInMemory(
  plan: Plan,
  source: WeightSource,
  report: (done: number, total: number) => void,
): Promise<Pick<MappedImage, 'address'> & Disposable> {
  const { packWeights } = await import('./packed-weights.ts');
  const region = allocate(plan.weightBytes, { hugePages: true });
  const bytes = region.bytes();
  try {
    packWeights(
      plan.weights,
      source,
      (offset, piece) => bytes.set(piece, offset),
      (done) => report(done, plan.weightBytes),
    );
  } catch (error) {
    region.free();
    throw error;
  }
  return { address: region.address, [Symbol.dispose]: () => region.free() };
}

async function createReferenceRunner(options: RunnerOptions): Promise<ModelRunner> {
  // Loaded only where it is used: it costs start-up time.
  const [{ ReferenceRunner }, { kvRowBytes }, { lowerModel }] = await Promise.all([
    import('../targets/reference/reference-runner.ts'),
    import('../targets/reference/kv-rows.ts'),
    import('./compile-model.ts'),
  ]);
  const { config, source, kvCacheType = 'auto' } = options;
  const kvType = kvCacheType === 'auto' ? 'f32' : kvCacheType;
  const { numKvHeads, headDim } = config;
  const { keys, values } = kvElements(kvType);
  const blockSize = kvBlockSize(kvType);
  const tokenBytes = numKvHeads * (kvRowBytes(keys, headDim) + kvRowBytes(values, headDim));
  const budget = budgetOf(options, blockSize * tokenBytes, blockSize);
  return new ReferenceRunner({
    graph: lowerModel(options).graph,
    weights: source,
    limits: { ...stepLimits(options, budget.maxModelLen), ...budget, blockSize },
    kvType,
  });
}
