/** A vocabulary for tests: every byte, some longer pieces as tokenizers have them, one control token and one end of text. */
import type { DecoderSource } from '../../engine/sequence.ts';
import type { GrammarVocabulary } from '../vocabulary.ts';

const PIECES = [
  '{"',
  '":',
  ' "',
  '",',
  '"}',
  '[]',
  '{}',
  'true',
  'false',
  'null',
  ' yes',
  'no',
  '12',
  'é',
  'ab',
  '\n\n',
];

export const EOS_ID = 256;
/** Its text would do in any string, if it were text. */
export const CONTROL_ID = 257;
const FIRST_PIECE_ID = 258;
/** Two more than there are tokens, as models have that pad their vocabulary. */
export const VOCAB_SIZE = FIRST_PIECE_ID + PIECES.length + 2;

const encoder = new TextEncoder();
const tokens: readonly Uint8Array[] = [
  ...Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte)),
  encoder.encode('<end>'),
  encoder.encode('control'),
  ...PIECES.map((piece) => encoder.encode(piece)),
];

export function byteVocabulary(eosTokenIds: readonly number[] = [EOS_ID]): GrammarVocabulary {
  const offsets = new Int32Array(tokens.length + 1);
  for (const [id, bytes] of tokens.entries()) offsets[id + 1] = offsets[id]! + bytes.length;
  const bytes = new Uint8Array(offsets.at(-1)!);
  for (const [id, token] of tokens.entries()) bytes.set(token, offsets[id]);
  const isSpecial = Uint8Array.from(tokens, (_, id) => Number(id === EOS_ID || id === CONTROL_ID));
  return { offsets, bytes, isSpecial, vocabSize: VOCAB_SIZE, eosTokenIds };
}

export const byteDecoder: DecoderSource = {
  createDecoderStream() {
    const decoder = new TextDecoder();
    return {
      push: (id) => decoder.decode(tokens[id], { stream: true }),
      end: () => decoder.decode(),
    };
  },
};
