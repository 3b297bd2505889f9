/**
 * llama.cpp through the raw bindings of node-llama-cpp's prebuilt addon: load a model, make a context, decode batches, read logits. Knows
 * only the calls that the benchmarks need (their full form: node-llama-cpp, dist/bindings/AddonTypes.d.ts).
 */
import { mkdtempSync, readdirSync, symlinkSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

interface Bindings {
  markLoaded(): boolean;
  setLogger(logger: (level: number, message: string) => void): void;
  setLoggerLogLevel(level: number): void;
  loadBackends(folder?: string): void;
  init(): Promise<void>;
  systemInfo(): string;
  AddonModel: new (
    path: string,
    options: { addonExports: Bindings; gpuLayers: number; useMmap: boolean },
  ) => AddonModel;
  AddonContext: new (model: AddonModel, options: ContextOptions) => AddonContext;
  AddonSampler: new (model: AddonModel) => AddonSampler;
}

export interface AddonModel {
  init(): Promise<boolean>;
  dispose(): Promise<void>;
  shouldPrependBosToken(): boolean;
  tokenBos(): number;
}

interface ContextOptions {
  readonly contextSize: number;
  /** Tokens per llama_decode, and per step inside it (n_batch = n_ubatch). */
  readonly batchSize: number;
  readonly sequences: number;
  readonly flashAttention: boolean | 'auto';
  readonly threads: number;
}

export interface AddonContext {
  init(): Promise<boolean>;
  dispose(): Promise<void>;
  initBatch(size: number): void;
  /** @returns the places of the outputs asked for by `logitIndexes` (indexes into `tokens`) */
  addToBatch(
    sequenceId: number,
    firstPosition: number,
    tokens: Uint32Array,
    logitIndexes: Uint32Array,
  ): Uint32Array;
  decodeBatch(): Promise<void>;
  disposeSequence(sequenceId: number): void;
  sampleToken(
    outputIndex: number,
    sampler: AddonSampler,
    probabilities: boolean,
    confidence: boolean,
    logits: boolean,
  ): Promise<[token: number, undefined, undefined, logits: number[]]>;
}

export interface AddonSampler {
  applyConfig(config: { readonly temperature: number }): void;
}

export class LlamaAddonError extends Error {
  constructor(message: string) {
    super(`llama.cpp: ${message}`);
    this.name = 'LlamaAddonError';
  }
}

/** Instruction set variants by hasten's names: the CPU modules that may be loaded. */
const VARIANTS: Readonly<Record<string, RegExp>> = {
  avx2: /libggml-cpu-haswell/,
};

/** One model, loaded. */
export class LlamaAddon {
  readonly #bindings: Bindings;
  readonly model: AddonModel;
  /** llama.cpp's own line about the instruction sets it uses. */
  readonly systemInfo: string;

  private constructor(bindings: Bindings, model: AddonModel) {
    this.#bindings = bindings;
    this.model = model;
    this.systemInfo = bindings.systemInfo();
  }

  /**
   * @param folder of the prebuilt shared objects
   * @param variant an instruction set to be held to (`avx2`); the best that the machine has where left out
   * @throws {LlamaAddonError} if the model cannot be loaded; llama.cpp's messages are in it
   */
  static async load(folder: string, modelPath: string, variant?: string): Promise<LlamaAddon> {
    const bindings = createRequire(import.meta.url)(join(folder, 'llama-addon.node')) as Bindings;
    const messages: string[] = [];
    bindings.markLoaded();
    bindings.setLogger((_level, message) => messages.push(message));
    bindings.setLoggerLogLevel(2); // errors
    bindings.loadBackends(variant === undefined ? folder : folderOfVariant(folder, variant));
    await bindings.init();
    const model = new bindings.AddonModel(modelPath, {
      addonExports: bindings,
      gpuLayers: 0,
      useMmap: true,
    });
    if (!(await model.init())) {
      throw new LlamaAddonError(`cannot load ${modelPath}: ${messages.join('').trim()}`);
    }
    return new LlamaAddon(bindings, model);
  }

  /** @throws {LlamaAddonError} if llama.cpp refuses the context */
  async createContext(options: Omit<ContextOptions, 'sequences'>): Promise<AddonContext> {
    const context = new this.#bindings.AddonContext(this.model, { ...options, sequences: 1 });
    if (!(await context.init())) throw new LlamaAddonError('cannot make a context');
    context.initBatch(options.batchSize);
    return context;
  }

  createSampler(): AddonSampler {
    return new this.#bindings.AddonSampler(this.model);
  }
}

/** llama.cpp loads the best CPU module that it finds in a folder, so a folder with one module forces that one. */
function folderOfVariant(folder: string, variant: string): string {
  const pattern = VARIANTS[variant];
  const name = readdirSync(folder).find((file) => pattern?.test(file));
  if (name === undefined) {
    throw new LlamaAddonError(
      `no CPU module for "${variant}" in ${folder}; expected one of ${Object.keys(VARIANTS).join(', ')}`,
    );
  }
  const only = mkdtempSync(join(tmpdir(), 'hasten-llama-'));
  symlinkSync(join(folder, name), join(only, name));
  return only;
}
