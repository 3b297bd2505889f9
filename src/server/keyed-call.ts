/**
 * Calls of functions as GLM-4.5 writes them within `<tool_call>`: the name, then each argument as a key and a value, texts without quotes and
 * everything else as JSON. Knows the format of one call and nothing of what stands around it.
 *
 *   weather
 *   <arg_key>city</arg_key>
 *   <arg_value>Bonn</arg_value>
 */
import type { CallableTool } from '../app/tool-grammar.ts';

const KEY = { open: '<arg_key>', close: '</arg_key>' };
const VALUE = { open: '<arg_value>', close: '</arg_value>' };

/** Name and arguments; null if the text is not one whole call of a function that there is. */
export function keyedCall(
  body: string,
  tools: ReadonlyMap<string, CallableTool>,
): { readonly name: string; readonly arguments: string } | null {
  const nameEnd = body.indexOf(KEY.open);
  const name = (nameEnd < 0 ? body : body.slice(0, nameEnd)).trim();
  const tool = tools.get(name);
  if (tool === undefined) return null;
  const given: [string, unknown][] = [];
  for (let rest = nameEnd < 0 ? '' : body.slice(nameEnd); rest !== ''; ) {
    const key = within(rest, KEY);
    const value = key && within(key.rest, VALUE);
    if (!key || !value) return null;
    const name = key.text.trim();
    given.push([name, argumentOf(value.text, typesOf(schemaOf(tool.parameters, name)))]);
    rest = value.rest;
  }
  return { name, arguments: JSON.stringify(Object.fromEntries(given)) };
}

/** What stands between the marks that `text` begins with, and what comes after, without the space before it; null without both marks. */
function within(
  text: string,
  { open, close }: { readonly open: string; readonly close: string },
): { readonly text: string; readonly rest: string } | null {
  const end = text.indexOf(close);
  if (!text.startsWith(open) || end < 0) return null;
  return {
    text: text.slice(open.length, end),
    rest: text.slice(end + close.length).trimStart(),
  };
}

/** A text stays one where the schema wants texts, whatever it looks like; without a schema what is JSON is taken for that. */
function argumentOf(text: string, types: ReadonlySet<string>): unknown {
  if (types.size === 1 && types.has('string')) return text;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return text;
  }
  if (!types.has('string')) return value;
  const fits = types.has(typeNameOf(value)) || (Number.isInteger(value) && types.has('integer'));
  return fits ? value : text;
}

function typeNameOf(value: unknown): string {
  if (value === null) return 'null';
  return Array.isArray(value) ? 'array' : typeof value;
}

function schemaOf(parameters: unknown, key: string): unknown {
  const { properties } = (parameters ?? {}) as { properties?: unknown };
  if (typeof properties !== 'object' || properties === null) return undefined;
  return Object.hasOwn(properties, key) ? (properties as Record<string, unknown>)[key] : undefined;
}

/** The JSON types that a schema names at its top or in its alternatives; none: any. */
function typesOf(schema: unknown): Set<string> {
  const types = new Set<string>();
  if (typeof schema !== 'object' || schema === null) return types;
  const { type, enum: values, anyOf, oneOf } = schema as Record<string, unknown>;
  for (const each of [type].flat()) if (typeof each === 'string') types.add(each);
  if (types.size === 0 && Array.isArray(values)) for (const v of values) types.add(typeNameOf(v));
  for (const alternatives of [anyOf, oneOf]) {
    if (!Array.isArray(alternatives)) continue;
    // One level, as generators of schemas write optional values.
    for (const each of alternatives) {
      const { type: one } = (each ?? {}) as { type?: unknown };
      if (typeof one === 'string') types.add(one);
    }
  }
  return types;
}
