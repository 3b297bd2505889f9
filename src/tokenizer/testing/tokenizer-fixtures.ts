/** Reads the tokenizer fixtures for tests; they are compressed, a plain tokenizer.json has 10 MB. */
import { readFileSync } from 'node:fs';
import { brotliDecompressSync } from 'node:zlib';
import type { Tokenizer } from '../contract.ts';
import { tokenizerFromGguf } from '../gguf-tokenizer.ts';
import { tokenizerFromHfFiles } from '../hf-tokenizer.ts';

export interface ReferenceRow {
  readonly category: string;
  readonly text: string;
  readonly ids: readonly number[];
  /** Where it differs from `text`. */
  readonly decoded?: string;
  readonly decoded_skip_special?: string;
  readonly ids_special_as_text?: readonly number[];
}

export type FixtureName = 'smollm2' | 'gemma3' | 'qwen3' | 'llama3_1';
export const fixtureNames: readonly FixtureName[] = ['smollm2', 'gemma3', 'qwen3', 'llama3_1'];

const FOLDER = new URL('../../../test/fixtures/tokenizer/', import.meta.url);
const tokenizers = new Map<FixtureName, Tokenizer>();

export function readFixture(name: string): unknown {
  const bytes = brotliDecompressSync(readFileSync(new URL(`${name}.json.br`, FOLDER)));
  return JSON.parse(bytes.toString('utf8'));
}

/** GGUF metadata as a reader gives it. */
function readMetadata(name: 'smollm2' | 'gemma3'): Map<string, unknown> {
  const metadata = new Map<string, unknown>();
  for (const [key, value] of Object.entries(readFixture(`${name}.gguf-metadata`) as object)) {
    if (value?.Int32Array) metadata.set(key, Int32Array.from(value.Int32Array));
    else if (value?.Float32Array) metadata.set(key, Float32Array.from(value.Float32Array));
    else metadata.set(key, value);
  }
  return metadata;
}

/** Built once per test process. */
export function fixtureTokenizer(name: FixtureName): Tokenizer {
  let tokenizer = tokenizers.get(name);
  if (tokenizer === undefined) {
    tokenizer =
      name === 'smollm2' || name === 'gemma3'
        ? tokenizerFromGguf(readMetadata(name))
        : tokenizerFromHfFiles({
            tokenizer: readFixture(`${name}.tokenizer`),
            config: readFixture(`${name}.tokenizer_config`),
          });
    tokenizers.set(name, tokenizer);
  }
  return tokenizer;
}

export function referenceRows(name: FixtureName): readonly ReferenceRow[] {
  return (readFixture(`${name}.reference`) as { rows: ReferenceRow[] }).rows;
}
