/** What a body of /v1/embeddings may hold. */
import * as z from 'zod';
import { PRIORITIES } from '../engine/priority.ts';
import { cacheSaltSchema, type ParsedRequest, parseBody, textsSchema } from './request-schemas.ts';

/** OpenAI's limit. */
const MAX_INPUTS = 2048;

const embeddingsSchema = z.object({
  model: z.string().optional(),
  input: textsSchema(MAX_INPUTS),
  encoding_format: z.enum(['float', 'base64']).optional(),
  dimensions: z.int().min(1).optional(),
  user: z.string().optional(),
  priority: z.enum(PRIORITIES).optional(),
  cache_salt: cacheSaltSchema.optional(),
});

export type EmbeddingsRequest = z.infer<typeof embeddingsSchema>;

/** @throws {ApiError} 400 naming the field */
export function parseEmbeddingsRequest(body: unknown): ParsedRequest<EmbeddingsRequest> {
  return parseBody(body, embeddingsSchema, 'input');
}
