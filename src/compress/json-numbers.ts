/**
 * JSON whose numbers keep their spelling: Python tells 6.0 from 6, and transformers refuses an integer where its settings are floats. Knows nothing of
 * what the numbers mean.
 */

/** In Node since 22 (ECMAScript's "JSON.parse source text access"); TypeScript's library does not have it yet. */
interface JsonWithSource {
  rawJSON(text: string): object;
  parse(
    text: string,
    reviver: (key: string, value: unknown, context: { source?: string }) => unknown,
  ): unknown;
}
const json = JSON as unknown as JsonWithSource;

/** A number that `JSON.stringify` writes with a decimal point. */
export function jsonFloat(value: number): object {
  return json.rawJSON(Number.isInteger(value) ? value.toFixed(1) : String(value));
}

/**
 * Like `JSON.parse`, for what is only written again: numbers come out of `JSON.stringify` as they were.
 * @throws {SyntaxError}
 */
export function parseKeepingNumbers(text: string): unknown {
  return json.parse(text, (_key, value, { source }) =>
    typeof value === 'number' && source !== undefined ? json.rawJSON(source) : value,
  );
}
