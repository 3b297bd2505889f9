/**
 * What an answer may be, as a caller says it: plain data that crosses process borders. Checks shape and size only; whether a schema or a
 * pattern makes sense is found out where it is compiled. Knows nothing of tokens.
 */
import { GrammarError } from './errors.ts';

/** A schema between two texts: what it begins with (may be empty), the schema (JSON text), and what it ends with. */
export interface TaggedSchema<Schema = string> {
  readonly begin: string;
  readonly schema: Schema;
  readonly end: string;
}

/** First one of some tags, then free text in which each `trigger` must begin one of others. */
export interface TagsGrammar<Schema = string> {
  readonly type: 'tags';
  readonly first: readonly TaggedSchema<Schema>[] | null;
  readonly more: {
    readonly trigger: string;
    readonly tags: readonly TaggedSchema<Schema>[];
  } | null;
  /** In the free text at most one tag comes, and then the text ends. */
  readonly isSingle: boolean;
}

/** A checked grammar. Schemas are JSON text. */
export type GrammarSpec =
  /** Any JSON object. */
  | { readonly type: 'json_object' }
  | { readonly type: 'json_schema'; readonly schema: string }
  | { readonly type: 'regex'; readonly regex: string }
  | { readonly type: 'choice'; readonly choice: readonly string[] }
  /** EBNF, the dialect of llama.cpp and XGrammar; begins at the rule `root`. */
  | { readonly type: 'grammar'; readonly grammar: string }
  | TagsGrammar;

/** What callers may write: a `GrammarSpec` whose schema is JSON text or the value itself. */
export type GrammarInput =
  | Exclude<GrammarSpec, { type: 'json_schema' | 'tags' }>
  | { readonly type: 'json_schema'; readonly schema: unknown }
  | TagsGrammar<unknown>;

/** Longest text of a grammar, and deepest nesting of a schema. OpenAI's own limits are 120,000 characters and 10 levels. */
export const MAX_GRAMMAR_CHARS = 256 * 1024;
export const MAX_SCHEMA_DEPTH = 64;
const MAX_CHOICES = 10_000;

/**
 * Checks what a caller wrote.
 *
 * @throws {GrammarError} if it has not the shape of a grammar, or is too large
 */
export function parseGrammarSpec(input: unknown): GrammarSpec {
  const spec = specOf(input);
  const numChars = JSON.stringify(spec).length;
  if (numChars > MAX_GRAMMAR_CHARS) {
    throw new GrammarError(
      `the grammar has ${numChars} characters, at most ${MAX_GRAMMAR_CHARS} are accepted`,
    );
  }
  return spec;
}

function specOf(input: unknown): GrammarSpec {
  if (typeof input !== 'object' || input === null) {
    throw new GrammarError(`expected an object with a type, got ${shown(input)}`);
  }
  const given = input as Record<string, unknown>;
  switch (given.type) {
    case 'json_object':
      return { type: 'json_object' };
    case 'json_schema':
      return { type: 'json_schema', schema: schemaText(given.schema) };
    case 'regex':
      return { type: 'regex', regex: text(given.regex, 'regex') };
    case 'choice':
      return { type: 'choice', choice: choicesOf(given.choice) };
    case 'grammar':
      return { type: 'grammar', grammar: text(given.grammar, 'grammar') };
    case 'tags':
      return tagsOf(given);
    default:
      throw new GrammarError(
        `type: expected one of json_object, json_schema, regex, choice, grammar, got ${shown(given.type)}`,
      );
  }
}

function text(value: unknown, name: string): string {
  if (typeof value !== 'string' || value === '' || !value.isWellFormed()) {
    throw new GrammarError(
      `${name}: expected a text of at least one character, got ${shown(value)}`,
    );
  }
  return value;
}

function choicesOf(value: unknown): string[] {
  if (!Array.isArray(value) || value.length === 0 || value.length > MAX_CHOICES) {
    throw new GrammarError(
      `choice: expected a list of 1 to ${MAX_CHOICES} texts, got ${shown(value)}`,
    );
  }
  return value.map((each, i) => text(each, `choice[${i}]`));
}

function tagsOf({ first, more, isSingle }: Record<string, unknown>): GrammarSpec {
  const { trigger, tags } = (more ?? {}) as Record<string, unknown>;
  if (!Array.isArray(first) && !Array.isArray(tags)) {
    throw new GrammarError('tags: expected some to be first, or to be in the text');
  }
  return {
    type: 'tags',
    first: Array.isArray(first) ? first.map(tagOf) : null,
    more: Array.isArray(tags) ? { trigger: text(trigger, 'trigger'), tags: tags.map(tagOf) } : null,
    isSingle: isSingle === true,
  };
}

function tagOf({ begin, schema, end }: TaggedSchema<unknown>): TaggedSchema {
  return {
    begin: begin === '' ? '' : text(begin, 'begin'),
    schema: schemaText(schema),
    end: end === '' ? '' : text(end, 'end'),
  };
}

/** A schema as JSON text, from text or value. */
function schemaText(schema: unknown): string {
  const json = typeof schema === 'string' ? schema : stringified(schema);
  if (json.length > MAX_GRAMMAR_CHARS) {
    throw new GrammarError(
      `schema: ${json.length} characters, at most ${MAX_GRAMMAR_CHARS} are accepted`,
    );
  }
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch (error) {
    throw new GrammarError(`schema: not JSON: ${(error as Error).message}`, { cause: error });
  }
  const isSchema = typeof value === 'boolean' || (typeof value === 'object' && value !== null);
  if (!isSchema || Array.isArray(value)) {
    throw new GrammarError(`schema: expected a JSON schema, an object, got ${shown(value)}`);
  }
  const depth = depthOf(json);
  if (depth > MAX_SCHEMA_DEPTH) {
    throw new GrammarError(`schema: nested ${depth} deep, at most ${MAX_SCHEMA_DEPTH} is accepted`);
  }
  return json;
}

function stringified(value: unknown): string {
  try {
    return JSON.stringify(value) ?? '';
  } catch (error) {
    // Nested so deep that the stack ends.
    throw new GrammarError(`schema: ${(error as Error).message}`, { cause: error });
  }
}

/** Levels of brackets outside strings, of text that is JSON. */
function depthOf(json: string): number {
  let depth = 0;
  let deepest = 0;
  for (const [token] of json.matchAll(/"(?:[^"\\]|\\.)*"|[[{]|[\]}]/gs)) {
    if (token === '[' || token === '{') deepest = Math.max(deepest, ++depth);
    else if (token === ']' || token === '}') depth--;
  }
  return deepest;
}

function shown(value: unknown): string {
  const json = typeof value === 'object' && value !== null ? typeof value : JSON.stringify(value);
  return (json ?? String(value)).slice(0, 60);
}
