/**
 * Brings JSON schemas into the form in which XGrammar (0.1.27) keeps to them. Knows nothing of tokens.
 *
 * - `minLength` and `maxLength` alone let control characters into strings, which JSON forbids: they become a pattern that does not.
 * - In a `pattern`, `.` and classes such as `[^a]` and `\S` would take the quote that ends the string: here they leave it out, as well as
 *   the backslash and control characters.
 */

/** One character of a JSON string as it is written: plain, or an escape. */
const STRING_CHARACTER = '([^"\\\\\\x00-\\x1f]|\\\\["\\\\/bfnrt])';
/** What may not stand in a string as it is, inside a character class. Ends so that what follows is not taken for more of it. */
const NOT_PLAIN = '\\x00-\\x1f"\\\\';
/** What `\D`, `\S` and `\W` leave out besides; of space the ASCII kinds, most of which are control characters. */
const COMPLEMENTS = new Map([
  ['\\D', '0-9'],
  ['\\S', ' '],
  ['\\W', 'A-Za-z0-9_'],
]);
/** Places whose values are data, not schemas. */
const DATA_KEYS = new Set(['enum', 'const', 'default', 'examples', 'required']);

/** @param json of a schema, not nested too deeply */
export function enforceableSchema(json: string): string {
  return JSON.stringify(rewritten(JSON.parse(json)));
}

function rewritten(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(rewritten);
  if (typeof value !== 'object' || value === null) return value;
  const schema = value as Record<string, unknown>;
  const result: Record<string, unknown> = {};
  for (const [key, inner] of Object.entries(schema)) {
    // Own properties only: a field may be called __proto__.
    Object.defineProperty(result, key, {
      value: DATA_KEYS.has(key) ? inner : rewritten(inner),
      enumerable: true,
      configurable: true,
      writable: true,
    });
  }
  if (schema.type !== 'string') return result;
  const { pattern, format, minLength = 0, maxLength } = schema;
  if (typeof pattern === 'string') {
    result.pattern = stringPattern(pattern);
  } else if (format === undefined && (maxLength !== undefined || minLength !== 0)) {
    delete result.minLength;
    delete result.maxLength;
    result.pattern = `^${STRING_CHARACTER}{${Number(minLength)},${maxLength === undefined ? '' : Number(maxLength)}}$`;
  }
  return result;
}

/** A pattern that takes no character which would have to be escaped in a string. */
export function stringPattern(pattern: string): string {
  let result = '';
  for (const [piece] of pattern.matchAll(/\\[\s\S]|\[\^?\]?(?:\\[\s\S]|[^\]\\])*\]|[\s\S]/g)) {
    if (piece === '.') result += `[^${NOT_PLAIN}]`;
    else if (COMPLEMENTS.has(piece)) result += `[^${COMPLEMENTS.get(piece)}${NOT_PLAIN}]`;
    else if (piece.startsWith('[^'))
      result += `[^${NOT_PLAIN}${piece.slice(2).replace(/^-/, '\\-')}`;
    else result += piece;
  }
  return result;
}
