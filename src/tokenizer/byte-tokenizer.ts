/**
 * A tokenizer for models that come without one: every byte is a token. Used by the embedded tiny model and by tests.
 *
 * Ids: 0 `<pad>`, 1 `<bos>`, 2 `<eos>`, 3 + b for byte b; the ids from 259 on have no text.
 */
import { StringList } from '../platform/string-list.ts';
import { AddedTokens } from './added-tokens.ts';
import { codeUnitOfByte } from './byte-alphabet.ts';
import type { Tokenizer } from './contract.ts';
import { TokenizerError } from './errors.ts';
import { Merger } from './merger.ts';
import { MergeTable } from './merges.ts';
import { ModelTokenizer } from './model-tokenizer.ts';
import { Vocabulary } from './vocabulary.ts';

const CONTROL_TOKENS: readonly string[] = ['<pad>', '<bos>', '<eos>'];
const FIRST_BYTE_ID = 3;
const MIN_SIZE = FIRST_BYTE_ID + 256;

const CHAT_TEMPLATE = `{{ bos_token }}{% for message in messages %}{{ message.role + ': ' + message.content + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}`;

/**
 * @param vocabSize number of ids, at least 259
 * @throws {TokenizerError} if there is no room for all bytes
 */
export function byteTokenizer(vocabSize: number): Tokenizer {
  if (!Number.isInteger(vocabSize) || vocabSize < MIN_SIZE) {
    throw new TokenizerError(
      `a byte tokenizer needs at least ${MIN_SIZE} ids (3 control tokens and 256 bytes); the model has ${vocabSize}`,
    );
  }
  const tokens = new Array<string>(vocabSize).fill('');
  const specials = new Uint8Array(vocabSize);
  for (const [id, token] of CONTROL_TOKENS.entries()) {
    tokens[id] = token;
    specials[id] = 1;
  }
  for (let byte = 0; byte < 256; byte++) {
    tokens[FIRST_BYTE_ID + byte] = String.fromCharCode(codeUnitOfByte[byte]!);
  }
  const vocabulary = new Vocabulary({
    tokens: StringList.of(tokens),
    spelling: 'byte-level',
    isIndexed: (id) => id >= FIRST_BYTE_ID && id < MIN_SIZE,
  });
  const encoding = {
    merger: new Merger(vocabulary, new MergeTable(vocabulary, [], true), {
      symbols: 'bytes',
      ignoreMerges: false,
      byteIds: null,
      unknownId: null,
      fuseUnknown: false,
    }),
    droppedBytes: null,
    addedTokens: new AddedTokens(
      CONTROL_TOKENS.map((content, id) => ({
        id,
        content,
        isSpecial: true,
        stripsLeft: false,
        stripsRight: false,
        isSingleWord: false,
      })),
    ),
    normalizedAddedTokens: null,
    normalize: null,
    steps: [],
  };
  return new ModelTokenizer({
    vocabulary,
    encoding: () => encoding,
    specials,
    unindexedIds: () => new Map(CONTROL_TOKENS.map((token, id) => [token, id])),
    bosTokenId: 1,
    eosTokenIds: [2],
    prefixIds: [1],
    suffixIds: [],
    stripsLeadingSpace: false,
    chatTemplates: new Map([['default', CHAT_TEMPLATE]]),
  });
}
