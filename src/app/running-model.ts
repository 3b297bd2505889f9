/** A model that answers: its engine started elsewhere, its tokenizer here. */

import type { EngineApi } from '../engine/engine.ts';
import { DEFAULT_SAMPLING_PARAMS } from '../engine/sampling-params.ts';
import { EngineHost } from './engine-host.ts';
import type { EngineSetup, ProgressCallback } from './engine-setup.ts';
import { EngineTextModel } from './engine-text-model.ts';
import { OpenedModel } from './open-model.ts';

export interface RunningModelOptions {
  /** Short name to serve it by. */
  readonly name: string;
  readonly setup: EngineSetup;
  readonly onProgress?: ProgressCallback;
  /** Gives up starting. */
  readonly signal?: AbortSignal;
}

export class RunningModel extends EngineTextModel implements AsyncDisposable {
  readonly #host: EngineHost;
  readonly #opened: OpenedModel;

  private constructor(name: string, host: EngineHost, engine: EngineApi, opened: OpenedModel) {
    super({ name, path: opened.description.path, engine, tokenizer: opened.tokenizer });
    this.#host = host;
    this.#opened = opened;
  }

  /** Starts the engine and, while it loads, reads the tokenizer. @throws every error of opening and compiling a model */
  static async start(options: RunningModelOptions): Promise<RunningModel> {
    const { name, setup, onProgress, signal } = options;
    const host = new EngineHost(setup, { onProgress, signal });
    let opened: OpenedModel | undefined;
    try {
      opened = new OpenedModel(setup.path, setup.maxModelLen);
      opened.tokenizer; // Read now, while the engine is busy.
      const defaults = { ...DEFAULT_SAMPLING_PARAMS, ...opened.description.samplingDefaults };
      return new RunningModel(name, host, await host.connect(defaults), opened);
    } catch (error) {
      await host[Symbol.asyncDispose]();
      opened?.[Symbol.dispose]();
      throw error;
    }
  }

  /** Resolves, with the reason, if the engine dies; never settles otherwise. */
  get failure(): Promise<Error> {
    return this.#host.failure;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#host[Symbol.asyncDispose]();
    this.#opened[Symbol.dispose]();
  }
}
