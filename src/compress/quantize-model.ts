/** A model on disk → a GGUF file of another type, by the rule of its file type. */
import type { ModelConfig } from '../models/model-config.ts';
import type { DType } from '../tensor/dtype.ts';
import { openWeights } from '../weights/weight-source.ts';
import { type FileTypeName, fileTypeId, recipeType } from './ggml-recipe.ts';
import { quantizeGguf } from './quantize-gguf.ts';

export interface QuantizeModelOptions {
  readonly fileType: FileTypeName;
  /** Mean squared input per channel, by GGUF's tensor names. */
  readonly importance?: ReadonlyMap<string, Float32Array>;
  readonly signal?: AbortSignal;
  onProgress?(doneBytes: number, totalBytes: number): void;
}

export interface QuantizeReport {
  readonly sizeBytes: number;
  readonly bitsPerWeight: number;
  /** Tensors by their new type. */
  readonly typeCounts: Readonly<Partial<Record<DType, number>>>;
}

/**
 * @param config of the model at `modelPath`
 * @throws {CompressError} if it cannot be done
 */
export async function quantizeModel(
  modelPath: string,
  config: ModelConfig,
  outputPath: string,
  { fileType, importance, signal, onProgress }: QuantizeModelOptions,
): Promise<QuantizeReport> {
  using source = openWeights(modelPath);
  const model = {
    numLayers: config.numLayers,
    queriesPerKv: config.numHeads / config.numKvHeads,
    tiedEmbeddings: config.tiedEmbeddings,
    hasImportance: importance !== undefined,
  };
  const { sizeBytes, bitsPerWeight, tensors } = await quantizeGguf(source, outputPath, {
    typeOf: (tensor) => recipeType(fileType, tensor, model),
    fileType: fileTypeId(fileType),
    ...(importance && { importance }),
    ...(signal && { signal }),
    ...(onProgress && { onProgress }),
  });
  const typeCounts: Partial<Record<DType, number>> = {};
  for (const { to } of tensors) typeCounts[to] = (typeCounts[to] ?? 0) + 1;
  return { sizeBytes, bitsPerWeight, typeCounts };
}
