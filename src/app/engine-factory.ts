/** Puts an engine's core together on this thread: model, runner, scheduler. What every engine host runs, wherever it lives. */
import { EngineCore } from '../engine/engine-core.ts';
import type { DecoderSource } from '../engine/sequence.ts';
import { createRunner } from '../runtime/create-runner.ts';
import type { RunnerLimits } from '../targets/model-runner.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import type { EngineSetup, ProgressCallback } from './engine-setup.ts';
import { OpenedModel } from './open-model.ts';

export interface BuiltEngine extends Disposable {
  readonly core: EngineCore;
  readonly limits: RunnerLimits;
}

/** @throws every error of opening, packing and compiling a model */
export async function buildEngine(
  setup: EngineSetup,
  onProgress?: ProgressCallback,
): Promise<BuiltEngine> {
  const model = new OpenedModel(setup.path, setup.maxModelLen);
  try {
    const { config, weights } = model.description;
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
    const core = new EngineCore({
      runner,
      tokenizer: decoderSource(model.tokenizer),
      eosTokenIds: model.eosTokenIds,
    });
    return {
      core,
      limits: runner.limits,
      [Symbol.dispose]() {
        runner[Symbol.dispose]();
        model[Symbol.dispose]();
      },
    };
  } catch (error) {
    model[Symbol.dispose]();
    throw error;
  }
}

/** Output continues a prompt. Without a tokenizer tokens have no text. */
function decoderSource(tokenizer: Tokenizer | null): DecoderSource {
  return {
    createDecoderStream: () =>
      tokenizer?.createDecoderStream({ isContinuation: true }) ?? { push: () => '', end: () => '' },
  };
}
