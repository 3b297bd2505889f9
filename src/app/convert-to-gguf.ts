/** A Hugging Face model as what a GGUF file of it holds: tensors, and metadata with the tokenizer's. */
import { GgufView, type ModelMetadata } from '../models/gguf-view.ts';
import { ggufTokenizerMetadata, type TokenizerMetadata } from '../tokenizer/gguf-metadata.ts';
import type { OpenedModel } from './open-model.ts';

type MetadataValue = Parameters<ModelMetadata['set']>[1] | Parameters<TokenizerMetadata['set']>[1];

/**
 * @returns null for a model that is a GGUF file
 * @throws {UnsupportedModelError | TokenizerError} if GGUF has no way to say it
 */
export function convertedToGguf({ description }: OpenedModel): {
  readonly source: GgufView;
  /** The same with every matrix as the model has it. */
  readonly inStoredOrder: GgufView;
  readonly metadata: ReadonlyMap<string, MetadataValue>;
} | null {
  if (description.format === 'gguf') return null;
  const source = new GgufView(description);
  const metadata = new Map<string, MetadataValue>(source.entries);
  const tokenizer = ggufTokenizerMetadata(description.path, description.config.vocabSize);
  for (const [key, value] of tokenizer) metadata.set(key, value);
  return { source, metadata, inStoredOrder: new GgufView(description, 'stored') };
}
