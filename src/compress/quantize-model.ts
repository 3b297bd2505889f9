/** A model on disk → a GGUF file of another type, by the rule of its file type. */
import type { ModelConfig } from '../models/model-config.ts';
import type { DType } from '../tensor/dtype.ts';
import type { WeightSource } from '../weights/contract.ts';
import type { GgufEntry } from '../weights/gguf-header.ts';
import { openWeights } from '../weights/weight-source.ts';
import { type FileTypeName, fileTypeId, mixedFileTypeId, recipeType } from './ggml-recipe.ts';
import type { Imatrix } from './imatrix.ts';
import { type MetadataToWrite, quantizeGguf } from './quantize-gguf.ts';

export interface QuantizeModelOptions {
  /** By the rule of a file type, or a type for each tensor by name; others stay as they are. */
  readonly types: FileTypeName | ReadonlyMap<string, DType>;
  /** What the error of each channel counts, and the name of the file that says so. */
  readonly imatrix?: Imatrix & { readonly file: string };
  /** The model in GGUF's terms where it is no GGUF file, with all metadata. */
  readonly converted?: { readonly source: WeightSource; readonly metadata: MetadataToWrite };
  readonly signal?: AbortSignal;
  /** That encode; one per core where left out. */
  readonly threads?: number;
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
  { types, imatrix, converted, signal, threads, onProgress }: QuantizeModelOptions,
): Promise<QuantizeReport> {
  using opened = converted === undefined ? openWeights(modelPath) : null;
  const source = converted?.source ?? opened!;
  const model = {
    numLayers: config.numLayers,
    queriesPerKv: config.numHeads / config.numKvHeads,
    tiedEmbeddings: config.tiedEmbeddings,
    hasImportance: imatrix !== undefined,
  };
  const { sizeBytes, bitsPerWeight, tensors } = await quantizeGguf(source, outputPath, {
    typeOf: (tensor) =>
      typeof types === 'string'
        ? recipeType(types, tensor, model)
        : (types.get(tensor.name) ?? tensor.dtype),
    fileType: typeof types === 'string' ? fileTypeId(types) : mixedFileTypeId([...types.values()]),
    ...(converted && { ownMetadata: converted.metadata }),
    ...(imatrix && { importance: imatrix.importance, metadata: imatrixMetadata(imatrix) }),
    ...(signal && { signal }),
    ...(threads !== undefined && { threads }),
    ...(onProgress && { onProgress }),
  });
  const typeCounts: Partial<Record<DType, number>> = {};
  for (const { to } of tensors) typeCounts[to] = (typeCounts[to] ?? 0) + 1;
  return { sizeBytes, bitsPerWeight, typeCounts };
}

/** What llama.cpp's quantizer leaves in a file. */
function imatrixMetadata(
  imatrix: NonNullable<QuantizeModelOptions['imatrix']>,
): Map<string, GgufEntry> {
  const { file, dataset, importance, numChunks } = imatrix;
  return new Map<string, GgufEntry>([
    ['quantize.imatrix.file', { type: 'string', value: file }],
    ...(dataset === null
      ? []
      : [['quantize.imatrix.dataset', { type: 'string', value: dataset }] as const]),
    ['quantize.imatrix.entries_count', { type: 'i32', value: importance.size }],
    ['quantize.imatrix.chunks_count', { type: 'i32', value: numChunks }],
  ]);
}
