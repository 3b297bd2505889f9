/**
 * How the spelling of a token, or a piece of text, becomes the bytes it stands for. One of three spellings:
 * `byte-level` (GPT-2 stand-in characters), `space-mark` (SentencePiece: U+2581 is a space), `plain` (UTF-8).
 * After this step a vocabulary and a text are compared as bytes and no later part knows which spelling it was.
 */
import { byteOfCodeUnit } from './byte-alphabet.ts';

export type Spelling = 'byte-level' | 'space-mark' | 'plain';

const SPACE_MARK = 0x2581;

/**
 * Writes `text` as UTF-8 at `offset`; lone surrogates become U+FFFD, as `TextEncoder` does. The caller has made room for
 * 3 bytes per code unit. `TextEncoder.encodeInto` costs a call into C++ per token, which tripled the time to load a
 * vocabulary of 262,144 tokens.
 *
 * @param spaceMark write U+2581 as a space
 * @returns the offset after the last byte written
 */
export function writeUtf8(
  text: string,
  target: Uint8Array,
  offset: number,
  spaceMark: boolean,
): number {
  let at = offset;
  const length = text.length;
  for (let i = 0; i < length; i++) {
    let code = text.charCodeAt(i);
    if (code < 0x80) {
      target[at++] = code;
      continue;
    }
    if (code < 0x800) {
      target[at++] = 0xc0 | (code >> 6);
      target[at++] = 0x80 | (code & 63);
      continue;
    }
    if (code === SPACE_MARK && spaceMark) {
      target[at++] = 0x20;
      continue;
    }
    if (code >= 0xd800 && code <= 0xdfff) {
      const low = code < 0xdc00 && i + 1 < length ? text.charCodeAt(i + 1) : 0;
      if (low >= 0xdc00 && low <= 0xdfff) {
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        target[at++] = 0xf0 | (code >> 18);
        target[at++] = 0x80 | ((code >> 12) & 63);
        target[at++] = 0x80 | ((code >> 6) & 63);
        target[at++] = 0x80 | (code & 63);
        i++;
        continue;
      }
      code = 0xfffd;
    }
    target[at++] = 0xe0 | (code >> 12);
    target[at++] = 0x80 | ((code >> 6) & 63);
    target[at++] = 0x80 | (code & 63);
  }
  return at;
}

/**
 * Writes the bytes that a token stands for. A byte-level token with a character outside the alphabet (an added token such
 * as `<｜end▁of▁sentence｜>`) stands for its UTF-8, as in `tokenizers`' ByteLevel decoder.
 *
 * @returns the offset after the last byte written
 */
export function writeTokenBytes(
  token: string,
  spelling: Spelling,
  target: Uint8Array,
  offset: number,
): number {
  if (spelling !== 'byte-level') return writeUtf8(token, target, offset, spelling === 'space-mark');
  let at = offset;
  for (let i = 0; i < token.length; i++) {
    const code = token.charCodeAt(i);
    const byte = code < 324 ? byteOfCodeUnit[code]! : 256;
    if (byte === 256) return writeUtf8(token, target, offset, false);
    target[at++] = byte;
  }
  return at;
}

/**
 * As `writeTokenBytes`, of a spelling that lies as well-formed UTF-8 in `source[start..end)`; writes no more bytes than it has.
 */
export function writeSpelledBytes(
  source: Uint8Array,
  start: number,
  end: number,
  spelling: Spelling,
  target: Uint8Array,
  offset: number,
): number {
  let at = offset;
  for (let i = start; i < end; i++) {
    const byte = source[i]!;
    if (spelling === 'byte-level') {
      // The alphabet ends below U+0144, so longer characters than two bytes are outside.
      const code =
        byte < 0x80 ? byte : byte < 0xc6 ? ((byte & 31) << 6) | (source[++i]! & 63) : 324;
      const meant = code < 324 ? byteOfCodeUnit[code]! : 256;
      if (meant === 256) return copyBytes(source, start, end, target, offset);
      target[at++] = meant;
    } else if (
      spelling === 'space-mark' &&
      byte === 0xe2 &&
      source[i + 1] === 0x96 &&
      source[i + 2] === 0x81
    ) {
      target[at++] = 0x20;
      i += 2;
    } else {
      target[at++] = byte;
    }
  }
  return at;
}

function copyBytes(
  source: Uint8Array,
  start: number,
  end: number,
  target: Uint8Array,
  offset: number,
): number {
  for (let i = start; i < end; i++) target[offset + i - start] = source[i]!;
  return offset + end - start;
}
