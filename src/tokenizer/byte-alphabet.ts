/**
 * GPT-2's byte alphabet: the printable stand-in character of every byte in a byte-level BPE vocabulary
 * (space is `Ġ`, newline `Ċ`), and the way back. Knows nothing of vocabularies.
 *
 * Source: `bytes_to_unicode` of the GPT-2 release; bytes 33..126, 161..172, 174..255 stand for themselves,
 * the other 68 are numbered from U+0100 in byte order.
 */

/** The code unit that stands for each byte, u16 `[256]`. */
export const codeUnitOfByte: Uint16Array = buildAlphabet();

/** The byte of each code unit below 324, or 256 where the code unit stands for none; u16 `[324]`. */
export const byteOfCodeUnit: Uint16Array = invertAlphabet(codeUnitOfByte);

function buildAlphabet(): Uint16Array {
  const alphabet = new Uint16Array(256);
  let next = 256;
  for (let byte = 0; byte < 256; byte++) {
    const printable =
      (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
    alphabet[byte] = printable ? byte : next++;
  }
  return alphabet;
}

function invertAlphabet(alphabet: Uint16Array): Uint16Array {
  const inverse = new Uint16Array(324).fill(256);
  for (let byte = 0; byte < 256; byte++) inverse[alphabet[byte]!] = byte;
  return inverse;
}
