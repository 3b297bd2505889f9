/** What the bodies of /tokenize and /detokenize may hold: vLLM's fields, and llama.cpp's. */
import * as z from 'zod';
import { badRequest } from './errors.ts';
import { messageSchema, parseBody, tokenListSchema } from './request-schemas.ts';

/** Others wait while a text is tokenized: a million spaces take a second. */
const MAX_CHARACTERS = 1_000_000;

const textSchema = z
  .string()
  .max(MAX_CHARACTERS, `expected at most ${MAX_CHARACTERS} characters at once`)
  .optional();

const tokenizeSchema = z.object({
  model: z.string().optional(),
  prompt: textSchema,
  content: textSchema,
  messages: z.array(messageSchema).min(1).optional(),
  add_special_tokens: z.boolean().optional(),
  add_special: z.boolean().optional(),
  add_generation_prompt: z.boolean().optional(),
  chat_template_kwargs: z.record(z.string(), z.unknown()).optional(),
});

const detokenizeSchema = z.object({
  model: z.string().optional(),
  tokens: tokenListSchema,
});

/** @throws {ApiError} 400 naming the field */
export function parseTokenizeRequest(body: unknown): z.infer<typeof tokenizeSchema> {
  const { request } = parseBody(body, tokenizeSchema);
  const { prompt, content, messages } = request;
  if ([prompt, content, messages].filter((each) => each !== undefined).length !== 1) {
    throw badRequest('prompt', 'expected one of prompt, content and messages');
  }
  return request;
}

/** @throws {ApiError} 400 naming the field */
export function parseDetokenizeRequest(body: unknown): z.infer<typeof detokenizeSchema> {
  return parseBody(body, detokenizeSchema, 'tokens').request;
}
