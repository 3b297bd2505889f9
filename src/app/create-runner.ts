/** Chooses the target and makes the runner: the one place above the targets that names them. */
import { lowerGraph } from '../graph/lower-graph.ts';
import { buildStepGraph } from '../models/step-graph.ts';
import { memoryInfo } from '../platform/topology.ts';
import type { ModelRunner } from '../runtime/model-runner.ts';
import { DTYPES } from '../tensor/dtype.ts';
import type { WeightSource } from '../weights/contract.ts';
import { kvBudget } from './kv-budget.ts';
import type { RunnerOptions } from './runner-options.ts';

const REFERENCE_BLOCK_SIZE = 16;

export async function createRunner(options: RunnerOptions): Promise<ModelRunner> {
  const { ReferenceRunner } = await import('../targets/reference/reference-runner.ts');
  const { config, source, precision } = options;
  const { maxModelLen, numBlocks } = kvBudget({
    maxPositionEmbeddings: config.maxPositionEmbeddings,
    bytesPerToken: config.numLayers * 2 * config.numKvHeads * config.headDim * 4,
    blockSize: REFERENCE_BLOCK_SIZE,
    maxModelLen: options.maxModelLen,
    kvCacheMemoryBytes: options.kvCacheMemoryBytes,
    availableBytes: memoryInfo().availableBytes,
  });
  const { graph } = lowerGraph(buildStepGraph(config, source.tensors), {
    directory: source.tensors,
    q8Dtypes: precision === 'fast' ? quantizedDtypes(source) : [],
  });
  const maxTokens = Math.min(options.maxTokensPerStep ?? 256, maxModelLen);
  const maxSeqs = options.maxSeqs ?? 16;
  return new ReferenceRunner({
    graph,
    weights: source,
    limits: {
      maxTokens: Math.max(maxTokens, maxSeqs),
      maxSeqs,
      maxLogitRows: options.maxLogitRows ?? maxSeqs,
      maxModelLen,
      blockSize: REFERENCE_BLOCK_SIZE,
      numBlocks,
    },
  });
}

/** The stored formats whose linears take int8 activations in fast precision. */
export function quantizedDtypes({ tensors }: WeightSource): Set<string> {
  const dtypes = [...tensors.values()].map(({ dtype }) => dtype);
  return new Set(dtypes.filter((dtype) => DTYPES[dtype].kind === 'quantized'));
}
