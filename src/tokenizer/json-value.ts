/** Reads fields of parsed JSON of unknown origin; every wrong type is a `TokenizerError` that names the place. */
import { TokenizerError } from './errors.ts';
import { describe } from './vocabulary.ts';

const MAX_QUOTED = 80;

export type JsonObject = Readonly<Record<string, unknown>>;

export function asObject(value: unknown, place: string): JsonObject {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
    return value as JsonObject;
  }
  throw wrong(value, place, 'an object');
}

export function asArray(value: unknown, place: string): readonly unknown[] {
  if (Array.isArray(value)) return value;
  throw wrong(value, place, 'an array');
}

export function asString(value: unknown, place: string): string {
  if (typeof value === 'string') return value;
  throw wrong(value, place, 'a string');
}

/** False where the field is absent or null. */
export function asFlag(value: unknown, place: string, absent = false): boolean {
  if (value === undefined || value === null) return absent;
  if (typeof value === 'boolean') return value;
  throw wrong(value, place, 'true or false');
}

/** A value as a message quotes it: JSON, cut short. */
export function shortJson(value: unknown): string {
  const json = JSON.stringify(value) ?? 'undefined';
  return json.length > MAX_QUOTED ? `${json.slice(0, MAX_QUOTED)}…` : json;
}

function wrong(value: unknown, place: string, expected: string): TokenizerError {
  return new TokenizerError(`${place} is ${describe(value)}; expected ${expected}`);
}
