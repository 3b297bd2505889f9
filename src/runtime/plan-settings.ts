/** Runner options → what the planner is told and how much KV cache there will be. Decides sizes only. */
import { type KvType, keyBlockBytes, kvBlockSize, valueBlockBytes } from '../kernels/kv-layout.ts';
import { cpuTopology, memoryInfo } from '../platform/topology.ts';
import { RunnerError } from './errors.ts';
import { kvBudget } from './kv-budget.ts';
import type { RunnerOptions } from './runner-options.ts';
import { MAX_THREADS } from './thread-team.ts';

const DEFAULTS = { maxTokensPerStep: 512, maxSeqs: 64 } as const;

/** What the planner is told besides the graph and the machine, and how many KV blocks there will be. */
export function planSettings(options: RunnerOptions) {
  const { config, precision, kvCacheType = 'auto' } = options;
  const ownType: KvType = precision === 'f32' ? 'f32' : 'f16';
  const kvType = kvCacheType === 'auto' ? ownType : kvCacheType;
  const kvShape = { numKvHeads: config.numKvHeads, headDim: config.headDim, kvType };
  const blockBytes = keyBlockBytes(kvShape) + valueBlockBytes(kvShape);
  const { maxModelLen, numBlocks } = budgetOf(options, blockBytes, kvBlockSize(kvType));
  const numThreads = checkedThreads(options.threads);
  const limits = { ...stepLimits(options, maxModelLen), maxModelLen, numThreads };
  return { precision, kvType, limits, numBlocks };
}

/** @param layerBlockBytes keys and values of one block of one layer */
export function budgetOf(options: RunnerOptions, layerBlockBytes: number, blockSize: number) {
  const { config, maxModelLen, kvCacheMemoryBytes, kvCacheTokens } = options;
  const blockBytes = config.numLayers * layerBlockBytes;
  return kvBudget({
    maxPositionEmbeddings: config.maxPositionEmbeddings,
    bytesPerToken: blockBytes / blockSize,
    blockSize,
    maxModelLen,
    kvCacheMemoryBytes:
      kvCacheTokens === undefined
        ? kvCacheMemoryBytes
        : Math.ceil(kvCacheTokens / blockSize) * blockBytes,
    availableBytes: memoryInfo().availableBytes,
  });
}

export function stepLimits(options: RunnerOptions, maxModelLen: number) {
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
