/**
 * Model and settings → a runner: lowers the graph, plans it for this machine, finds or packs the weights, and starts the threads. The one place that names
 * the targets.
 */
import { emitKernels } from '../compiler/emit.ts';
import type { Plan } from '../compiler/plan.ts';
import { planModel } from '../compiler/plan-model.ts';
import { type LoweredGraph, lowerGraph } from '../graph/lower-graph.ts';
import {
  KV_BLOCK_SIZE,
  type KvType,
  keyBlockBytes,
  valueBlockBytes,
} from '../kernels/kv-layout.ts';
import { packedFormatOf } from '../kernels/packed-format.ts';
import { stepGraphOf } from '../models/load-model.ts';
import { allocate } from '../platform/native-memory.ts';
import { cpuTopology, memoryInfo } from '../platform/topology.ts';
import type { ModelRunner } from '../targets/model-runner.ts';
import { machineOf, type X64Isa } from '../targets/x64/isa.ts';
import type { WeightSource } from '../weights/contract.ts';
import { PlanCacheError, RunnerError } from './errors.ts';
import { kvBudget } from './kv-budget.ts';
import { NativeRunner } from './native-runner.ts';
import { packWeights } from './packed-weights.ts';
import { cachedWeights, DEFAULT_PLAN_CACHE_BYTES, type MappedImage } from './plan-cache.ts';
import type { RunnerOptions, TargetName } from './runner-options.ts';
import { type CompiledPlan, readStart, startKey, writeStart } from './start-cache.ts';
import { chooseTarget } from './target-choice.ts';
import { MAX_THREADS } from './thread-team.ts';

const DEFAULTS = { maxTokensPerStep: 512, maxSeqs: 64 } as const;

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
  return lowerGraph(stepGraphOf(config, source), {
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

/** What the planner is told besides the graph and the machine, and how many KV blocks there will be. */
function planSettings(options: RunnerOptions) {
  const { config, precision, kvCacheType = 'auto' } = options;
  const ownType: KvType = precision === 'f32' ? 'f32' : 'f16';
  const kvType = kvCacheType === 'auto' ? ownType : kvCacheType;
  const kvShape = { numKvHeads: config.numKvHeads, headDim: config.headDim, kvType };
  const { maxModelLen, numBlocks } = budgetOf(
    options,
    keyBlockBytes(kvShape) + valueBlockBytes(kvShape),
  );
  const numThreads = checkedThreads(options.threads);
  const limits = { ...stepLimits(options, maxModelLen), maxModelLen, numThreads };
  return { precision, kvType, limits, numBlocks };
}

/** Plan and code, from the cache of an earlier start where there is one. */
async function compile(options: RunnerOptions, isa: X64Isa): Promise<CompiledPlan> {
  const { planCacheFolder, config, source, disabledPasses = [] } = options;
  const make = (): CompiledPlan => {
    const { plan } = planRunner(options, isa);
    return { plan, kernels: emitKernels(plan, machineOf(isa)) };
  };
  if (planCacheFolder === null) return make();
  const tensors = [...source.tensors.values()];
  const { numBlocks: _, ...settings } = planSettings(options);
  const key = startKey({ isa, settings, config, tensors, disabledPasses });
  const known = readStart(planCacheFolder, key);
  if (known) return known;
  const made = make();
  await writeStart(planCacheFolder, key, made);
  return made;
}

/** @param layerBlockBytes keys and values of one block of one layer */
function budgetOf(options: RunnerOptions, layerBlockBytes: number) {
  const { config, maxModelLen, kvCacheMemoryBytes, numKvBlocks } = options;
  const blockBytes = config.numLayers * layerBlockBytes;
  return kvBudget({
    maxPositionEmbeddings: config.maxPositionEmbeddings,
    bytesPerToken: blockBytes / KV_BLOCK_SIZE,
    blockSize: KV_BLOCK_SIZE,
    maxModelLen,
    kvCacheMemoryBytes: numKvBlocks === undefined ? kvCacheMemoryBytes : numKvBlocks * blockBytes,
    availableBytes: memoryInfo().availableBytes,
  });
}

function stepLimits(options: RunnerOptions, maxModelLen: number) {
  const maxSeqs = options.maxSeqs ?? DEFAULTS.maxSeqs;
  const maxTokens = Math.min(options.maxTokensPerStep ?? DEFAULTS.maxTokensPerStep, maxModelLen);
  return {
    maxSeqs,
    // A step has at least a token of every sequence.
    maxTokens: Math.max(maxTokens, maxSeqs),
    maxLogitRows: options.maxLogitRows ?? maxSeqs,
  };
}

function checkedThreads(threads: number | 'auto'): number {
  if (threads === 'auto') return Math.min(MAX_THREADS, cpuTopology().usableCores);
  if (!Number.isInteger(threads) || threads < 1 || threads > MAX_THREADS) {
    throw new RunnerError(`--threads ${threads}: expected auto or 1 to ${MAX_THREADS}`);
  }
  return threads;
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
    packedInMemory(plan, source, report);
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

function packedInMemory(
  plan: Plan,
  source: WeightSource,
  report: (done: number, total: number) => void,
): Pick<MappedImage, 'address'> & Disposable {
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
  const [{ ReferenceRunner }, { kvHeadBytes }] = await Promise.all([
    import('../targets/reference/reference-runner.ts'),
    import('../targets/reference/kv-rows.ts'),
  ]);
  const { config, source, kvCacheType = 'auto' } = options;
  const kvType = kvCacheType === 'auto' ? 'f32' : kvCacheType;
  const { numKvHeads, headDim } = config;
  const budget = budgetOf(options, KV_BLOCK_SIZE * 2 * numKvHeads * kvHeadBytes(kvType, headDim));
  return new ReferenceRunner({
    graph: lowerModel(options).graph,
    weights: source,
    limits: { ...stepLimits(options, budget.maxModelLen), ...budget, blockSize: KV_BLOCK_SIZE },
    kvType,
  });
}
