/** What a body of /v1/responses may hold. */
import * as z from 'zod';
import { PRIORITIES } from '../engine/priority.ts';
import { cacheSaltSchema, type ParsedRequest, parseBody } from './request-schemas.ts';

const roles = ['system', 'developer', 'user', 'assistant'] as const;

const item = z.union(
  [
    z.looseObject({ role: z.enum(roles), content: z.unknown().optional() }),
    z.looseObject({
      type: z.literal('function_call'),
      call_id: z.string(),
      name: z.string(),
      arguments: z.string(),
    }),
    z.looseObject({
      type: z.literal('function_call_output'),
      call_id: z.string(),
      output: z.unknown().optional(),
    }),
  ],
  'expected a message, a function_call or a function_call_output',
);

/** `response_format` without its inner level. */
const textFormat = z.discriminatedUnion('type', [
  z.looseObject({ type: z.literal('text') }),
  z.looseObject({ type: z.literal('json_object') }),
  z.looseObject({
    type: z.literal('json_schema'),
    name: z.string().optional(),
    schema: z.record(z.string(), z.unknown()),
  }),
]);

const responsesSchema = z.object({
  model: z.string().optional(),
  input: z.union([z.string(), z.array(item).min(1)], 'expected a string or a list of items'),
  instructions: z.string().optional(),
  max_output_tokens: z.int().min(1).optional(),
  temperature: z.number().optional(),
  top_p: z.number().optional(),
  stream: z.boolean().optional(),
  user: z.string().optional(),
  priority: z.enum(PRIORITIES).optional(),
  cache_salt: cacheSaltSchema.optional(),
  tools: z
    .array(
      z.looseObject({
        type: z.literal('function'),
        name: z.string().min(1),
        description: z.string().optional(),
        parameters: z.unknown().optional(),
        strict: z.boolean().nullish(),
      }),
    )
    .optional(),
  tool_choice: z
    .union(
      [
        z.enum(['none', 'auto', 'required']),
        z.looseObject({ type: z.literal('function'), name: z.string() }),
      ],
      'expected "none", "auto", "required" or {"type": "function", "name": ...}',
    )
    .optional(),
  parallel_tool_calls: z.boolean().optional(),
  include: z.array(z.string()).optional(),
  previous_response_id: z
    .null('answers are not kept here: give the whole conversation as input')
    .optional(),
  text: z.looseObject({ format: textFormat.optional() }).optional(),
});

export type ResponsesRequest = z.infer<typeof responsesSchema>;

/** @throws {ApiError} 400 naming the field */
export function parseResponsesRequest(body: unknown): ParsedRequest<ResponsesRequest> {
  return parseBody(body, responsesSchema);
}
