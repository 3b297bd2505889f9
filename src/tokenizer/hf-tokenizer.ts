/**
 * Makes a tokenizer from a Hugging Face model folder: `tokenizer.json` and, where present, `tokenizer_config.json`,
 * `special_tokens_map.json` and the chat template files. Knows their layout; BPE only, as all models that hasten runs use.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { StringList } from '../platform/string-list.ts';
import { type AddedToken, AddedTokens } from './added-tokens.ts';
import { bridgeCutStep } from './bridge-cuts.ts';
import type { Tokenizer } from './contract.ts';
import { endOfTurnIds } from './end-of-turn.ts';
import { TokenizerError } from './errors.ts';
import { parseDecoder } from './hf-decoder.ts';
import { type Normalizer, parseNormalizer } from './hf-normalizer.ts';
import { idsAround } from './hf-post-processor.ts';
import { parsePreTokenizer } from './hf-pre-tokenizer.ts';
import { asArray, asFlag, asObject, asString, type JsonObject, shortJson } from './json-value.ts';
import { Merger } from './merger.ts';
import { MergeTable } from './merges.ts';
import { type EncodingParts, ModelTokenizer } from './model-tokenizer.ts';
import type { Spelling } from './token-bytes.ts';
import { describe, Vocabulary } from './vocabulary.ts';

/** The files of a tokenizer, parsed; only `tokenizer` is required. */
export interface HfTokenizerFiles {
  /** tokenizer.json */
  readonly tokenizer: unknown;
  /** tokenizer_config.json */
  readonly config?: unknown;
  /** special_tokens_map.json */
  readonly specialTokensMap?: unknown;
  /** Chat templates by name, from files of their own; they win over those in the configuration. */
  readonly chatTemplates?: ReadonlyMap<string, string>;
}

/** As `MAX_TOKENS` in `vocabulary.ts`: an id beyond it would ask for as much memory. */
const MAX_ID = (1 << 22) - 1;

/**
 * @param folder a model folder as `transformers` saves it
 * @throws {TokenizerError} if `tokenizer.json` is missing, malformed or of another kind than BPE
 */
export function tokenizerFromHf(folder: string): Tokenizer {
  const path = join(folder, 'tokenizer.json');
  if (!existsSync(path)) {
    throw new TokenizerError(
      `${folder}: no tokenizer.json; it is the only tokenizer file read (save one with transformers: AutoTokenizer.from_pretrained(...).save_pretrained(...))`,
    );
  }
  const parsed = (name: string): unknown => {
    const file = join(folder, name);
    return existsSync(file) ? parseJson(readFileSync(file, 'utf8'), file) : undefined;
  };
  const files: HfTokenizerFiles = {
    tokenizer: parsed('tokenizer.json'),
    config: parsed('tokenizer_config.json'),
    specialTokensMap: parsed('special_tokens_map.json'),
    chatTemplates: readTemplateFiles(folder, parsed('chat_template.json')),
  };
  try {
    return tokenizerFromHfFiles(files);
  } catch (cause) {
    if (!(cause instanceof TokenizerError)) throw cause;
    throw new TokenizerError(`${path}: ${cause.message}`, { cause });
  }
}

/** As `tokenizerFromHf`, from parsed files. */
export function tokenizerFromHfFiles(files: HfTokenizerFiles): Tokenizer {
  const root = asObject(files.tokenizer, 'tokenizer.json');
  const config = files.config === undefined ? {} : asObject(files.config, 'tokenizer_config.json');
  const model = asObject(root.model, 'model');
  checkModel(model);

  const added = readAddedTokens(root, config);
  const pre = parsePreTokenizer(root.pre_tokenizer);
  const decoder = parseDecoder(root.decoder);
  const isByteLevel = pre.isByteLevel || decoder.isByteLevel;
  const isSpaceMarked = pre.isSpaceMarked || decoder.isSpaceMarked;
  const spelling: Spelling = isByteLevel ? 'byte-level' : isSpaceMarked ? 'space-mark' : 'plain';
  const { vocabulary, byteIds, unindexedIds } = vocabularyOf(model, added, spelling);

  const specials = new Uint8Array(vocabulary.size);
  const addedIds = new Map<string, number>();
  for (const { id, content, isSpecial } of added) {
    if (isSpecial) specials[id] = 1;
    addedIds.set(content, id);
    unindexedIds.set(content, id);
  }
  const idOf = (text: string | undefined): number | null => {
    if (text === undefined) return null;
    const id = addedIds.get(text) ?? vocabulary.findSpelling(text);
    return id < 0 ? null : id;
  };
  const named = namedTokens(config, files.specialTokensMap);
  const bosTokenId = idOf(named.get('bos_token'));
  const eosTokenId = idOf(named.get('eos_token'));
  const around = idsAround(root.post_processor, config, bosTokenId, eosTokenId);
  for (const id of [...around.prefixIds, ...around.suffixIds]) {
    if (!(Number.isInteger(id) && id >= 0 && id < vocabulary.size)) {
      throw new TokenizerError(
        `post_processor names token id ${shortJson(id)}, which is not in the vocabulary`,
      );
    }
  }
  const unknownId = idOf(
    model.unk_token == null ? undefined : asString(model.unk_token, 'model.unk_token'),
  );
  const encoding = encodingOf(model, {
    ...{ added, pre, isByteLevel, vocabulary, byteIds, unknownId },
    normalize: parseNormalizer(root.normalizer),
  });
  return new ModelTokenizer({
    vocabulary,
    encoding: () => encoding,
    specials,
    unindexedIds: () => unindexedIds,
    bosTokenId,
    eosTokenIds: endOfTurnIds([eosTokenId], (text) => addedIds.get(text)),
    ...around,
    stripsLeadingSpace: decoder.stripsLeadingSpace || (pre.isSpaceMarked && pre.addsSpace),
    chatTemplates: chatTemplates(config, files.chatTemplates),
  });
}

