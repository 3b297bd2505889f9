/** What a runner is made from, whatever the target. */
import type { PassName } from '../graph/lower-graph.ts';
import type { ModelConfig } from '../models/model-config.ts';
import type { WeightSource } from '../weights/contract.ts';

export const TARGET_NAMES = ['auto', 'reference', 'x64', 'avx2', 'avx512', 'avx512vnni'] as const;
/** `auto` is the best for this machine; the names of instruction sets force that level of x64. */
export type TargetName = (typeof TARGET_NAMES)[number];

export const PRECISIONS = ['fast', 'f32'] as const;
/** `fast`: int8 activations where weights are quantized; `f32`: activations and KV cache in f32. */
export type Precision = (typeof PRECISIONS)[number];

export interface RunnerProgress {
  readonly phase: string;
  readonly done: number;
  readonly total: number;
}

export interface RunnerOptions {
  readonly source: WeightSource;
  readonly config: ModelConfig;
  readonly target: TargetName;
  readonly precision: Precision;
  readonly threads: number | 'auto';
  readonly maxModelLen?: number;
  readonly kvCacheMemoryBytes?: number;
  readonly maxTokensPerStep?: number;
  readonly maxSeqs?: number;
  readonly maxLogitRows?: number;
  /** Graph passes to leave out, to measure what each is worth; results stay right. */
  readonly disabledPasses?: readonly PassName[];
  /** Where packed weights are kept for the next start; null for nowhere. */
  readonly planCacheFolder: string | null;
  onProgress?(progress: RunnerProgress): void;
}
