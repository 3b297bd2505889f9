import type { EngineApi } from '../engine/engine.ts';
import { createEngine } from './engine-factory.ts';
import type { EngineSetup, ProgressCallback } from './engine-setup.ts';

export interface EngineHost extends AsyncDisposable {
  readonly engine: EngineApi;
  /** Resolves, with the reason, if the engine dies; never settles otherwise. */
  readonly failure: Promise<Error>;
}

export interface StartEngineOptions {
  readonly onProgress?: ProgressCallback | undefined;
  readonly signal?: AbortSignal | undefined;
}

export async function startEngine(
  setup: EngineSetup,
  { onProgress, signal }: StartEngineOptions = {},
): Promise<EngineHost> {
  signal?.throwIfAborted();
  const local = await createEngine(setup, onProgress);
  return {
    engine: local.engine,
    failure: new Promise(() => {}),
    [Symbol.asyncDispose]: () => local[Symbol.asyncDispose](),
  };
}