interface HfVocabulary {
  readonly vocabulary: Vocabulary;
  /** Ids of `<0x00>` to `<0xFF>`, -1 for those that there are not, i32 `[256]`; null where no bytes are fallen back to. */
  readonly byteIds: Int32Array | null;
  /** Those ids by their spelling. */
  readonly unindexedIds: Map<string, number>;
}

function vocabularyOf(
  model: JsonObject,
  added: readonly HfAddedToken[],
  spelling: Spelling,
): HfVocabulary {
  const { tokens, isInModel } = readVocabulary(model, added);
  const hasByteFallback = asFlag(model.byte_fallback, 'model.byte_fallback');
  const byteIds = new Int32Array(256).fill(-1);
  const unindexedIds = new Map<string, number>();
  const vocabulary = new Vocabulary({
    tokens: StringList.of(tokens),
    spelling,
    isIndexed: (id) => isInModel[id] === 1,
    byteOf(id) {
      if (!hasByteFallback) return undefined;
      const hex = /^<0x([0-9A-F]{2})>$/.exec(tokens[id]!)?.[1];
      if (hex === undefined) return undefined;
      byteIds[Number.parseInt(hex, 16)] = id;
      unindexedIds.set(tokens[id]!, id);
      return Number.parseInt(hex, 16);
    },
  });
  return { vocabulary, byteIds: hasByteFallback ? byteIds : null, unindexedIds };
}

interface EncodingSource extends Pick<HfVocabulary, 'vocabulary' | 'byteIds'> {
  readonly added: readonly HfAddedToken[];
  readonly pre: ReturnType<typeof parsePreTokenizer>;
  readonly isByteLevel: boolean;
  readonly unknownId: number | null;
  readonly normalize: Normalizer | null;
}

function encodingOf(model: JsonObject, source: EncodingSource): EncodingParts {
  const { added, pre, isByteLevel, vocabulary, byteIds, unknownId, normalize } = source;
  const fuseUnknown = asFlag(model.fuse_unk, 'model.fuse_unk');
  // Cutting is exact unless a run of unknown tokens across the cut would become one.
  const hasAllBytes = byteIds?.every((id) => id >= 0) ?? false;
  const isCutExact = !(fuseUnknown && unknownId !== null && !hasAllBytes);
  const cutsAtBridges = (pre.steps.length === 0 || !isByteLevel) && isCutExact;
  const normalized = added
    .filter((token) => token.isNormalized)
    .map((token) => ({ ...token, content: normalize?.(token.content) ?? token.content }));
  const merges = new MergeTable(vocabulary, asArray(model.merges, 'model.merges'), true);
  return {
    merger: new Merger(vocabulary, merges, {
      symbols: isByteLevel ? 'bytes' : 'characters',
      ignoreMerges: asFlag(model.ignore_merges, 'model.ignore_merges'),
      ...{ byteIds, unknownId, fuseUnknown },
    }),
    droppedBytes: isByteLevel && unknownId === null ? vocabulary.bytesWithoutToken() : null,
    addedTokens: new AddedTokens(added.filter((token) => !token.isNormalized)),
    normalizedAddedTokens: normalized.length === 0 ? null : new AddedTokens(normalized),
    normalize,
    steps: cutsAtBridges ? [...pre.steps, bridgeCutStep(vocabulary)] : pre.steps,
  };
}

function checkModel(model: JsonObject): void {
  // Files of before the type was written are BPE if they have merges.
  const type = model.type ?? (model.merges === undefined ? undefined : 'BPE');
  if (type !== 'BPE') {
    throw new TokenizerError(`model.type is ${shortJson(type)}; accepted: "BPE"`);
  }
  for (const key of ['continuing_subword_prefix', 'end_of_word_suffix']) {
    if (model[key]) {
      throw new TokenizerError(
        `model.${key} is ${shortJson(model[key])}; only an empty one is supported`,
      );
    }
  }
}

interface HfAddedToken extends AddedToken {
  readonly isNormalized: boolean;
}

