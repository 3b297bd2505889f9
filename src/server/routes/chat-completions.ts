/** POST /v1/chat/completions: a conversation in, the next message out. */
import { randomUUID } from 'node:crypto';
import type { ChatTurn, GenerationResult } from '../../app/text-model.ts';
import {
  Answer,
  type AnswerEnd,
  type AnswerPart,
  type Choice,
  type ChunkShapes,
  collectChoices,
  streamChoices,
} from '../answer.ts';
import { requireModest } from '../body-bounds.ts';
import { badRequest } from '../errors.ts';
import { samplingOf, standingOf } from '../generation-options.ts';
import { chatLogprobs } from '../logprobs.ts';
import { type ChatRequest, contentText, parseChatRequest } from '../request-schemas.ts';
import { compiledGrammar, grammarOf } from '../response-format.ts';
import { timingsOf } from '../timings.ts';
import { type ToolCall, type ToolChoice, ToolUse, withToolStop } from '../tool-use.ts';
import { usageOf } from '../usage.ts';
import { type Route, warnOfUnknownFields } from './context.ts';

export const chatCompletionsRoute: Route = (server, { served, enter }) => {
  server.post('/v1/chat/completions', async (request, reply) => {
    const { request: body, unknownFields } = parseChatRequest(request.body);
    warnOfUnknownFields(request, unknownFields);
    const { model, name } = served.use(body.model);
    const tools = ToolUse.of(
      body.tools,
      toolChoiceOf(body.tool_choice),
      model,
      body.parallel_tool_calls,
    );
    const tokenIds = model.encodeChat(chatTurns(body.messages), {
      addGenerationPrompt: body.add_generation_prompt,
      variables: body.chat_template_kwargs,
      tools: tools?.tools,
      toolStart: tools?.start,
    });
    const limits = {
      maxTokens: body.max_completion_tokens ?? body.max_tokens ?? null,
      logprobs: body.logprobs ? (body.top_logprobs ?? 0) : null,
    };
    const numChoices = body.n ?? 1;
    const asked = grammarOf(body);
    using scope = enter(request, reply, numChoices);
    const grammar = (await compiledGrammar(asked, model)) ?? (await tools?.grammar(model));
    const { signal } = scope;
    const standing = standingOf(request, body);
    const answers = Array.from({ length: numChoices }, (_, choice) => {
      const sampling = withToolStop(samplingOf(body, limits, choice), tools);
      return new Answer(
        model.generate({ ...standing, tokenIds, sampling, grammar, signal }),
        tools,
      );
    });
    const shapes = new ChatShapes(name, body);
    if (body.stream) {
      await streamChoices(reply, answers, shapes, scope);
      return reply;
    }
    return shapes.whole(await collectChoices(reply, answers, scope));
  });
};

function toolChoiceOf(choice: ChatRequest['tool_choice']): ToolChoice {
  if (typeof choice === 'object') return { name: choice.function.name };
  return choice ?? 'auto';
}

/**
 * Messages as templates read them: plain text contents, `system` for what OpenAI now calls `developer`, and the arguments of calls as objects.
 */
export function chatTurns(messages: ChatRequest['messages']): ChatTurn[] {
  return messages.map((message, index) => {
    const param = `messages[${index}]`;
    if (message.role === 'user' && message.content == null) {
      throw badRequest(`${param}.content`, `${param}.content: is missing`);
    }
    return {
      ...message,
      role: message.role === 'developer' ? 'system' : message.role,
      content: contentText(message.content, `${param}.content`),
      ...(Array.isArray(message.tool_calls) && {
        tool_calls: message.tool_calls.map((call, place) =>
          withParsedArguments(call, `${param}.tool_calls[${place}]`),
        ),
      }),
    };
  });
}

function withParsedArguments(call: unknown, param: string): object {
  const { function: called, ...rest } = (call ?? {}) as { function?: { arguments?: unknown } };
  const args = called?.arguments;
  if (typeof args !== 'string') return { ...rest, function: called };
  const where = `${param}.function.arguments`;
  let parsed: unknown;
  try {
    parsed = JSON.parse(args || '{}');
  } catch {
    throw badRequest(param, `${where}: expected JSON, got ${args.slice(0, 60)}`);
  }
  requireModest(where, parsed);
  return { ...rest, function: { ...called, arguments: parsed } };
}

class ChatShapes implements ChunkShapes {
  readonly #head: { id: string; created: number; model: string };
  readonly #withUsage: boolean;
  readonly #withLogprobs: boolean;
  /** Calls sent so far, by choice. */
  readonly #numCalls = new Map<number, number>();

  constructor(model: string, body: ChatRequest) {
    const id = `chatcmpl-${randomUUID().replaceAll('-', '')}`;
    this.#head = { id, created: Math.floor(Date.now() / 1000), model };
    this.#withUsage = body.stream_options?.include_usage === true;
    this.#withLogprobs = body.logprobs === true;
  }

  whole(choices: readonly Choice[]) {
    const results = choices.map(({ result }) => result);
    return {
      object: 'chat.completion',
      ...this.#head,
      choices: choices.map(({ text, calls, logprobs, end }, index) => ({
        index,
        message: {
          role: 'assistant',
          content: calls.length > 0 && text.trim() === '' ? null : text,
          refusal: null,
          ...(calls.length > 0 && { tool_calls: calls.map(callObject) }),
        },
        logprobs: this.#withLogprobs ? chatLogprobs(logprobs) : null,
        finish_reason: end,
      })),
      usage: usageOf(results, choices.length),
      timings: timingsOf(results[0]!),
    };
  }

  opening(index: number) {
    return this.#chunk([
      { index, delta: { role: 'assistant', content: '' }, logprobs: null, finish_reason: null },
    ]);
  }

  part(part: AnswerPart, index: number) {
    if (part.type === 'call') {
      const place = this.#numCalls.get(index) ?? 0;
      this.#numCalls.set(index, place + 1);
      const delta = { tool_calls: [{ index: place, ...callObject(part.call) }] };
      return this.#chunk([{ index, delta, logprobs: null, finish_reason: null }]);
    }
    const { text, logprobs } = part;
    if (text === '' && logprobs.length === 0) return undefined;
    const shown = this.#withLogprobs ? chatLogprobs(logprobs) : null;
    return this.#chunk([{ index, delta: { content: text }, logprobs: shown, finish_reason: null }]);
  }

  closing(end: AnswerEnd, result: GenerationResult, index: number) {
    const chunk = this.#chunk([{ index, delta: {}, logprobs: null, finish_reason: end }]);
    return { ...chunk, timings: timingsOf(result) };
  }

  usage(results: readonly GenerationResult[]) {
    if (!this.#withUsage) return undefined;
    return { ...this.#chunk([]), usage: usageOf(results, results.length) };
  }

  #chunk(choices: readonly unknown[]) {
    const usage = this.#withUsage ? { usage: null } : {};
    return { object: 'chat.completion.chunk', ...this.#head, choices, ...usage };
  }
}

function callObject({ id, name, arguments: args }: ToolCall) {
  return { id, type: 'function' as const, function: { name, arguments: args } };
}
