/** From what the user typed to a model's files on this disk. Reads none of them. */
import { hubEnvironmentFrom } from '../hub/environment.ts';
import type { SourceAttempt } from '../hub/errors.ts';
import type { ProgressListener } from '../hub/progress.ts';
import { resolveDefaultModel, resolveModel } from '../hub/resolve.ts';
import type { ResolvedModel } from '../hub/resolved-model.ts';

export interface FindModelOptions {
  readonly offline?: boolean;
  readonly onProgress?: ProgressListener;
  readonly signal?: AbortSignal;
}

export interface FoundModel extends ResolvedModel {
  /** Why the embedded model is served although another one is the default; empty otherwise. */
  readonly fallbackReasons: readonly SourceAttempt[];
}

/**
 * Finds or fetches a model.
 * @param spec a path, an alias or any form that `hasten pull` takes; undefined for the default model
 * @throws every error of the hub
 */
export async function findModel(
  spec: string | undefined,
  options: FindModelOptions = {},
): Promise<FoundModel> {
  const resolveOptions = { env: hubEnvironmentFrom(process.env), ...options };
  if (spec !== undefined) {
    return { ...(await resolveModel(spec, resolveOptions)), fallbackReasons: [] };
  }
  const { model, attempts, isFallback } = await resolveDefaultModel(resolveOptions);
  return { ...model, fallbackReasons: isFallback ? attempts : [] };
}
