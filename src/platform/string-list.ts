/**
 * Many strings as UTF-8 in one block of memory, decoded one by one when they are asked for: a vocabulary has hundreds of thousands, and most readers of a
 * model file want none or a few of them. Knows nothing of files.
 *
 *     8 bytes, bytes of string 0, 8 bytes, bytes of string 1, ...
 *
 * The 8 bytes are what GGUF has there, the length; they are passed over.
 */
import { Buffer, isUtf8 } from 'node:buffer';

const GAP_BYTES = 8;
/** A length from here on is no UTF-8 where it stands before a string. */
const FIRST_NON_ASCII = 0x80;

/**
 * Buffer's own decoder, which toString reaches through checks that cost as much as the decoding: 49152 tokens take 7 ms instead of 12.
 * Every Node has it, its type definitions do not.
 */
type Utf8Buffer = Buffer & { utf8Slice(start: number, end: number): string };

export class StringList implements Iterable<string> {
  readonly length: number;
  /** The block. */
  readonly bytes: Buffer;
  /** Where each string begins, and where one after the last would; u32 `[length + 1]`. */
  readonly starts: Uint32Array;

  private constructor(bytes: Buffer, starts: Uint32Array) {
    this.length = starts.length - 1;
    this.bytes = bytes;
    this.starts = starts;
  }

  /**
   * Takes a block over. Bytes of a string that are no UTF-8 become U+FFFD (all but a character cut off before a length that would complete it, which stays).
   *
   * @param starts as the field, checked by the caller to lie in order within the block
   */
  static over(bytes: Buffer, starts: Uint32Array): StringList {
    const list = new StringList(bytes, starts);
    // Lengths below 128 are ASCII, so no character reaches across them; a list with longer strings, and most broken ones, get a second look.
    if (isUtf8(bytes)) return list;
    for (let i = 0; i < list.length; i++) {
      const start = starts[i]!;
      if (list.endOf(i) - start >= FIRST_NON_ASCII) bytes.fill(0, start - GAP_BYTES, start);
    }
    return isUtf8(bytes) ? list : StringList.of(list.toArray());
  }

  static of(strings: readonly string[]): StringList {
    const starts = new Uint32Array(strings.length + 1);
    let at = GAP_BYTES;
    for (const [i, text] of strings.entries()) {
      starts[i] = at;
      at += Buffer.byteLength(text) + GAP_BYTES;
    }
    starts[strings.length] = at;
    const bytes = Buffer.alloc(at - GAP_BYTES);
    for (const [i, text] of strings.entries()) bytes.write(text, starts[i]!);
    return new StringList(bytes, starts);
  }

  /** Where the bytes of string `i` end; `i` must be in range. */
  endOf(i: number): number {
    return this.starts[i + 1]! - GAP_BYTES;
  }

  /** undefined outside the list. */
  at(i: number): string | undefined {
    const start = this.starts[i];
    if (start === undefined || i >= this.length) return undefined;
    return (this.bytes as Utf8Buffer).utf8Slice(start, this.endOf(i));
  }

  /** All of them decoded. */
  *[Symbol.iterator](): Iterator<string> {
    yield* this.toArray();
  }

  toArray(): string[] {
    const bytes = this.bytes as Utf8Buffer;
    const strings = new Array<string>(this.length);
    for (let i = 0; i < this.length; i++) {
      strings[i] = bytes.utf8Slice(this.starts[i]!, this.endOf(i));
    }
    return strings;
  }

  /** Where each of a few texts stands, in order; texts that are nowhere are left out. */
  find(texts: Iterable<string>): Map<string, number[]> {
    const wanted = new Map([...texts].map((text) => [text, Buffer.from(text)]));
    // By length, first byte and the one in the middle: what passes is decoded and looked up.
    const isLength = new Uint8Array(
      1 + Math.max(0, ...wanted.values().map(({ length }) => length)),
    );
    const isFirst = new Uint8Array(256);
    const isMiddle = new Uint8Array(256);
    for (const text of wanted.values()) {
      isLength[text.length] = 1;
      isFirst[text[0] ?? 0] = 1;
      isMiddle[text[text.length >> 1] ?? 0] = 1;
    }
    const found = new Map<string, number[]>();
    const { bytes, starts, length: count } = this;
    for (let i = 0, start = starts[0]!; i < count; i++) {
      const at = start;
      start = starts[i + 1]!;
      const length = start - GAP_BYTES - at;
      if (isLength[length] !== 1) continue;
      if (length > 0 && (isFirst[bytes[at]!]! & isMiddle[bytes[at + (length >> 1)]!]!) === 0)
        continue;
      const text = this.at(i)!;
      if (!wanted.has(text)) continue;
      const places = found.get(text);
      if (places === undefined) found.set(text, [i]);
      else places.push(i);
    }
    return found;
  }
}
