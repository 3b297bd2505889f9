/** The name that someone may have meant. Knows nothing of models. */

/**
 * @returns the candidate that takes the fewest letters to change, if these are few: at most a third of the name. Case, and a tag such as
 * Ollama's `:latest`, count for nothing.
 */
export function nearName(name: string, candidates: Iterable<string>): string | undefined {
  const plain = name.toLowerCase();
  let nearest: string | undefined;
  let fewest = Math.max(1, Math.floor(plain.length / 3)) + 1;
  for (const candidate of candidates) {
    const other = candidate.toLowerCase();
    for (const text of new Set([plain, plain.replace(/:.*/, '')])) {
      const steps = editDistance(text, other, fewest);
      if (steps >= fewest) continue;
      fewest = steps;
      nearest = candidate;
    }
  }
  return nearest;
}

/** ` (did you mean that?)`; empty where nothing was found. */
export function didYouMean(meant: string | undefined): string {
  return meant === undefined ? '' : ` (did you mean ${meant}?)`;
}

/** Letters to insert, leave out or replace (Levenshtein 1965), exactly if fewer than `limit`; O(a b). */
function editDistance(a: string, b: string, limit: number): number {
  if (a.length > 300 || Math.abs(a.length - b.length) >= limit) return limit;
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, row[j]! + 1, next[j - 1]! + 1));
    }
    row = next;
  }
  return row[b.length]!;
}
