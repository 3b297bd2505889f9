/** A model that answers: its engine on a thread or in a process of its own, its tokenizer here. `start-model.ts` makes them. */
import type { EngineApi } from '../engine/engine.ts';
import { DEFAULT_SAMPLING_PARAMS } from '../engine/sampling-params.ts';
import type { SamplingDefaults } from '../models/sampling-defaults.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import { assertSameVocabulary } from './draft-model.ts';
import type { EngineKeeper } from './engine-host.ts';
import { EngineTextModel } from './engine-text-model.ts';
import { OpenedModel } from './open-model.ts';
import { tokenTextOf } from './token-text.ts';

export interface RunningModelOptions {
  /** Short name to serve it by. */
  readonly name: string;
  readonly path: string;
  readonly maxModelLen?: number | undefined;
  readonly draftPath?: string | undefined;
}

export class RunningModel extends EngineTextModel implements AsyncDisposable {
  /** What the model's makers say of sampling; nothing for many. */
  readonly samplingDefaults: SamplingDefaults;
  readonly #host: EngineKeeper;

  private constructor(
    options: RunningModelOptions & { engine: EngineApi; tokenizer: Tokenizer | null },
    host: EngineKeeper,
    samplingDefaults: SamplingDefaults,
  ) {
    super(options);
    this.#host = host;
    this.samplingDefaults = samplingDefaults;
  }

  /** Reads the tokenizer while the engine starts, and gives the engine what it needs of it. @throws every error of opening a model */
  static async over(host: EngineKeeper, options: RunningModelOptions): Promise<RunningModel> {
    using opened = new OpenedModel(options.path, { maxModelLen: options.maxModelLen ?? null });
    const { tokenizer, eosTokenIds } = opened;
    const { samplingDefaults } = opened.description;
    const tokenText = tokenizer === null ? null : tokenTextOf(tokenizer);
    if (options.draftPath !== undefined) assertSameVocabulary(tokenText, options.draftPath);
    const connecting = host.connect({
      tokenText,
      eosTokenIds,
      defaults: { ...DEFAULT_SAMPLING_PARAMS, ...samplingDefaults },
    });
    try {
      tokenizer?.prepareEncoding(); // While the engine makes use of the text.
    } catch (error) {
      connecting.catch(() => {}); // Whoever started it ends it.
      throw error;
    }
    const engine = await connecting;
    return new RunningModel({ ...options, engine, tokenizer }, host, samplingDefaults);
  }

  /** Resolves, with the reason, if the engine dies; never settles otherwise. */
  get failure(): Promise<Error> {
    return this.#host.failure;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#host[Symbol.asyncDispose]();
  }
}
