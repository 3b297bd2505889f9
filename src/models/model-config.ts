/**
 * The numbers of a model, in one spelling, whatever file they were read from. What they mean for the computation is in `architectures/`;
 * this file knows neither files nor formats.
 */
import type { ActivationKind, RopeSpec } from '../graph/ir.ts';
import { ModelError, UnsupportedModelError } from './errors.ts';

export interface LayerConfig {
  /** Positions a query sees, itself included; null: all earlier ones. */
  readonly window: number | null;
  readonly rope: RopeSpec;
}

/** Which linears have a bias vector. */
export interface BiasConfig {
  readonly qkv: boolean;
  /** The attention's output projection. */
  readonly output: boolean;
  readonly mlp: boolean;
}

export interface ModelConfig {
  /** Name in the registry: `llama`, `qwen3`, ... */
  readonly architecture: string;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly vocabSize: number;
  readonly maxPositionEmbeddings: number;
  readonly normEps: number;
  /** What is added to every stored norm weight: 1 where a file stores w and the model means 1 + w. */
  readonly normWeightOffset: number;
  /** Factor on embeddings: sqrt(hiddenSize) in Gemma, 1 elsewhere. */
  readonly embeddingScale: number;
  /** Factor on q · k. */
  readonly attentionScale: number;
  readonly activation: ActivationKind;
  readonly biases: BiasConfig;
  /** Whether the output matrix is the embedding table. */
  readonly tiedEmbeddings: boolean;
  /** Logits become cap * tanh(logits / cap); null: as they are. */
  readonly logitSoftcap: number | null;
  readonly layers: readonly LayerConfig[];
  readonly bosTokenId: number | null;
  /** Every id that ends a text, from all places that name one. */
  readonly eosTokenIds: readonly number[];
}

/** More than any published model; keep a hostile count from sizing a list. */
const MAX_LAYERS = 4096;
const MAX_HEAD_DIM = 16384;

/**
 * Checks what no single field can tell: that the numbers fit together.
 *
 * @throws {ModelError} naming the numbers
 */
export function checkHeads(
  source: string,
  sizes: { numLayers: number; numHeads: number; numKvHeads: number; headDim: number },
): void {
  const { numLayers, numHeads, numKvHeads, headDim } = sizes;
  if (headDim > MAX_HEAD_DIM) {
    throw new ModelError(
      `${source}: head dimension ${headDim}; at most ${MAX_HEAD_DIM} is accepted`,
    );
  }
  if (numLayers > MAX_LAYERS) {
    throw new ModelError(`${source}: ${numLayers} layers; at most ${MAX_LAYERS} are accepted`);
  }
  if (numHeads % numKvHeads !== 0) {
    throw new ModelError(
      `${source}: ${numHeads} attention heads are not a multiple of ${numKvHeads} key/value heads`,
    );
  }
}

/**
 * Head dimension where a file does not state it.
 *
 * @throws {ModelError} if hidden size and heads do not divide
 */
export function defaultHeadDim(source: string, hiddenSize: number, numHeads: number): number {
  if (hiddenSize % numHeads !== 0) {
    throw new ModelError(
      `${source}: no head dimension is stated, and hidden size ${hiddenSize} is not a multiple of ${numHeads} heads`,
    );
  }
  return hiddenSize / numHeads;
}

const ACTIVATIONS: Readonly<Record<string, ActivationKind>> = {
  silu: 'silu',
  swish: 'silu',
  gelu: 'gelu',
  gelu_new: 'geluTanh',
  gelu_pytorch_tanh: 'geluTanh',
  relu: 'relu',
};

/** @throws {UnsupportedModelError} listing the accepted names */
export function activationNamed(source: string, name: string): ActivationKind {
  const kind = Object.hasOwn(ACTIVATIONS, name) ? ACTIVATIONS[name] : undefined;
  if (kind === undefined) {
    const expected = Object.keys(ACTIVATIONS).join(', ');
    throw new UnsupportedModelError(
      `${source}: activation "${name}" is not supported; accepted: ${expected}`,
      { seen: name, expected },
    );
  }
  return kind;
}
