/**
 * Bounds of a body's shape, looked at before anything else looks at it: templates, schemas and JSON itself go through values by recursion, and where every item of a
 * long list is wrong, checking it makes an object for each. Knows nothing of fields.
 */
import { badRequest } from './errors.ts';

/** Schemas have a bound of their own, of 64. */
const MAX_DEPTH = 256;
const MAX_ITEMS = 10_000;

/**
 * @param idField the field, if any, that may hold lists of token ids of any length
 * @throws {ApiError} 400 for a body that is nested deeper, or has longer lists and objects, than anything that means something
 */
export function requireModestShape(body: object, idField: string | null): void {
  requireFew('the body', undefined, Object.keys(body));
  for (const [name, value] of Object.entries(body)) requireModest(name, value, name === idField);
}

/**
 * The same of one value.
 * @param param    where it stands, for the error
 * @param hasLists whether lists of whole numbers may be of any length
 * @throws {ApiError} 400
 */
export function requireModest(param: string, value: unknown, hasLists = false): void {
  let level = isContainer(value) ? [value] : [];
  for (let depth = 1; level.length > 0; depth++) {
    if (depth > MAX_DEPTH) {
      throw badRequest(param, `${param}: nested more than ${MAX_DEPTH} deep`, 'too_deep');
    }
    const next: object[] = [];
    for (const outer of level) {
      const items: unknown[] = Array.isArray(outer) ? outer : Object.values(outer);
      if (!hasLists || !items.every(Number.isInteger)) requireFew(param, param, items);
      for (const item of items) if (isContainer(item)) next.push(item);
    }
    level = next;
  }
}

function isContainer(value: unknown): value is object {
  return typeof value === 'object' && value !== null;
}

function requireFew(what: string, param: string | undefined, items: readonly unknown[]): void {
  if (items.length <= MAX_ITEMS) return;
  throw badRequest(
    param,
    `${what}: ${items.length} items in one list or object, at most ${MAX_ITEMS} are taken`,
    'too_many_items',
  );
}
