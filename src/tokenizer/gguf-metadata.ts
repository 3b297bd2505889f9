/**
 * A tokenizer.json as GGUF metadata (`tokenizer.*`): byte-level BPE whose pre-tokenizer llama.cpp knows by name, and what was made of a SentencePiece BPE model.
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
  string | boolean | number | readonly string[] | Int32Array | Float32Array
>;

/** `tokenizer.ggml.token_type`. */
const NORMAL = 1;
const UNKNOWN = 2;
const CONTROL = 3;
const USER_DEFINED = 4;
const UNUSED = 5;
const BYTE = 6;

/** Names that are tried, the usual ones first. */
const PREFERRED = [
  'llama-bpe',
  'qwen2',
  'smollm',
  'gpt-2',
  'tekken',
  'gpt-4o',
  'stablelm2',
  'glm4',
];

/**
 * @param vocabSize rows of the model's embeddings; ids beyond the tokenizer's become unused tokens
 * @throws {TokenizerError} if it is neither kind of BPE, or its pre-tokenizer has no name in llama.cpp
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
  const isSentencePiece = asFlag(model.byte_fallback, 'model.byte_fallback');
  const size = isSentencePiece ? vocabSize : Math.max(vocabSize, tokenizer.vocabSize);
  const metadata: TokenizerMetadata = new Map<string, never>();
  const { tokens, types } = tokensOf(root, model, tokenizer, size);
  if (isSentencePiece) {
    metadata.set('tokenizer.ggml.model', 'llama');
    metadata.set('tokenizer.ggml.pre', 'default');
    metadata.set('tokenizer.ggml.add_space_prefix', addsSpacePrefix(root));
    metadata.set('tokenizer.ggml.scores', scoresOf(model, tokenizer, size));
    const unknown = model.unk_token == null ? undefined : tokens.indexOf(String(model.unk_token));
    if (unknown !== undefined && unknown >= 0) {
      metadata.set('tokenizer.ggml.unknown_token_id', unknown);
    }
  } else {
    const pre = preTokenizerName(root, asFlag(model.ignore_merges, 'model.ignore_merges'));
    metadata.set('tokenizer.ggml.model', 'gpt2');
    metadata.set('tokenizer.ggml.pre', pre);
    metadata.set(
      'tokenizer.ggml.merges',
      mergesOf(model).map((pair) => pair.join(' ')),
    );
  }
  metadata.set('tokenizer.ggml.tokens', tokens);
  metadata.set('tokenizer.ggml.token_type', types);
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

function tokensOf(
  root: JsonObject,
  model: JsonObject,
  tokenizer: Tokenizer,
  size: number,
): { tokens: string[]; types: Int32Array } {
  const added = new Set(
    asArray(root.added_tokens ?? [], 'added_tokens').map((token) =>
      asString(asObject(token, 'added_tokens').content, 'added_tokens.content'),
    ),
  );
  const hasBytes = asFlag(model.byte_fallback, 'model.byte_fallback');
  const types = new Int32Array(size).fill(UNUSED);
  const typeOf = (token: string, id: number): number => {
    if (hasBytes && token === model.unk_token) return UNKNOWN;
    if (added.has(token)) return tokenizer.isSpecial(id) ? CONTROL : USER_DEFINED;
    return hasBytes && /^<0x[0-9A-Fa-f]{2}>$/.test(token) ? BYTE : NORMAL;
  };
  const tokens = Array.from({ length: size }, (_, id) => {
    const token = id < tokenizer.vocabSize ? tokenizer.idToToken(id) : undefined;
    if (token === undefined || token === '') return `[PAD${id}]`;
    types[id] = typeOf(token, id);
    // llama.cpp looks for these in the text as it is typed.
    return hasBytes && types[id] === USER_DEFINED ? token.replaceAll('\u2581', ' ') : token;
  });
  return { tokens, types };
}

/** Pairs, also where the file has `a b`. */
function mergesOf(model: JsonObject): [string, string][] {
  return asArray(model.merges, 'model.merges').map((merge) => {
    const parts =
      typeof merge === 'string'
        ? merge.split(' ')
        : asArray(merge, 'model.merges').map((part) => asString(part, 'model.merges'));
    if (parts.length !== 2) {
      throw new TokenizerError(
        `a merge has ${parts.length} parts: ${JSON.stringify(merge).slice(0, 80)}; expected 2`,
      );
    }
    return parts as [string, string];
  });
}

/**
 * SentencePiece joins the two pieces whose union has the highest score. The merges were listed by that score, so a piece's is the place of the first merge that
 * makes it; those that none makes are never joined into and have the lowest.
 */
function scoresOf(model: JsonObject, tokenizer: Tokenizer, size: number): Float32Array {
  const merges = mergesOf(model);
  const scores = new Float32Array(size).fill(-merges.length);
  for (let rank = merges.length - 1; rank >= 0; rank--) {
    const [left, right] = merges[rank]!;
    const id = tokenizer.tokenToId(left + right);
    if (id !== undefined && id < size) scores[id] = -rank;
  }
  return scores;
}

/** @throws {TokenizerError} if spaces are not written as U+2581 */
function addsSpacePrefix(root: JsonObject): boolean {
  const steps = JSON.stringify([root.normalizer ?? null, root.pre_tokenizer ?? null]);
  const marksSpaces =
    /"pattern":\{"String":" "\},"content":"\u2581"/.test(steps) || steps.includes('"Metaspace"');
  if (!marksSpaces) {
    throw new TokenizerError(
      'it falls back to bytes but does not write spaces as U+2581: neither kind of BPE that can be written to GGUF',
    );
  }
  return /"Prepend"|"prepend_scheme":"(?:always|first)"|"add_prefix_space":true/.test(steps);
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
