/** Puts an engine together on this thread: model, runner, scheduler. The composition that every engine host runs, wherever it lives. */
import { Engine } from '../engine/engine.ts';
import { DEFAULT_SAMPLING_PARAMS } from '../engine/sampling-params.ts';
import type { DecoderSource } from '../engine/sequence.ts';
import { createRunner } from './create-runner.ts';
import type { EngineSetup, ProgressCallback } from './engine-setup.ts';
import { OpenedModel } from './open-model.ts';

export interface LocalEngine extends AsyncDisposable {
  readonly engine: Engine;
}

/** For models without a tokenizer: tokens have no text. */
const NO_TEXT: DecoderSource = {
  createDecoderStream: () => ({ push: () => '', end: () => '' }),
};

/** @throws every error of opening, packing and compiling a model */
export async function createEngine(
  setup: EngineSetup,
  onProgress?: ProgressCallback,
): Promise<LocalEngine> {
  const model = new OpenedModel(setup.path, setup.maxModelLen);
  try {
    const { config, weights, samplingDefaults } = model.description;
    const runner = await createRunner({
      source: weights,
      config,
      target: setup.target,
      precision: setup.precision,
      threads: setup.threads,
      maxModelLen: setup.maxModelLen,
      kvCacheMemoryBytes: setup.kvCacheMemoryBytes,
      maxSeqs: setup.maxSeqs,
      planCacheFolder: setup.planCacheFolder,
      onProgress,
    });
    const { tokenizer } = model;
    const engine = new Engine({
      runner,
      tokenizer:
        tokenizer === null
          ? NO_TEXT
          : { createDecoderStream: () => tokenizer.createDecoderStream({ isContinuation: true }) },
      eosTokenIds: model.eosTokenIds,
      defaults: { ...DEFAULT_SAMPLING_PARAMS, ...samplingDefaults },
    });
    return {
      engine,
      async [Symbol.asyncDispose]() {
        await engine.close();
        runner[Symbol.dispose]();
        model[Symbol.dispose]();
      },
    };
  } catch (error) {
    model[Symbol.dispose]();
    throw error;
  }
}
