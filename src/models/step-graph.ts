/**
 * The program `step` of a decoder model: token ids and positions of a ragged step → final hidden state and logits of the rows that are wanted.
 * What differs between architectures is in `architectures/`.
 */
import { GraphBuilder } from '../graph/builder.ts';
import type { Graph } from '../graph/ir.ts';
import type { WeightDirectory } from '../graph/weight-ref.ts';
import type { WeightSource } from '../weights/contract.ts';
import { DecoderLayer, offsetWeight } from './decoder-layer.ts';
import { ModelError } from './errors.ts';
import type { ModelConfig } from './model-config.ts';
import { ModelTensors } from './model-tensors.ts';
import { architectureNamed } from './registry.ts';

/** Where the model begins and ends, by canonical tensor names. */
const EMBEDDING = 'model.embed_tokens.weight';
const FINAL_NORM = 'model.norm.weight';
const OUTPUT = 'lm_head.weight';

/** What a `ModelDescription` has of it. */
export interface DescribedModel {
  readonly config: ModelConfig;
  readonly weights: WeightSource;
}

/**
 * @param directory the model's tensors by canonical names, such as `WeightSource.tensors` of a loaded model
 * @throws {ModelError} naming the tensor, the shape seen and the shape that `config` needs
 */
export function buildStepGraph(config: ModelConfig, directory: WeightDirectory): Graph {
  const architecture = architectureNamed(config.architecture);
  const builder = new GraphBuilder();
  const tensors = new ModelTensors(builder, directory);
  const { vocabSize, hiddenSize, normEps } = config;

  const table = tensors.matrix(EMBEDDING, vocabSize, hiddenSize);
  const tokenIds = builder.input('tokenIds');
  let x = builder.embed(table, tokenIds, config.embeddingScale, 'embed_tokens'); // f32 [T, hiddenSize]
  for (let index = 0; index < config.numLayers; index++) {
    x = architecture.decoderLayer(new DecoderLayer(builder, tensors, config, index), x);
  }

  const rows = builder.selectRows(x, builder.input('logitRows'), 'wanted_rows'); // f32 [R, hiddenSize]
  const stored = tensors.vector(FINAL_NORM, hiddenSize);
  const weight = offsetWeight(builder, stored, config.normWeightOffset);
  const normed = builder.rmsNorm({ x: rows, weight, eps: normEps, groupSize: hiddenSize }, 'norm');
  const output = config.tiedEmbeddings ? EMBEDDING : OUTPUT;
  const head = builder.firstRows(normed, 'logit_rows'); // f32 [L, hiddenSize]
  const logits = tensors.linear(head, output, vocabSize, 'lm_head'); // f32 [L, vocabSize]
  return builder.finish(
    'step',
    config.logitSoftcap === null ? logits : builder.softcap(logits, config.logitSoftcap, 'softcap'),
  );
}

/**
 * `buildStepGraph` of a loaded model.
 *
 * @throws {ModelError} naming the file too
 */
export function stepGraphOf({ config, weights }: DescribedModel): Graph {
  try {
    return buildStepGraph(config, weights.tensors);
  } catch (error) {
    throw error instanceof ModelError ? withPath(error, weights.path) : error;
  }
}

function withPath(error: ModelError, modelPath: string): ModelError {
  if (error.message.includes(modelPath)) return error;
  const { code, tensor, seen, expected } = error;
  return new ModelError(
    `${modelPath}: ${error.message}`,
    {
      code,
      tensor: tensor ?? undefined,
      seen: seen ?? undefined,
      expected: expected ?? undefined,
    },
    { cause: error },
  );
}
