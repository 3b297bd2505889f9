/**
 * Makes a tokenizer from GGUF metadata (`tokenizer.ggml.*`). Knows the keys and llama.cpp's defaults for absent ones;
 * trusts nothing: counts, types and ids are checked once, here.
 */
import { StringList } from '../platform/string-list.ts';
import { type AddedToken, AddedTokens } from './added-tokens.ts';
import { bridgeCutStep } from './bridge-cuts.ts';
import type { Tokenizer } from './contract.ts';
import { END_OF_TURN_TEXTS, endOfTurnIds } from './end-of-turn.ts';
import { TokenizerError } from './errors.ts';
import { type NamedPreTokenizer, namedPreTokenizers } from './gguf-pre-tokenizers.ts';
import { shortJson } from './json-value.ts';
import { Merger } from './merger.ts';
import { MergeTable, ScoreRanks } from './merges.ts';
import { type EncodingParts, ModelTokenizer, type TokenizerParts } from './model-tokenizer.ts';
import { isolatingSteps } from './pre-tokenizer.ts';
import { describe, Vocabulary } from './vocabulary.ts';

/** `tokenizer.ggml.token_type`. */
const TokenType = {
  undefined: 0,
  normal: 1,
  unknown: 2,
  control: 3,
  userDefined: 4,
  unused: 5,
  byte: 6,
} as const;

type Metadata = ReadonlyMap<string, unknown>;

/**
 * Models `gpt2` (byte-level BPE) and `llama` (SentencePiece BPE by scores).
 *
 * @param metadata all metadata of the file; values as a GGUF reader gives them
 * @throws {TokenizerError} if the tokenizer is missing, malformed or of another kind
 */
export function tokenizerFromGguf(metadata: Metadata): Tokenizer {
  const model = readString(metadata, 'tokenizer.ggml.model');
  if (model === undefined) {
    throw new TokenizerError(
      'the metadata has no "tokenizer.ggml.model"; a GGUF model file with a tokenizer is needed',
    );
  }
  if (model !== 'gpt2' && model !== 'llama') {
    throw new TokenizerError(
      `tokenizer.ggml.model is ${shortJson(model)}; accepted: "gpt2" (BPE), "llama" (SentencePiece)`,
    );
  }
  return new ModelTokenizer(model === 'gpt2' ? bpeParts(metadata) : sentencePieceParts(metadata));
}

function bpeParts(metadata: Metadata): TokenizerParts {
  const preName = readString(metadata, 'tokenizer.ggml.pre') ?? 'default';
  const pre = namedPreTokenizers.get(preName);
  if (pre === undefined) {
    throw new TokenizerError(
      `tokenizer.ggml.pre is ${shortJson(preName)}; accepted: ${[...namedPreTokenizers.keys()].join(', ')}`,
    );
  }
  const tokens = readTokens(metadata);
  const types = readTypes(metadata, tokens.length);
  const vocabulary = new Vocabulary({
    tokens,
    spelling: 'byte-level',
    isIndexed: (id) => types[id] === TokenType.normal || types[id] === TokenType.userDefined,
  });
  return {
    ...commonParts(metadata, tokens, types, pre),
    vocabulary,
    encoding: () => ({
      merger: new Merger(vocabulary, new MergeTable(vocabulary, readMerges(metadata), false), {
        symbols: 'bytes',
        ignoreMerges: pre.ignoreMerges === true,
        byteIds: null,
        unknownId: null,
        fuseUnknown: false,
      }),
      droppedBytes: vocabulary.bytesWithoutToken(),
      addedTokens: new AddedTokens(addedTokens(metadata, tokens, types)),
      normalizedAddedTokens: null,
      normalize: pre.composes ? (text) => text.normalize('NFC') : null,
      steps: isolatingSteps(pre.patterns),
    }),
    stripsLeadingSpace: false,
  };
}

