/**
 * What one token costs by the model file alone: bytes of weights and multiply-adds. The same for every engine, whatever it packs the weights
 * into. Knows GGUF names of embeddings and heads, not architectures.
 */
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
  const embedding = weights.tensors.get('token_embd.weight');
  if (embedding === undefined) {
    throw new Error(`${path}: no tensor "token_embd.weight"; expected a GGUF language model`);
  }
  const hasHead = weights.tensors.has('output.weight');
  let decodeBytes = 0;
  let layerOps = 0;
  let headOps = 0;
  for (const { name, shape, sizeBytes } of weights.tensors.values()) {
    const ops = shape.length === 2 ? 2 * shape[0]! * shape[1]! : 0;
    if (name === 'token_embd.weight' && hasHead) continue; // One row of it.
    decodeBytes += sizeBytes;
    if (name === 'token_embd.weight' || name === 'output.weight') headOps = ops;
    else layerOps += ops;
  }
  const vocabSize = embedding.shape[0]!;
  return { fileBytes: weights.sizeBytes, vocabSize, decodeBytes, layerOps, headOps };
}

/** Operations per token of a prompt of `numTokens` of which only the last one's logits are wanted. */
export function prefillOpsPerToken(work: ModelWork, numTokens: number): number {
  return work.layerOps + work.headOps / numTokens;
}
