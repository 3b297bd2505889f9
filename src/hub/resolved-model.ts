/** What every source gives back, and what every source is given. */
import type { HubEnvironment } from './environment.ts';
import type { NetworkPolicy } from './network-policy.ts';
import type { ProgressListener } from './progress.ts';

/** `embedded`: shipped with hasten; `path`: the user's own file or folder. */
export type ModelSource = 'hf' | 'modelscope' | 'pypi' | 'https' | 'path' | 'embedded';

export interface ResolvedModel {
  /**
   * Absolute path of a GGUF file (of a split model the first part) or of a model folder with `config.json`.
   * In the cache it is a symlink: parts of a split model lie beside it, not beside what it links to.
   */
  readonly path: string;
  /** Short name to serve the model by. */
  readonly name: string;
  readonly source: ModelSource;
  /** Of all files of the model together. */
  readonly sizeBytes: number;
  /** SHA-256 of a single-file model, where known. */
  readonly digest?: string;
}

/** What a source needs to fetch something. */
export interface PullContext {
  readonly env: HubEnvironment;
  readonly policy: NetworkPolicy;
  readonly onProgress?: ProgressListener | undefined;
  readonly signal?: AbortSignal | undefined;
}