function sentencePieceParts(metadata: Metadata): TokenizerParts {
  const tokens = readTokens(metadata);
  const types = withGemmaSpecials(tokens, readTypes(metadata, tokens.length));
  const scores = readNumbers(metadata, 'tokenizer.ggml.scores', tokens.length);
  if (scores === undefined) {
    throw new TokenizerError(
      'the metadata has no "tokenizer.ggml.scores", which a "llama" tokenizer needs',
    );
  }
  const byteIds = new Int32Array(256).fill(-1);
  const vocabulary = new Vocabulary({
    tokens,
    spelling: 'space-mark',
    isIndexed: (id) => types[id] === TokenType.normal,
    byteOf(id) {
      if (types[id] !== TokenType.byte) return undefined;
      const token = tokens.at(id)!;
      const hex = /^<0x([0-9a-fA-F]{2})>$/.exec(token)?.[1];
      if (hex === undefined) {
        throw new TokenizerError(
          `token ${id} is of type byte but is spelled ${JSON.stringify(token.slice(0, 40))}; expected "<0x00>" to "<0xFF>"`,
        );
      }
      const byte = Number.parseInt(hex, 16);
      if (byteIds[byte] === -1) byteIds[byte] = id;
      return byte;
    },
  });
  const addsSpace = readBoolean(metadata, 'tokenizer.ggml.add_space_prefix') ?? true;
  const unknownId =
    readId(metadata, 'unknown', tokens.length) ?? firstOfType(types, TokenType.unknown);
  const encoding = (): EncodingParts => {
    const added = addedTokens(metadata, tokens, types);
    const respelled = (from: string, to: string): AddedToken[] =>
      added.map((token) => ({ ...token, content: token.content.replaceAll(from, to) }));
    const spaced = respelled('\u2581', ' ').filter((token) => token.content.includes(' '));
    return {
      merger: new Merger(vocabulary, new ScoreRanks(scores), {
        symbols: 'characters',
        ignoreMerges: false,
        byteIds,
        unknownId,
        fuseUnknown: true,
      }),
      droppedBytes: null,
      // tokenizer.json spells runs of spaces with U+2581 and looks for them in the text as typed; its merges then find runs
      // of real spaces, which have no merges here but are added tokens as well.
      addedTokens: new AddedTokens(respelled(' ', '\u2581')),
      normalizedAddedTokens: spaced.length > 0 ? new AddedTokens(spaced) : null,
      normalize: (text) => (addsSpace ? ' ' : '') + text.replaceAll('\u2581', ' '),
      steps: [bridgeCutStep(vocabulary)],
    };
  };
  return {
    ...commonParts(metadata, tokens, types, { patterns: [], addsBos: true }),
    vocabulary,
    encoding,
    stripsLeadingSpace: addsSpace,
  };
}

type CommonParts = Pick<
  TokenizerParts,
  | 'specials'
  | 'unindexedIds'
  | 'bosTokenId'
  | 'eosTokenIds'
  | 'prefixIds'
  | 'suffixIds'
  | 'chatTemplates'
>;

function commonParts(
  metadata: Metadata,
  tokens: StringList,
  types: Uint8Array,
  pre: NamedPreTokenizer,
): CommonParts {
  const specials = new Uint8Array(types.length);
  for (let id = 0; id < types.length; id++) {
    if (types[id] === TokenType.control || types[id] === TokenType.unknown) specials[id] = 1;
  }
  const places = tokens.find(['<s>', '</s>', ...END_OF_TURN_TEXTS]);
  const idOf = (text: string): number | undefined => {
    const ids = places.get(text);
    return ids?.find((id) => types[id] !== TokenType.normal) ?? ids?.[0];
  };
  const size = tokens.length;
  const bosTokenId = readId(metadata, 'bos', size) ?? idOf('<s>') ?? null;
  const eosTokenId = readId(metadata, 'eos', size) ?? idOf('</s>') ?? null;
  const addsBos = readBoolean(metadata, 'tokenizer.ggml.add_bos_token') ?? pre.addsBos ?? false;
  const addsEos = readBoolean(metadata, 'tokenizer.ggml.add_eos_token') ?? false;
  return {
    specials,
    unindexedIds: () => unindexedIds(tokens, types),
    bosTokenId,
    eosTokenIds: endOfTurnIds(
      [eosTokenId, readId(metadata, 'eot', size), readId(metadata, 'eom', size)],
      idOf,
    ),
    prefixIds: addsBos && bosTokenId !== null ? [bosTokenId] : [],
    suffixIds: addsEos && eosTokenId !== null ? [eosTokenId] : [],
    chatTemplates: readChatTemplates(metadata),
  };
}

/** Of tokens that are not normal; the first of each spelling. */
function unindexedIds(tokens: StringList, types: Uint8Array): Map<string, number> {
  const ids = new Map<string, number>();
  for (let id = types.length - 1; id >= 0; id--) {
    if (types[id] !== TokenType.normal) ids.set(tokens.at(id)!, id);
  }
  return ids;
}

function addedTokens(metadata: Metadata, tokens: StringList, types: Uint8Array): AddedToken[] {
  // Phi-3's tokenizer.json says so of its control tokens; GGUF has no place for it. Rule and exceptions: llama.cpp.
  const isPhi3 = /phi-?3/i.test(readString(metadata, 'general.name') ?? '');
  const keepsSpace = new Set(['<unk>', '<s>', '<|endoftext|>']);
  const added: AddedToken[] = [];
  for (let id = 0; id < tokens.length; id++) {
    const type = types[id]!;
    if (type === TokenType.normal || type === TokenType.unused || type === TokenType.byte) continue;
    if (type === TokenType.undefined) continue;
    const isSpecial = type !== TokenType.userDefined;
    const content = tokens.at(id)!;
    added.push({
      id,
      content,
      isSpecial,
      stripsLeft: false,
      stripsRight: isPhi3 && isSpecial && !keepsSpace.has(content),
      isSingleWord: false,
    });
  }
  return added;
}

function firstOfType(types: Uint8Array, type: number): number | null {
  const id = types.indexOf(type);
  return id < 0 ? null : id;
}

