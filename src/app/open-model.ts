/** A model's files opened: numbers read, tokenizer at hand. Runs nothing. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  type LoadModelOptions,
  loadModelDescription,
  type ModelDescription,
} from '../models/load-model.ts';
import { HastenError } from '../platform/errors.ts';
import { byteTokenizer } from '../tokenizer/byte-tokenizer.ts';
import { type Tokenizer, tokenizerFromGguf, tokenizerFromHf } from '../tokenizer/tokenizer.ts';

/** The model has no tokenizer, so it takes and gives token ids only. */
export class NoTokenizerError extends HastenError {
  constructor(path: string) {
    super(
      'no_tokenizer',
      `${path}: the model has no tokenizer, so it takes token ids only (--token-ids)`,
    );
  }
}

export class OpenedModel implements Disposable {
  readonly description: ModelDescription;
  #tokenizer: Tokenizer | null | undefined;

  /** @throws {ModelError | WeightFileError} if the files are not sound */
  constructor(path: string, options: LoadModelOptions = {}) {
    this.description = loadModelDescription(path, options);
  }

  /** null: the model has none. @throws {TokenizerError} if it has one that cannot be used */
  get tokenizer(): Tokenizer | null {
    if (this.#tokenizer === undefined) this.#tokenizer = loadTokenizer(this.description);
    return this.#tokenizer;
  }

  /** @throws {NoTokenizerError} if the model has none */
  requireTokenizer(): Tokenizer {
    const { tokenizer } = this;
    if (tokenizer === null) throw new NoTokenizerError(this.description.path);
    return tokenizer;
  }

  /** Every id that ends a text, from all places that name one. */
  get eosTokenIds(): readonly number[] {
    const { eosTokenIds } = this.description.config;
    return [...new Set([...eosTokenIds, ...(this.tokenizer?.eosTokenIds ?? [])])];
  }

  [Symbol.dispose](): void {
    this.description[Symbol.dispose]();
  }
}

function loadTokenizer({ path, format, weights, config }: ModelDescription): Tokenizer | null {
  if (format === 'gguf') {
    const kind = weights.metadata.get('tokenizer.ggml.model');
    return kind === undefined || kind === 'none' ? null : tokenizerFromGguf(weights.metadata);
  }
  if (existsSync(join(path, 'tokenizer.json'))) return tokenizerFromHf(path);
  return isByteModel(path) ? byteTokenizer(config.vocabSize) : null;
}

/** A model folder of our own making may say that its tokens are bytes, and then needs no tokenizer file. */
function isByteModel(folder: string): boolean {
  const marker = join(folder, 'hasten.json');
  if (!existsSync(marker)) return false;
  return (
    (JSON.parse(readFileSync(marker, 'utf8')) as { tokenizer?: unknown }).tokenizer === 'bytes'
  );
}
