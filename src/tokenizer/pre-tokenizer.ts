/**
 * Cuts text into the pieces that merging may not cross. Works on strings; knows nothing of bytes, ids or vocabularies.
 */
import { TokenizerError } from './errors.ts';
import { translateRegex } from './regex.ts';

/** One cut: a piece into pieces, in order, together the whole (or what is kept of it). */
export type PreTokenizerStep = (piece: string, isFirst: boolean) => readonly string[];

/** What happens to the matches of a split; the names of `tokenizers`. */
export type SplitBehavior =
  | 'Isolated'
  | 'Removed'
  | 'MergedWithPrevious'
  | 'MergedWithNext'
  | 'Contiguous';

/** How GPT-2 cuts text, the default of `ByteLevel`. Oniguruma syntax, as all patterns here. */
export const GPT2_PATTERN =
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/** Applies the steps one after another. `isFirst`: the text starts the whole input (Metaspace asks). */
export function preTokenize(
  text: string,
  steps: readonly PreTokenizerStep[],
  isFirst: boolean,
): readonly string[] {
  let pieces: readonly string[] = [text];
  for (const step of steps) {
    if (pieces.length === 1) {
      pieces = step(pieces[0]!, isFirst);
      continue;
    }
    const next: string[] = [];
    for (let i = 0; i < pieces.length; i++) {
      const parts = step(pieces[i]!, isFirst && i === 0);
      for (let j = 0; j < parts.length; j++) next.push(parts[j]!);
    }
    pieces = next;
  }
  return pieces;
}

/** A step that makes every match, and every gap between matches, a piece. The expression has the flag `g`. */
function isolateMatches(expression: RegExp): PreTokenizerStep {
  return (piece) => {
    const matches = matchAll(piece, expression);
    if (matches === null) return [piece];
    // Nearly all expressions match every character; then there are no gaps to find.
    let covered = 0;
    for (let i = 0; i < matches.length; i++) covered += matches[i]!.length;
    if (covered === piece.length) return matches;
    const pieces: string[] = [];
    for (const span of spans(piece, expression)) {
      if (span.end > span.start) pieces.push(piece.slice(span.start, span.end));
    }
    return pieces;
  };
}

/** A step as `tokenizers`' `Split` defines it. */
export function splitStep(
  expression: RegExp,
  behavior: SplitBehavior,
  isInverted: boolean,
): PreTokenizerStep {
  if (behavior === 'Isolated') return isolateMatches(expression); // inverting changes nothing
  return (piece) => {
    const parts = spans(piece, expression).filter((span) => span.end > span.start);
    if (isInverted) for (const part of parts) part.isMatch = !part.isMatch;
    const pieces: string[] = [];
    let wasMatch = false;
    for (const { start, end, isMatch } of parts) {
      const text = piece.slice(start, end);
      const joins =
        pieces.length > 0 &&
        ((behavior === 'MergedWithPrevious' && isMatch && !wasMatch) ||
          (behavior === 'MergedWithNext' && !isMatch && wasMatch) ||
          (behavior === 'Contiguous' && isMatch && wasMatch));
      if (joins) pieces[pieces.length - 1] += text;
      else if (behavior !== 'Removed' || !isMatch) pieces.push(text);
      wasMatch = isMatch;
    }
    return pieces;
  };
}

/** A step per Oniguruma pattern, each isolating its matches: how GGUF names and `tokenizers` sequences are written. */
export function isolatingSteps(patterns: readonly string[]): PreTokenizerStep[] {
  return patterns.map((pattern) => isolateMatches(translateRegex(pattern)));
}

function matchAll(piece: string, expression: RegExp): string[] | null {
  try {
    return piece.match(expression);
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause;
    // V8's backtracking stack holds a run of some millions of characters (1 million is tested), no model takes more.
    throw new TokenizerError(
      `a text of ${piece.length} characters has a run without a boundary that is too long for the pre-tokenizer; break it up or shorten it`,
      { cause },
    );
  }
}

interface Span {
  start: number;
  end: number;
  isMatch: boolean;
}

function spans(piece: string, expression: RegExp): Span[] {
  const result: Span[] = [];
  let at = 0;
  for (const match of piece.matchAll(expression)) {
    const end = match.index + match[0].length;
    if (match.index > at) result.push({ start: at, end: match.index, isMatch: false });
    if (end > match.index) result.push({ start: match.index, end, isMatch: true });
    at = end;
  }
  if (at < piece.length) result.push({ start: at, end: piece.length, isMatch: false });
  return result;
}
