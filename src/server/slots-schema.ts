/** What /slots takes: llama.cpp's `action` and `filename`, and beside them the text that is meant. */
import * as z from 'zod';
import { badRequest } from './errors.ts';
import {
  cacheSaltSchema,
  messageSchema,
  type ParsedRequest,
  parseBody,
  tokenIdsSchema,
  toolSchema,
} from './request-schemas.ts';

export const SLOT_ACTIONS = ['save', 'restore', 'erase'] as const;
export type SlotAction = (typeof SLOT_ACTIONS)[number];

const slotSchema = z.object({
  model: z.string().optional(),
  // No separators, and no dot at the start: it stays in its folder.
  filename: z
    .string()
    .regex(/^\w[\w.-]{0,127}$/, 'expected a name of letters, digits, dot, hyphen and underscore')
    .optional(),
  prompt: z.union([z.string(), tokenIdsSchema], 'expected a string or token ids').optional(),
  messages: z.array(messageSchema).min(1).optional(),
  tools: z.array(toolSchema).optional(),
  chat_template_kwargs: z.record(z.string(), z.unknown()).optional(),
  cache_salt: cacheSaltSchema.optional(),
});

export type SlotRequest = z.infer<typeof slotSchema>;

/** @throws {ApiError} 400 naming what is wrong */
export function parseSlotAction(id: string, action: unknown): { id: number; action: SlotAction } {
  if (!/^\d{1,9}$/.test(id)) {
    throw badRequest('id_slot', `/slots/${id}: expected a whole number for the slot`);
  }
  const known = SLOT_ACTIONS.find((each) => each === action);
  if (known !== undefined) return { id: Number(id), action: known };
  const accepted = `one of ${SLOT_ACTIONS.join(', ')}`;
  throw badRequest('action', `action: expected ${accepted}, got ${JSON.stringify(action)}`);
}

/** @throws {ApiError} 400 naming the field */
export function parseSlotRequest(body: unknown, action: SlotAction): ParsedRequest<SlotRequest> {
  const parsed = parseBody(body, slotSchema, 'prompt');
  const { prompt, messages } = parsed.request;
  const numTexts = [prompt, messages].filter((each) => each !== undefined).length;
  if (action !== 'restore' && numTexts !== 1) {
    throw badRequest(
      'prompt',
      `prompt: there are no slots here that hold a text, so say which one to ${action}: one of prompt and messages`,
    );
  }
  if (action !== 'erase' && parsed.request.filename === undefined) {
    throw badRequest('filename', `filename: expected the name of the file to ${action}`);
  }
  return parsed;
}
