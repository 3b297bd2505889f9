/** What a runner is made from, whatever the target. */
import type { PassName } from '../graph/lower-graph.ts';
import { KV_TYPES, type KvType } from '../kernels/kv-layout.ts';
import type { ModelConfig } from '../models/model-config.ts';
import type { WeightSource } from '../weights/contract.ts';

export const TARGET_NAMES = ['auto', 'reference', 'x64', 'avx2', 'avx512', 'avx512vnni'] as const;
/** `auto` is the best for this machine; the names of instruction sets force that level of x64. */
export type TargetName = (typeof TARGET_NAMES)[number];

export const PRECISIONS = ['fast', 'f32'] as const;
/** `fast`: int8 activations where weights are quantized; `f32`: activations and KV cache in f32. */
export type Precision = (typeof PRECISIONS)[number];

export const KV_CACHE_TYPES = ['auto', ...KV_TYPES] as const;
/** How keys and values are kept. `auto`: f16, or f32 with f32 precision and on the reference target. */
export type KvCacheType = (typeof KV_CACHE_TYPES)[number];

/** What other programs call these. */
const KV_CACHE_TYPE_ALIASES: Readonly<Record<string, KvType>> = {
  fp16: 'f16',
  float16: 'f16',
  half: 'f16',
  fp32: 'f32',
  float32: 'f32',
  float: 'f32',
  q8_0: 'q8',
  int8: 'q8',
  q4_0: 'q4',
  int4: 'q4',
};

/** The type that a name means, ours or that of llama.cpp or vLLM; null if it means none. */
export function kvCacheTypeOf(name: string): KvCacheType | null {
  const lower = name.toLowerCase();
  const own = KV_CACHE_TYPES.find((type) => type === lower);
  if (own !== undefined) return own;
  return Object.hasOwn(KV_CACHE_TYPE_ALIASES, lower) ? KV_CACHE_TYPE_ALIASES[lower]! : null;
}

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
  /** Default auto. */
  readonly kvCacheType?: KvCacheType;
  /** Tokens that the KV cache shall have room for, instead of the memory that they take. */
  readonly kvCacheTokens?: number;
  readonly maxTokensPerStep?: number;
  readonly maxSeqs?: number;
  readonly maxLogitRows?: number;
  /** Graph passes to leave out, to measure what each is worth; results stay right. */
  readonly disabledPasses?: readonly PassName[];
  /** Where packed weights are kept for the next start; null for nowhere. */
  readonly planCacheFolder: string | null;
  onProgress?(progress: RunnerProgress): void;
}
