/**
 * What a request body may hold: OpenAI's fields, the vLLM extras that exist here, and which known fields are refused. Knows nothing of
 * engines; the only place with the field names of the wire.
 *
 * `null` counts as absent everywhere (clients send it for defaults). Fields that nobody knows are ignored, and returned so that they can be
 * logged; known fields that would change the answer in a way we cannot deliver are refused instead.
 */
import * as z from 'zod';
import { PRIORITIES } from '../engine/priority.ts';
import { requireModestShape } from './body-bounds.ts';
import { badRequest } from './errors.ts';
import { grammarFields } from './response-format.ts';

const MAX_CHOICES = 64;
const MAX_PROMPTS = 256;

/** Not `z.array`: that makes an issue of each wrong item, and there may be millions. */
export const tokenListSchema = z.custom<number[]>(isTokenList, 'expected a list of token ids');

export const tokenIdsSchema = z.custom<number[]>(
  (value) => isTokenList(value) && value.length > 0,
  'expected a list of at least one token id',
);

function isTokenList(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((id) => Number.isSafeInteger(id) && id >= 0);
}

/** vLLM's: only requests with the same salt share cached prefixes. */
export const cacheSaltSchema = z.string().min(1).max(1024);

/** Fields that both endpoints take. Ranges of sampling values are the engine's business; here only their types. */
const shared = {
  model: z.string().optional(),
  stream: z.boolean().optional(),
  stream_options: z.looseObject({ include_usage: z.boolean().nullish() }).optional(),
  n: z.int().min(1).max(MAX_CHOICES).optional(),
  temperature: z.number().optional(),
  top_p: z.number().optional(),
  top_k: z.number().optional(),
  min_p: z.number().optional(),
  seed: z.number().optional(),
  stop: z
    .union([z.string(), z.array(z.string())], 'expected a string or a list of strings')
    .optional(),
  stop_token_ids: z.array(z.number()).optional(),
  max_tokens: z.int().min(1).optional(),
  logit_bias: z.record(z.string(), z.number()).optional(),
  frequency_penalty: z.number().optional(),
  presence_penalty: z.number().optional(),
  repetition_penalty: z.number().optional(),
  ignore_eos: z.boolean().optional(),
  user: z.string().optional(),
  priority: z.enum(PRIORITIES).optional(),
  cache_salt: cacheSaltSchema.optional(),
  ...grammarFields,
};

export const messageSchema = z.looseObject({
  role: z.enum(['system', 'developer', 'user', 'assistant', 'tool', 'function']),
  content: z.unknown().optional(),
});

export const toolSchema = z.looseObject({
  type: z.literal('function'),
  function: z.looseObject({
    name: z.string().min(1),
    description: z.string().optional(),
    parameters: z.unknown().optional(),
    strict: z.boolean().nullish(),
  }),
});

const toolChoiceSchema = z.union(
  [
    z.enum(['none', 'auto', 'required']),
    z.looseObject({ type: z.literal('function'), function: z.looseObject({ name: z.string() }) }),
  ],
  'expected "none", "auto", "required" or {"type": "function", "function": {"name": ...}}',
);

const chatSchema = z.object({
  ...shared,
  tools: z.array(toolSchema).optional(),
  tool_choice: toolChoiceSchema.optional(),
  parallel_tool_calls: z.boolean().optional(),
  messages: z.array(messageSchema).min(1),
  max_completion_tokens: z.int().min(1).optional(),
  logprobs: z.boolean().optional(),
  top_logprobs: z.int().min(0).max(20).optional(),
  chat_template_kwargs: z.record(z.string(), z.unknown()).optional(),
  add_generation_prompt: z.boolean().optional(),
});

/** A text, token ids, or up to `most` of either. */
export function textsSchema(most: number) {
  const isFine = (value: unknown): boolean => {
    if (!Array.isArray(value)) return typeof value === 'string';
    const [first] = value as unknown[];
    if (typeof first === 'number') return isTokenList(value);
    const isOneFine =
      typeof first === 'string'
        ? (each: unknown) => typeof each === 'string'
        : (each: unknown) => isTokenList(each) && each.length > 0;
    return value.length > 0 && value.length <= most && value.every(isOneFine);
  };
  return z.custom<string | string[] | number[] | number[][]>(
    isFine,
    `expected a string, a list of up to ${most} strings, a list of token ids, or a list of up to ${most} such lists`,
  );
}

/** As a list, whatever was sent. */
export function textsOf(texts: z.infer<ReturnType<typeof textsSchema>>): (string | number[])[] {
  if (typeof texts === 'string') return [texts];
  return isTokenIds(texts) ? [texts] : texts;
}

function isTokenIds(texts: (string | number[])[] | number[]): texts is number[] {
  return typeof texts[0] === 'number';
}

const completionSchema = z.object({
  ...shared,
  prompt: textsSchema(MAX_PROMPTS),
  logprobs: z.int().min(0).max(20).optional(),
  echo: z.boolean().optional(),
  suffix: z.string().optional(),
  best_of: z.int().optional(),
});

