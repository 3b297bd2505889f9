/** A model that answers: its engine started elsewhere, its tokenizer here. */

import { type EngineHost, startEngine } from './engine-host.ts';
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

  private constructor(name: string, host: EngineHost, opened: OpenedModel) {
    const { path } = opened.description;
    super({ name, path, engine: host.engine, tokenizer: opened.tokenizer });
    this.#host = host;
    this.#opened = opened;
  }

  /** Starts the engine and, while it loads, reads the tokenizer. @throws every error of opening and compiling a model */
  static async start({
    name,
    setup,
    onProgress,
    signal,
  }: RunningModelOptions): Promise<RunningModel> {
    const starting = startEngine(setup, { onProgress, signal });
    let opened: OpenedModel | undefined;
    try {
      opened = new OpenedModel(setup.path, setup.maxModelLen);
      opened.tokenizer; // Now, while the engine is busy.
      return new RunningModel(name, await starting, opened);
    } catch (error) {
      opened?.[Symbol.dispose]();
      const host = await starting.catch(() => undefined);
      await host?.[Symbol.asyncDispose]();
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
