/**
 * Starts a model: first the engine's thread, which takes longest, and only then the modules that read the tokenizer. So nothing heavy may be
 * imported here.
 */
import { EngineHost, type EngineKeeper } from './engine-host.ts';
import type { EngineSetup, ProgressCallback } from './engine-setup.ts';
import type { RunningModel } from './running-model.ts';

export interface StartModelOptions {
  /** Short name to serve it by. */
  readonly name: string;
  readonly setup: EngineSetup;
  readonly onProgress?: ProgressCallback | undefined;
  /** Where the engine is to live, if not on a thread that is started now. */
  readonly host?: EngineKeeper | undefined;
  /** Gives up starting. */
  readonly signal?: AbortSignal | undefined;
}

/** @throws every error of opening and compiling a model */
export async function startModel(options: StartModelOptions): Promise<RunningModel> {
  const { name, setup, onProgress, signal } = options;
  const host: EngineKeeper = options.host ?? new EngineHost();
  host.open(setup, { onProgress, signal });
  try {
    const { RunningModel } = await import('./running-model.ts');
    const { path, maxModelLen, drafts } = setup;
    const draftPath = drafts?.modelPath;
    return await RunningModel.over(host, { name, path, maxModelLen, draftPath });
  } catch (error) {
    await host[Symbol.asyncDispose]();
    throw error;
  }
}
