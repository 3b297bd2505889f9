/**
 * Model description + settings → a runner: lowers the graph, plans it for this machine, finds or packs the weights, and starts the threads. The one place
 * that picks a target.
 */

import type { Plan } from '../compiler/plan.ts';
import { planModel } from '../compiler/plan-model.ts';
import { type LoweredGraph, lowerGraph, type PassName } from '../graph/lower-graph.ts';
import { KV_BLOCK_SIZE } from '../kernels/kv-layout.ts';
import { packedFormatOf } from '../kernels/packed-format.ts';
import type { ModelDescription } from '../models/load-model.ts';
import { allocate } from '../platform/native-memory.ts';
import { platformSupport } from '../platform/support.ts';
import { cpuTopology, memoryInfo } from '../platform/topology.ts';
import { ReferenceRunner } from '../targets/reference/reference-runner.ts';
import { detectCpu } from '../targets/x64/cpu-features.ts';
import { machineOf, X64_ISAS, type X64Isa, x64Isas } from '../targets/x64/isa.ts';
import { RunnerError } from './errors.ts';
import type { ModelRunner } from './model-runner.ts';
import { NativeRunner } from './native-runner.ts';
import { packWeights } from './packed-weights.ts';
import { cachedWeights, DEFAULT_PLAN_CACHE_BYTES } from './plan-cache.ts';
import { MAX_THREADS } from './thread-team.ts';

export const TARGETS = ['auto', 'x64', ...X64_ISAS, 'reference'] as const;
export type TargetName = (typeof TARGETS)[number];

export interface RunnerOptions {
  readonly description: ModelDescription;
  readonly target?: TargetName;
  readonly precision?: 'fast' | 'f32';
  readonly threads?: number | 'auto';
  /** Longest sequence; the model's own limit by default, as far as the KV cache holds it. */
  readonly maxModelLen?: number;
  readonly kvCacheMemoryBytes?: number;
  readonly maxTokensPerStep?: number;
  readonly maxSeqs?: number;
  readonly maxLogitRows?: number;
  /** Where packed weights are kept; null: pack into memory at every start. */
  readonly planCacheFolder?: string | null;
  readonly disabledPasses?: readonly PassName[];
  readonly onProgress?: (progress: { phase: string; done: number; total: number }) => void;
}

const DEFAULTS = { maxTokensPerStep: 512, maxSeqs: 64, maxLogitRows: 128 } as const;
/** Share of the memory that is free which the KV cache may take by default. */
const KV_MEMORY_SHARE = 0.25;
/** Contexts of the full length that the KV cache holds by default, memory permitting. */
const DEFAULT_FULL_CONTEXTS = 4;

/** Where a model will run: the machine code level, or the reference target and why. */
export type ResolvedTarget =
  | { readonly kind: 'x64'; readonly isa: X64Isa }
  | { readonly kind: 'reference'; readonly reason: string };

/** @throws {RunnerError} if the named target cannot run here */
export function resolveTarget(target: TargetName = 'auto'): ResolvedTarget {
  if (target === 'reference') return { kind: 'reference', reason: 'asked for' };
  const support = platformSupport();
  const isas = support.supported ? x64Isas(detectCpu()) : [];
  const reason = support.supported ? 'this processor has no AVX2, FMA and F16C' : support.reason;
  if (target === 'auto') {
    return isas.length > 0 ? { kind: 'x64', isa: isas[0]! } : { kind: 'reference', reason };
  }
  const wanted = target === 'x64' ? isas[0] : isas.find((isa) => isa === target);
  if (wanted === undefined) {
    const here = isas.length > 0 ? isas.join(', ') : `none (${reason})`;
    throw new RunnerError(
      `--target ${target} cannot run here; native targets here: ${here}; reference runs anywhere`,
    );
  }
  return { kind: 'x64', isa: wanted };
}

/** A plan with the graphs that it came from, for `hasten explain`. */
export interface PlannedModel {
  readonly plan: Plan;
  readonly lowered: LoweredGraph;
  readonly target: Extract<ResolvedTarget, { kind: 'x64' }>;
  readonly numBlocks: number;
}

/** Stored dtypes that run on integer kernels in fast precision. */
function q8Dtypes(description: ModelDescription): string[] {
  const dtypes = new Set([...description.weights.tensors.values()].map((tensor) => tensor.dtype));
  return [...dtypes].filter((dtype) => packedFormatOf(dtype)?.kind === 'quantized');
}

function lower(options: RunnerOptions): LoweredGraph {
  const { description, precision = 'fast', disabledPasses = [] } = options;
  return lowerGraph(description.stepGraph, {
    directory: description.weights.tensors,
    q8Dtypes: precision === 'fast' ? q8Dtypes(description) : [],
    disabledPasses,
  });
}