export type SharedFields = z.infer<z.ZodObject<typeof shared>>;
export type ChatRequest = z.infer<typeof chatSchema>;
export type CompletionRequest = z.infer<typeof completionSchema>;

export interface ParsedRequest<T> {
  readonly request: T;
  /** Names of fields that nobody here knows. */
  readonly unknownFields: readonly string[];
}

/** Accepted without a word: they change nothing in the answer. */
const HARMLESS = new Set([
  'store',
  'metadata',
  'service_tier',
  'safety_identifier',
  'prompt_cache_key',
]);

/** Known fields that change the answer in a way that is not there yet, unless they hold one of the given values. */
const REFUSED: Readonly<Record<string, (value: unknown) => boolean>> = {
  functions: (value) => Array.isArray(value) && value.length === 0,
  audio: () => false,
  modalities: (value) => JSON.stringify(value) === '["text"]',
  use_beam_search: (value) => value === false,
};

/** Taken for what it is where the refused field beside it holds its harmless value. */
const IDLE = new Set(['function_call']);

/** @throws {ApiError} 400 naming the field */
export function parseChatRequest(body: unknown): ParsedRequest<ChatRequest> {
  const parsed = parseBody(body, chatSchema);
  if (parsed.request.top_logprobs !== undefined && parsed.request.logprobs !== true) {
    throw badRequest('top_logprobs', 'top_logprobs: needs logprobs to be true');
  }
  return parsed;
}

/** @throws {ApiError} 400 naming the field */
export function parseCompletionRequest(body: unknown): ParsedRequest<CompletionRequest> {
  const parsed = parseBody(body, completionSchema, 'prompt');
  const { best_of: bestOf, n = 1, echo, logprobs } = parsed.request;
  if (bestOf !== undefined && bestOf !== n) {
    throw badRequest(
      'best_of',
      `best_of: ${bestOf} is not supported, expected the same as n (${n})`,
    );
  }
  if (echo && logprobs !== undefined) {
    throw badRequest('echo', 'echo: is not supported together with logprobs');
  }
  return parsed;
}

/**
 * @param idField the field that may hold lists of token ids
 * @throws {ApiError} 400 naming the field
 */
export function parseBody<T extends z.ZodRawShape>(
  body: unknown,
  schema: z.ZodObject<T>,
  idField: string | null = null,
): ParsedRequest<z.infer<z.ZodObject<T>>> {
  if (typeof body !== 'object' || body === null || Array.isArray(body)) {
    throw badRequest(undefined, 'expected a JSON object as the body');
  }
  requireModestShape(body, idField);
  const fields = Object.fromEntries(Object.entries(body).filter(([, value]) => value !== null));
  for (const [name, isHarmless] of Object.entries(REFUSED)) {
    if (Object.hasOwn(fields, name) && !isHarmless(fields[name])) {
      throw badRequest(name, `${name}: not supported by this server`, 'unsupported_parameter');
    }
  }
  const result = schema.safeParse(fields);
  if (!result.success) throw fieldError(result.error.issues[0], fields);
  const unknownFields = Object.keys(fields).filter(
    (name) =>
      !Object.hasOwn(schema.shape, name) &&
      !HARMLESS.has(name) &&
      !IDLE.has(name) &&
      !Object.hasOwn(REFUSED, name),
  );
  return { request: result.data, unknownFields };
}

function fieldError(issue: z.core.$ZodIssue | undefined, fields: object): Error {
  const path = issue?.path ?? [];
  const param = path
    .map((part, index) =>
      typeof part === 'number' ? `[${part}]` : `${index ? '.' : ''}${String(part)}`,
    )
    .join('');
  const value = path.reduce<unknown>(
    (inner, part) => (inner as Record<PropertyKey, unknown> | undefined)?.[part],
    fields,
  );
  const what = issue?.message.replace(/^Invalid input: /, '') ?? 'not accepted';
  const got = value === undefined ? 'it is missing' : `got ${shorten(JSON.stringify(value))}`;
  return badRequest(param, `${param}: ${what}, ${got}`);
}

function shorten(text: string): string {
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}

/**
 * The text of a message: a string, or a list of text parts joined.
 * @param param where it stands, for the error
 * @throws {ApiError} 400 for images, sounds and files
 */
export function contentText(content: unknown, param: string): string {
  if (content === undefined || content === null) return '';
  if (typeof content === 'string') return content;
  if (!Array.isArray(content)) {
    throw badRequest(
      param,
      `${param}: expected a string or a list of parts, got ${typeof content}`,
    );
  }
  return content.map((part: unknown, index) => partText(part, `${param}[${index}]`)).join('');
}

function partText(part: unknown, param: string): string {
  const { type, text, refusal } = (part ?? {}) as Record<string, unknown>;
  if (type === 'text' && typeof text === 'string') return text;
  if (type === 'refusal' && typeof refusal === 'string') return refusal;
  if (type === 'text') throw badRequest(`${param}.text`, `${param}.text: expected a string`);
  throw badRequest(
    `${param}.type`,
    `${param}.type: ${JSON.stringify(type) ?? 'none'} is not supported by this model, expected "text"`,
    'unsupported_content',
  );
}
