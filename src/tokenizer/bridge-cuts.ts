/**
 * Cuts text for tokenizers without a pre-tokenizer (SentencePiece), exactly: between two bytes that stand side by side in
 * no token, nothing can merge, so both sides may be encoded (and cached) alone. In practice this finds the words.
 */
import type { PreTokenizerStep } from './pre-tokenizer.ts';
import type { Vocabulary } from './vocabulary.ts';

/** A step that cuts wherever `vocabulary` has no token across the cut. */
export function bridgeCutStep(vocabulary: Vocabulary): PreTokenizerStep {
  const { bridges } = vocabulary;
  const isSpaceMarked = vocabulary.spelling === 'space-mark';
  return (piece) => {
    const pieces: string[] = [];
    let start = 0;
    let last = -1; // last byte of the character before
    for (let i = 0; i < piece.length; i++) {
      const code = piece.charCodeAt(i);
      let first = code;
      let nextLast = code;
      if (code >= 0x80) {
        if (code === 0x2581 && isSpaceMarked) {
          first = nextLast = 0x20;
        } else if (code < 0x800) {
          first = 0xc0 | (code >> 6);
          nextLast = 0x80 | (code & 63);
        } else if (code < 0xd800 || code > 0xdfff) {
          first = 0xe0 | (code >> 12);
          nextLast = 0x80 | (code & 63);
        } else {
          // Surrogates: never cut around them, which is always right; a pair is one character, a lone one U+FFFD.
          last = -1;
          continue;
        }
      }
      if (last >= 0 && bridges[(last << 8) | first] === 0) {
        pieces.push(piece.slice(start, i));
        start = i;
      }
      last = nextLast;
    }
    if (start === 0) return [piece];
    pieces.push(piece.slice(start));
    return pieces;
  };
}