/** Decides everything without packing or running anything. */
export function planRunner(
  options: RunnerOptions,
  target: Extract<ResolvedTarget, { kind: 'x64' }>,
): PlannedModel {
  const { description, precision = 'fast' } = options;
  const lowered = lower(options);
  const kvType = precision === 'f32' ? 'f32' : 'f16';
  const maxModelLen = checkedMaxModelLen(options);
  const numThreads = checkedThreads(options.threads ?? 'auto');
  const plan = planModel(lowered.graph, {
    machine: machineOf(target.isa),
    precision,
    kvType,
    directory: description.weights.tensors,
    limits: {
      maxTokens: options.maxTokensPerStep ?? DEFAULTS.maxTokensPerStep,
      maxSeqs: options.maxSeqs ?? DEFAULTS.maxSeqs,
      maxLogitRows: options.maxLogitRows ?? DEFAULTS.maxLogitRows,
      maxModelLen,
      numThreads,
    },
  });
  const { numLayers, keyBlockBytes, valueBlockBytes } = plan.kvCache;
  const blockBytes = numLayers * (keyBlockBytes + valueBlockBytes);
  const numBlocks = kvBlocks(options, blockBytes, maxModelLen);
  const longest = numBlocks * KV_BLOCK_SIZE;
  if (options.maxModelLen !== undefined && longest < maxModelLen) {
    const needed = Math.ceil(maxModelLen / KV_BLOCK_SIZE) * blockBytes;
    throw new RunnerError(
      `--max-model-len ${maxModelLen} needs a KV cache of ${needed} bytes (${blockBytes / KV_BLOCK_SIZE} per token); it has ${numBlocks * blockBytes}; raise --kv-cache-memory or lower --max-model-len to ${longest}`,
    );
  }
  if (longest < maxModelLen) {
    // The model could take longer sequences than the default cache holds.
    return planRunner(
      { ...options, maxModelLen: longest, kvCacheMemoryBytes: numBlocks * blockBytes },
      target,
    );
  }
  return { plan, lowered, target, numBlocks };
}

function checkedMaxModelLen({ description, maxModelLen }: RunnerOptions): number {
  const { maxPositionEmbeddings } = description.config;
  if (maxModelLen === undefined) return maxPositionEmbeddings;
  if (!Number.isInteger(maxModelLen) || maxModelLen < 1 || maxModelLen > maxPositionEmbeddings) {
    throw new RunnerError(
      `--max-model-len ${maxModelLen}: expected 1 to ${maxPositionEmbeddings}, the model's own limit`,
    );
  }
  return maxModelLen;
}

function checkedThreads(threads: number | 'auto'): number {
  if (threads === 'auto') return Math.min(MAX_THREADS, cpuTopology().usableCores);
  if (!Number.isInteger(threads) || threads < 1 || threads > MAX_THREADS) {
    throw new RunnerError(`--threads ${threads}: expected auto or 1 to ${MAX_THREADS}`);
  }
  return threads;
}

function kvBlocks(options: RunnerOptions, blockBytes: number, maxModelLen: number): number {
  const asked = options.kvCacheMemoryBytes;
  if (asked !== undefined) {
    if (!(asked >= blockBytes)) {
      throw new RunnerError(
        `--kv-cache-memory ${asked}: expected at least ${blockBytes} bytes, one block of ${KV_BLOCK_SIZE} tokens`,
      );
    }
    return Math.floor(asked / blockBytes);
  }
  const fullContext = Math.ceil(maxModelLen / KV_BLOCK_SIZE);
  const affordable = Math.floor((memoryInfo().availableBytes * KV_MEMORY_SHARE) / blockBytes);
  return Math.max(1, Math.min(fullContext * DEFAULT_FULL_CONTEXTS, affordable));
}

/**
 * @throws {RunnerError} if a setting does not fit the model or the machine
 * @throws {PlanError} if the model has an op or a weight format without a kernel
 */
export async function createRunner(options: RunnerOptions): Promise<ModelRunner> {
  const target = resolveTarget(options.target);
  if (target.kind === 'reference') return createReferenceRunner(options);
  const { description, onProgress } = options;
  const { plan, numBlocks } = planRunner(options, target);
  const { planCacheFolder = null } = options;
  const image = planCacheFolder
    ? await cachedWeights(
        plan,
        description.weights,
        { folder: planCacheFolder, maxBytes: DEFAULT_PLAN_CACHE_BYTES },
        (done, total) => onProgress?.({ phase: 'pack', done, total }),
      )
    : packedInMemory(plan, options);
  return new NativeRunner({ plan, machine: machineOf(target.isa), image, numBlocks });
}

function packedInMemory(plan: Plan, { description, onProgress }: RunnerOptions) {
  const region = allocate(plan.weightBytes, { hugePages: true });
  const bytes = region.bytes();
  packWeights(
    plan.weights,
    description.weights,
    (offset, piece) => bytes.set(piece, offset),
    (done) => onProgress?.({ phase: 'pack', done, total: plan.weightBytes }),
  );
  return { address: region.address, [Symbol.dispose]: () => region.free() };
}

/** KV blocks of the reference target are ordinary arrays: as many as contexts need, no more than the memory share allows. */
function createReferenceRunner(options: RunnerOptions): ModelRunner {
  const { description } = options;
  const { config } = description;
  const maxModelLen = checkedMaxModelLen(options);
  const blockBytes = config.numLayers * config.numKvHeads * config.headDim * 2 * 4 * KV_BLOCK_SIZE;
  const numBlocks = kvBlocks(options, blockBytes, maxModelLen);
  return new ReferenceRunner({
    graph: lower(options).graph,
    weights: description.weights,
    limits: {
      maxTokens: options.maxTokensPerStep ?? DEFAULTS.maxTokensPerStep,
      maxSeqs: options.maxSeqs ?? DEFAULTS.maxSeqs,
      maxLogitRows: options.maxLogitRows ?? DEFAULTS.maxLogitRows,
      maxModelLen: Math.min(maxModelLen, numBlocks * KV_BLOCK_SIZE),
      blockSize: KV_BLOCK_SIZE,
      numBlocks,
    },
  });
}