/** The added tokens of tokenizer.json, then those that only tokenizer_config.json has. */
function readAddedTokens(root: JsonObject, config: JsonObject): HfAddedToken[] {
  const added = new Map<number, HfAddedToken>();
  const add = (id: unknown, json: unknown, place: string): void => {
    const spec = asObject(json, place);
    if (typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id > MAX_ID) {
      throw new TokenizerError(`${place} has the id ${shortJson(id)}; accepted: 0 to ${MAX_ID}`);
    }
    if (added.has(id)) return;
    const isSpecial = asFlag(spec.special, `${place}.special`);
    added.set(id, {
      id,
      content: asString(spec.content, `${place}.content`),
      isSpecial,
      stripsLeft: asFlag(spec.lstrip, `${place}.lstrip`),
      stripsRight: asFlag(spec.rstrip, `${place}.rstrip`),
      isSingleWord: asFlag(spec.single_word, `${place}.single_word`),
      isNormalized: asFlag(spec.normalized, `${place}.normalized`, !isSpecial),
    });
  };
  for (const [i, token] of asArray(root.added_tokens ?? [], 'added_tokens').entries()) {
    add(asObject(token, `added_tokens[${i}]`).id, token, `added_tokens[${i}]`);
  }
  const decoder = asObject(config.added_tokens_decoder ?? {}, 'added_tokens_decoder');
  for (const [id, token] of Object.entries(decoder)) {
    add(Number(id), token, `added_tokens_decoder[${shortJson(id)}]`);
  }
  return [...added.values()];
}

/** Tokens by id, an empty string for ids that are not given; and which are in the model's own vocabulary, u8. */
function readVocabulary(
  model: JsonObject,
  added: readonly HfAddedToken[],
): { tokens: string[]; isInModel: Uint8Array } {
  const vocab = asObject(model.vocab, 'model.vocab');
  const spellings = Object.keys(vocab);
  let size = 0;
  for (const spelling of spellings) {
    const id = vocab[spelling];
    if (typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id > MAX_ID) {
      throw new TokenizerError(
        `model.vocab[${JSON.stringify(spelling.slice(0, 80))}] is ${describe(id)}; expected an id from 0 to ${MAX_ID}`,
      );
    }
    if (id >= size) size = id + 1;
  }
  for (const { id } of added) if (id >= size) size = id + 1;
  const tokens = new Array<string>(size).fill('');
  const isInModel = new Uint8Array(size);
  for (const spelling of spellings) {
    const id = vocab[spelling] as number;
    if (isInModel[id] === 1) {
      throw new TokenizerError(
        `model.vocab gives id ${id} to both ${JSON.stringify(tokens[id]!.slice(0, 80))} and ${JSON.stringify(spelling.slice(0, 80))}`,
      );
    }
    tokens[id] = spelling;
    isInModel[id] = 1;
  }
  for (const { id, content } of added) {
    if (tokens[id] !== content) isInModel[id] = 0;
    tokens[id] = content;
  }
  return { tokens, isInModel };
}

/** `bos_token` and so on, from tokenizer_config.json, else special_tokens_map.json. */
function namedTokens(config: JsonObject, specialTokensMap: unknown): Map<string, string> {
  const map =
    specialTokensMap === undefined ? {} : asObject(specialTokensMap, 'special_tokens_map.json');
  const named = new Map<string, string>();
  for (const name of ['bos_token', 'eos_token']) {
    const value = config[name] ?? map[name];
    if (value === undefined || value === null) continue;
    const text = typeof value === 'string' ? value : asObject(value, name).content;
    named.set(name, asString(text, name));
  }
  return named;
}

/** Templates in tokenizer_config.json (one, or a list with names), overruled by files. */
function chatTemplates(
  config: JsonObject,
  files: ReadonlyMap<string, string> | undefined,
): Map<string, string> {
  const templates = new Map<string, string>();
  const value = config.chat_template;
  if (typeof value === 'string') templates.set('default', value);
  else if (value !== undefined && value !== null) {
    for (const [i, item] of asArray(value, 'chat_template').entries()) {
      const place = `chat_template[${i}]`;
      const spec = asObject(item, place);
      templates.set(
        asString(spec.name, `${place}.name`),
        asString(spec.template, `${place}.template`),
      );
    }
  }
  for (const [name, template] of files ?? []) templates.set(name, template);
  return templates;
}

function readTemplateFiles(folder: string, json: unknown): Map<string, string> {
  const templates = new Map<string, string>();
  if (json !== undefined) {
    const template = asObject(json, 'chat_template.json').chat_template;
    templates.set('default', asString(template, 'chat_template.json: chat_template'));
  }
  const file = join(folder, 'chat_template.jinja');
  if (existsSync(file)) templates.set('default', readFileSync(file, 'utf8'));
  const more = join(folder, 'additional_chat_templates');
  if (existsSync(more)) {
    for (const name of readdirSync(more)) {
      if (!name.endsWith('.jinja')) continue;
      templates.set(name.slice(0, -'.jinja'.length), readFileSync(join(more, name), 'utf8'));
    }
  }
  return templates;
}

function parseJson(text: string, file: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new TokenizerError(`${file} is not valid JSON: ${(cause as Error).message}`, { cause });
  }
}
