/** What starting an engine takes and tells: plain data, so that the engine may live on another thread or in another process. */
import type { Speculation } from '../engine/draft-source.ts';
import type { OffloadOptions } from '../engine/engine-core.ts';
import type { PrefixCacheScope } from '../engine/prefix-keeper.ts';
import type { LoadFormat } from '../models/load-format.ts';
import type {
  KvCacheType,
  Precision,
  RunnerProgress,
  TargetName,
} from '../runtime/runner-options.ts';

export interface EngineSetup {
  /** Model file or folder. */
  readonly path: string;
  readonly target: TargetName;
  readonly precision: Precision;
  readonly threads: number | 'auto';
  /** Quantizes a model that is stored in floats. */
  readonly loadIn?: LoadFormat | undefined;
  readonly maxModelLen?: number | undefined;
  readonly kvCacheMemoryBytes?: number | undefined;
  /** Default auto. */
  readonly kvCacheType?: KvCacheType | undefined;
  readonly maxSeqs?: number | undefined;
  readonly planCacheFolder: string | null;
  readonly drafts?: DraftSetup | undefined;
  /** Where cached prefixes go that the KV cache has no room for. */
  readonly offload?: OffloadOptions | undefined;
  readonly prefixCacheScope?: PrefixCacheScope | undefined;
  /** Bound of a step with running answers in it, and so of the time between two tokens of one; default: the engine's. */
  readonly maxStepMs?: number | undefined;
  /** Time for steps of all sizes before the engine is ready, about; left out: none are run. */
  readonly warmUpMs?: number | undefined;
}

/** Where tokens that are checked ahead come from. */
export interface DraftSetup {
  readonly speculation?: Speculation | undefined;
  /** Model file or folder of the draft model; it runs with the target, precision and threads of the first. */
  readonly modelPath?: string | undefined;
  /** Most tokens of one draft. */
  readonly maxTokens?: number | undefined;
}

export type ProgressCallback = (progress: RunnerProgress) => void;
