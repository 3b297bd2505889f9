/** What a body of /v1/messages may hold, and its messages in the form that chat templates know. */
import * as z from 'zod';
import { badRequest } from './errors.ts';
import { type ChatRequest, contentText, type ParsedRequest, parseBody } from './request-schemas.ts';

const messagesSchema = z.object({
  model: z.string().optional(),
  messages: z
    .array(
      z.looseObject({
        role: z.enum(['user', 'assistant', 'system']),
        content: z.unknown().optional(),
      }),
    )
    .min(1),
  system: z.unknown().optional(),
  max_tokens: z.int().min(1).optional(),
  temperature: z.number().optional(),
  top_p: z.number().optional(),
  top_k: z.number().optional(),
  stop_sequences: z.array(z.string()).optional(),
  stream: z.boolean().optional(),
  tools: z
    .array(
      z.looseObject({
        name: z.string().min(1),
        description: z.string().optional(),
        input_schema: z.unknown().optional(),
      }),
    )
    .optional(),
  tool_choice: z
    .looseObject({ type: z.enum(['auto', 'any', 'tool', 'none']), name: z.string().optional() })
    .optional(),
  thinking: z.unknown().optional(),
});

export type MessagesRequest = z.infer<typeof messagesSchema>;

/**
 * @param needsMaxTokens Anthropic's API insists on it where an answer is wanted
 * @throws {ApiError} 400 naming the field
 */
export function parseMessagesRequest(
  body: unknown,
  needsMaxTokens: boolean,
): ParsedRequest<MessagesRequest> {
  const parsed = parseBody(body, messagesSchema);
  if (needsMaxTokens && parsed.request.max_tokens === undefined) {
    throw badRequest('max_tokens', 'max_tokens: expected a whole number, it is missing');
  }
  return parsed;
}

interface Block {
  readonly type?: unknown;
  readonly id?: unknown;
  readonly name?: unknown;
  readonly input?: unknown;
  readonly tool_use_id?: unknown;
  readonly content?: unknown;
}

/** @throws {ApiError} 400 for blocks that are no text, call or result */
export function messageTurns({ system, messages }: MessagesRequest): ChatRequest['messages'] {
  const turns: ChatRequest['messages'] = [];
  if (system !== undefined) turns.push({ role: 'system', content: contentText(system, 'system') });
  messages.forEach(({ role, content }, index) => {
    const param = `messages[${index}].content`;
    const blocks: Block[] = Array.isArray(content) ? content : [{ type: 'text', text: content }];
    const texts = blocks.filter(({ type }) => type !== 'tool_use' && type !== 'tool_result');
    const calls = blocks.filter(({ type }) => type === 'tool_use');
    for (const block of blocks) {
      if (block.type !== 'tool_result') continue;
      const text = contentText(block.content, `${param}.tool_result`);
      turns.push({ role: 'tool', tool_call_id: block.tool_use_id, content: text });
    }
    // A turn that holds results only has been said by them.
    if (texts.length === 0 && calls.length === 0) return;
    turns.push({
      role,
      content: contentText(texts, param),
      ...(calls.length > 0 && {
        tool_calls: calls.map(({ id, name, input }) => ({
          id,
          type: 'function',
          function: { name, arguments: JSON.stringify(input ?? {}) },
        })),
      }),
    });
  });
  return turns;
}
