/** What starting an engine takes and tells: plain data, so that the engine may live on another thread or in another process. */
import type { Precision, RunnerProgress, TargetName } from '../runtime/runner-options.ts';

export interface EngineSetup {
  /** Model file or folder. */
  readonly path: string;
  readonly target: TargetName;
  readonly precision: Precision;
  readonly threads: number | 'auto';
  readonly maxModelLen?: number | undefined;
  readonly kvCacheMemoryBytes?: number | undefined;
  readonly maxSeqs?: number | undefined;
  readonly planCacheFolder: string | null;
}

export type ProgressCallback = (progress: RunnerProgress) => void;
