/**
 * A stand-in for a tokenizer: id i is a letter, except those that are single bytes of a two-byte character, so that text can be half there.
 */

import type { DecoderSource, DecoderStream } from '../sequence.ts';

const FIRST_BYTE_ID = 36; // 36 and 37 are the two bytes of "é"

class ByteDecoder implements DecoderStream {
  readonly #decoder = new TextDecoder();

  push(id: number): string {
    return this.#decoder.decode(bytesOf(id), { stream: true });
  }

  end(): string {
    return this.#decoder.decode();
  }
}

function bytesOf(id: number): Uint8Array {
  if (id === FIRST_BYTE_ID) return Uint8Array.of(0xc3);
  if (id === FIRST_BYTE_ID + 1) return Uint8Array.of(0xa9);
  return new TextEncoder().encode(id.toString(36));
}

export const byteTokenizer: DecoderSource = { createDecoderStream: () => new ByteDecoder() };
