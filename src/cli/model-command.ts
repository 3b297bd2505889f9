/** What commands that open a model do first: find it, with a progress bar where that takes a while. */
import { type FoundModel, findModel } from '../app/open-model.ts';
import { hubProgress } from './hub-progress.ts';
import { ProgressReporter } from './progress.ts';

export async function findModelWithProgress(
  spec: string | undefined,
  options: { readonly offline: boolean; readonly signal: AbortSignal },
): Promise<FoundModel> {
  using progress = new ProgressReporter();
  return await findModel(spec, { ...options, onProgress: hubProgress(progress) });
}
