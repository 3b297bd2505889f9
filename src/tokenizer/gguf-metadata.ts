/**
 * A tokenizer.json of byte-level BPE as GGUF metadata (`tokenizer.*`). Only what GGUF can say: the pre-tokenizer must be one that llama.cpp knows by name.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Tokenizer } from './contract.ts';
import { TokenizerError } from './errors.ts';
import { namedPreTokenizers } from './gguf-pre-tokenizers.ts';
import { tokenizerFromHf } from './hf-tokenizer.ts';
import { asArray, asFlag, asObject, asString, type JsonObject } from './json-value.ts';
import { GPT2_PATTERN } from './pre-tokenizer.ts';

/** Values as a GGUF writer takes them. */
export type TokenizerMetadata = Map<
  string,
  string | boolean | number | readonly string[] | Int32Array
>;

/** `tokenizer.ggml.token_type`. */
const NORMAL = 1;
const CONTROL = 3;
const USER_DEFINED = 4;
const UNUSED = 5;

/** Names that are tried, the usual ones first. */
const PREFERRED = ['llama-bpe', 'qwen2', 'smollm', 'gpt-2', 'tekken', 'gpt-4o', 'stablelm2'];

/**
 * @param vocabSize rows of the model's embeddings; ids beyond the tokenizer's become unused tokens
 * @throws {TokenizerError} if it is no byte-level BPE, or its pre-tokenizer has no name in llama.cpp
 */
export function ggufTokenizerMetadata(folder: string, vocabSize: number): TokenizerMetadata {
  const tokenizer = tokenizerFromHf(folder);
  const file = join(folder, 'tokenizer.json');
  try {
    return metadataOf(JSON.parse(readFileSync(file, 'utf8')), tokenizer, vocabSize);
  } catch (cause) {
    if (!(cause instanceof TokenizerError)) throw cause;
    throw new TokenizerError(`${file}: ${cause.message}`, { cause });
  }
}

/** As `ggufTokenizerMetadata`, of a parsed file and the tokenizer made of it. */
export function metadataOf(
  json: unknown,
  tokenizer: Tokenizer,
  vocabSize: number,
): TokenizerMetadata {
  const root = asObject(json, 'tokenizer.json');
  const model = asObject(root.model, 'model');
  const pre = preTokenizerName(root, asFlag(model.ignore_merges, 'model.ignore_merges'));
  const size = Math.max(vocabSize, tokenizer.vocabSize);
  const added = new Set(
    asArray(root.added_tokens ?? [], 'added_tokens').map((token) =>
      asString(asObject(token, 'added_tokens').content, 'added_tokens.content'),
    ),
  );
  const types = new Int32Array(size).fill(UNUSED);
  const tokens = Array.from({ length: size }, (_, id) => {
    const token = id < tokenizer.vocabSize ? tokenizer.idToToken(id) : undefined;
    if (token === undefined || token === '') return `[PAD${id}]`;
    types[id] = !added.has(token) ? NORMAL : tokenizer.isSpecial(id) ? CONTROL : USER_DEFINED;
    return token;
  });
  const metadata: TokenizerMetadata = new Map<string, never>();
  metadata.set('tokenizer.ggml.model', 'gpt2');
  metadata.set('tokenizer.ggml.pre', pre);
  metadata.set('tokenizer.ggml.tokens', tokens);
  metadata.set('tokenizer.ggml.token_type', types);
  metadata.set('tokenizer.ggml.merges', mergesOf(model));
  const { bosTokenId, eosTokenIds, addsBos, addsEos, chatTemplates } = tokenizer;
  if (bosTokenId !== null) metadata.set('tokenizer.ggml.bos_token_id', bosTokenId);
  if (eosTokenIds[0] !== undefined) metadata.set('tokenizer.ggml.eos_token_id', eosTokenIds[0]);
  metadata.set('tokenizer.ggml.add_bos_token', addsBos);
  metadata.set('tokenizer.ggml.add_eos_token', addsEos);
  for (const [name, template] of chatTemplates ?? []) {
    const suffix = name === 'default' ? '' : `.${name}`;
    metadata.set(`tokenizer.chat_template${suffix}`, template);
  }
  return metadata;
}

/** `a b`, also where the file has pairs. */
function mergesOf(model: JsonObject): string[] {
  return asArray(model.merges, 'model.merges').map((merge) => {
    if (typeof merge === 'string') return merge;
    return asArray(merge, 'model.merges')
      .map((part) => asString(part, 'model.merges'))
      .join(' ');
  });
}

function preTokenizerName(root: JsonObject, ignoresMerges: boolean): string {
  const patterns = patternsOf(root.pre_tokenizer);
  const composes = JSON.stringify(root.normalizer ?? null).includes('"NFC"');
  const name = [...PREFERRED, ...namedPreTokenizers.keys()].find((each) => {
    const known = namedPreTokenizers.get(each);
    return (
      known !== undefined &&
      JSON.stringify(known.patterns) === JSON.stringify(patterns) &&
      (known.ignoreMerges ?? false) === ignoresMerges &&
      (known.composes ?? false) === composes
    );
  });
  if (name !== undefined) return name;
  throw new TokenizerError(
    `its pre-tokenizer ${JSON.stringify(patterns).slice(0, 200)} has no name in GGUF; llama.cpp's converter may know the model`,
  );
}

/** The regular expressions of a byte-level pre-tokenizer, in order. */
function patternsOf(json: unknown): string[] {
  const spec = asObject(json, 'pre_tokenizer');
  switch (spec.type) {
    case 'Sequence':
      return asArray(spec.pretokenizers, 'pretokenizers').flatMap(patternsOf);
    case 'ByteLevel':
      return asFlag(spec.use_regex, 'use_regex', true) ? [GPT2_PATTERN] : [];
    case 'Digits':
      return [asFlag(spec.individual_digits, 'individual_digits') ? '\\p{N}' : '\\p{N}+'];
    case 'Split':
      return [asString(asObject(spec.pattern, 'pattern').Regex, 'pattern.Regex')];
    default:
      throw new TokenizerError(
        `pre-tokenizer "${String(spec.type)}" is not one of byte-level BPE, which is what can be written to GGUF`,
      );
  }
}
