/**
 * What one token costs by the model file alone: bytes of weights and multiply-adds. The same for every engine, whatever it packs the weights
 * into. Knows the names of embeddings and heads in GGUF files and in opened models, not architectures.
 */
import type { WeightSource } from '../../src/weights/contract.ts';
import { openWeights } from '../../src/weights/weight-source.ts';

export interface ModelWork {
  readonly fileBytes: number;
  readonly vocabSize: number;
  /** Weights that decoding one token reads: everything but an embedding table of which only a row is looked up. KV cache not counted. */
  readonly decodeBytes: number;
  /** Operations (a multiply-add is two) of all matrices but the head, per token. Attention not counted. */
  readonly layerOps: number;
  /** Operations of the head, per token whose logits are wanted. */
  readonly headOps: number;
}

/** @throws {WeightFileError} if the file is no sound model */
export function modelWork(path: string): ModelWork {
  using weights = openWeights(path);
  return workOf(weights);
}

const EMBEDDINGS = ['token_embd.weight', 'model.embed_tokens.weight'];
const HEADS = ['output.weight', 'lm_head.weight'];

/** Of tensors as they are given: of a file, or of an opened model, which may have been quantized while loading. */
export function workOf(weights: WeightSource): ModelWork {
  const [embedding] = EMBEDDINGS.flatMap((name) => weights.tensors.get(name) ?? []);
  if (embedding === undefined) {
    throw new Error(
      `${weights.path}: no tensor "${EMBEDDINGS.join('" or "')}"; expected a language model`,
    );
  }
  const hasHead = HEADS.some((name) => weights.tensors.has(name));
  let decodeBytes = 0;
  let layerOps = 0;
  let headOps = 0;
  for (const { name, shape, sizeBytes } of weights.tensors.values()) {
    const ops = shape.length === 2 ? 2 * shape[0]! * shape[1]! : 0;
    const isEmbedding = name === embedding.name;
    if (isEmbedding && hasHead) continue; // One row of it.
    decodeBytes += sizeBytes;
    if (isEmbedding || HEADS.includes(name)) headOps = ops;
    else layerOps += ops;
  }
  const vocabSize = embedding.shape[0]!;
  return { fileBytes: weights.sizeBytes, vocabSize, decodeBytes, layerOps, headOps };
}

/** Operations per token of a prompt of `numTokens` of which only the last one's logits are wanted. */
export function prefillOpsPerToken(work: ModelWork, numTokens: number): number {
  return work.layerOps + work.headOps / numTokens;
}