function readTokens(metadata: Metadata): StringList {
  const tokens = readStrings(metadata, 'tokenizer.ggml.tokens');
  if (tokens === undefined) throw new TokenizerError('the metadata has no "tokenizer.ggml.tokens"');
  return tokens;
}

function readMerges(metadata: Metadata): readonly string[] {
  return readStrings(metadata, 'tokenizer.ggml.merges')?.toArray() ?? [];
}

/**
 * Converters type Gemma's tokens after its SentencePiece file, where `<unused0>` and `<mask>` are control tokens; in its
 * tokenizer.json, which defines what text gives which ids, they are plain added tokens, and the image marks are special.
 * (Compared for all 262,144 tokens of Gemma 3: these are all the differences.)
 */
function withGemmaSpecials(tokens: StringList, types: Uint8Array): Uint8Array {
  if (!tokens.find(['<start_of_turn>']).has('<start_of_turn>')) return types;
  const corrected = types.slice();
  for (let id = 0; id < tokens.length; id++) {
    const type = types[id];
    if (type !== TokenType.control && type !== TokenType.userDefined) continue;
    const token = tokens.at(id)!;
    if (type === TokenType.control && /^<(?:mask|unused\d+)>$/.test(token)) {
      corrected[id] = TokenType.userDefined;
    } else if (type === TokenType.userDefined && /^<(?:start|end)_of_image>$/.test(token)) {
      corrected[id] = TokenType.control;
    }
  }
  return corrected;
}

/** u8 `[numTokens]`; all normal where the file does not say. */
function readTypes(metadata: Metadata, numTokens: number): Uint8Array {
  const key = 'tokenizer.ggml.token_type';
  const values = readNumbers(metadata, key, numTokens);
  const types = new Uint8Array(numTokens);
  if (values === undefined) return types.fill(TokenType.normal);
  for (let id = 0; id < numTokens; id++) {
    const type = values[id]!;
    if (!(type >= 0 && type <= 6)) {
      throw new TokenizerError(`${key}[${id}] is ${type}; accepted: 0 to 6`);
    }
    types[id] = type;
  }
  return types;
}

function readChatTemplates(metadata: Metadata): Map<string, string> {
  const prefix = 'tokenizer.chat_template';
  const templates = new Map<string, string>();
  for (const key of metadata.keys()) {
    if (key !== prefix && !key.startsWith(`${prefix}.`)) continue;
    const name = key === prefix ? 'default' : key.slice(prefix.length + 1);
    const template = readString(metadata, key);
    if (template !== undefined) templates.set(name, template);
  }
  return templates;
}

/** The id under `tokenizer.ggml.<name>_token_id`, or null if absent; all ones (-1) also means absent. */
function readId(metadata: Metadata, name: string, numTokens: number): number | null {
  const key = `tokenizer.ggml.${name}_token_id`;
  const value = metadata.get(key);
  if (value === undefined) return null;
  const id = typeof value === 'bigint' ? Number(value) : value;
  if (id === -1 || id === 0xffffffff) return null;
  if (typeof id === 'number' && Number.isInteger(id) && id >= 0 && id < numTokens) return id;
  throw new TokenizerError(
    `${key} is ${typeof id === 'number' ? id : describe(value)}; accepted: 0 to ${numTokens - 1}`,
  );
}

function readString(metadata: Metadata, key: string): string | undefined {
  const value = metadata.get(key);
  if (value === undefined || typeof value === 'string') return value;
  throw new TokenizerError(`${key} is ${describe(value)}; expected a string`);
}

function readBoolean(metadata: Metadata, key: string): boolean | undefined {
  const value = metadata.get(key);
  if (value === undefined || typeof value === 'boolean') return value;
  throw new TokenizerError(`${key} is ${describe(value)}; expected a boolean`);
}

function readStrings(metadata: Metadata, key: string): StringList | undefined {
  const value = metadata.get(key);
  if (value === undefined || value instanceof StringList) return value;
  if (!Array.isArray(value)) {
    throw new TokenizerError(`${key} is ${describe(value)}; expected an array of strings`);
  }
  for (const [i, text] of value.entries()) {
    if (typeof text === 'string') continue;
    throw new TokenizerError(`${key}[${i}] is ${describe(text)}; expected a string`);
  }
  return StringList.of(value as readonly string[]);
}

function readNumbers(
  metadata: Metadata,
  key: string,
  length: number,
): ArrayLike<number> | undefined {
  const value = metadata.get(key);
  if (value === undefined) return undefined;
  const isTyped = ArrayBuffer.isView(value) && !(value instanceof DataView);
  if (!isTyped && !Array.isArray(value)) {
    throw new TokenizerError(`${key} is ${describe(value)}; expected an array of numbers`);
  }
  const array = value as ArrayLike<unknown>;
  if (array.length !== length) {
    throw new TokenizerError(
      `${key} has ${array.length} elements; expected one per token, ${length}`,
    );
  }
  for (let i = 0; i < length; i++) {
    if (typeof array[i] !== 'number') {
      throw new TokenizerError(`${key}[${i}] is ${describe(array[i])}; expected a number`);
    }
  }
  return array as ArrayLike<number>;
}
