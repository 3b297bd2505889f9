/** POST /v1/chat/completions: a conversation in, the next message out. */
import { randomUUID } from 'node:crypto';
import type { ChatTurn, GenerationResult } from '../../app/text-model.ts';
import { type Choice, collectChoices, noteFigures, streamChoices } from '../answer.ts';
import { samplingOf } from '../generation-options.ts';
import { chatLogprobs } from '../logprobs.ts';
import { type ChatRequest, contentText, parseChatRequest } from '../request-schemas.ts';
import { usageOf } from '../usage.ts';
import { type Route, warnOfUnknownFields } from './context.ts';

export const chatCompletionsRoute: Route = (server, { served, enter }) => {
  server.post('/v1/chat/completions', async (request, reply) => {
    const { request: body, unknownFields } = parseChatRequest(request.body);
    warnOfUnknownFields(request, unknownFields);
    const { model, name } = served.use(body.model);
    const tokenIds = model.encodeChat(chatTurns(body.messages), {
      addGenerationPrompt: body.add_generation_prompt,
      variables: body.chat_template_kwargs,
    });
    const numChoices = body.n ?? 1;
    const limits = {
      maxTokens: body.max_completion_tokens ?? body.max_tokens ?? null,
      logprobs: body.logprobs ? (body.top_logprobs ?? 0) : null,
    };
    using scope = enter(request, reply, numChoices);
    const { signal } = scope;
    const generations = Array.from({ length: numChoices }, (_, choice) =>
      model.generate({ tokenIds, sampling: samplingOf(body, limits, choice), signal }),
    );
    const shapes = new ChatShapes(name, body);

    if (body.stream) {
      await streamChoices(reply, generations, shapes, scope);
      return reply;
    }
    const choices = await collectChoices(generations, signal);
    noteFigures(
      reply,
      choices.map(({ result }) => result),
    );
    return shapes.whole(choices);
  });
};

/** Messages as templates read them: plain text contents, and `system` for what OpenAI now calls `developer`. */
export function chatTurns(messages: ChatRequest['messages']): ChatTurn[] {
  return messages.map((message, index) => ({
    ...message,
    role: message.role === 'developer' ? 'system' : message.role,
    content: contentText(message.content, `messages[${index}].content`),
  }));
}

class ChatShapes {
  readonly #head: { id: string; created: number; model: string };
  readonly #withUsage: boolean;
  readonly #withLogprobs: boolean;

  constructor(model: string, body: ChatRequest) {
    const id = `chatcmpl-${randomUUID().replaceAll('-', '')}`;
    this.#head = { id, created: Math.floor(Date.now() / 1000), model };
    this.#withUsage = body.stream_options?.include_usage === true;
    this.#withLogprobs = body.logprobs === true;
  }

  whole(choices: readonly Choice[]) {
    return {
      object: 'chat.completion',
      ...this.#head,
      choices: choices.map(({ parts, text, result }, index) => ({
        index,
        message: { role: 'assistant', content: text, refusal: null },
        logprobs: this.#withLogprobs ? chatLogprobs(parts.flatMap((part) => part.logprobs)) : null,
        finish_reason: result.finishReason,
      })),
      usage: usageOf(
        choices.map(({ result }) => result),
        choices.length,
      ),
    };
  }

  opening(index: number) {
    return this.#chunk([
      { index, delta: { role: 'assistant', content: '' }, logprobs: null, finish_reason: null },
    ]);
  }

  part(
    { text, logprobs }: { text: string; logprobs: Choice['parts'][number]['logprobs'] },
    index: number,
  ) {
    if (text === '' && logprobs.length === 0) return undefined;
    const shown = this.#withLogprobs ? chatLogprobs(logprobs) : null;
    return this.#chunk([{ index, delta: { content: text }, logprobs: shown, finish_reason: null }]);
  }

  closing(result: GenerationResult, index: number) {
    return this.#chunk([{ index, delta: {}, logprobs: null, finish_reason: result.finishReason }]);
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
