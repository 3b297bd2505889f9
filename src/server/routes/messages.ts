/** POST /v1/messages and /v1/messages/count_tokens: Anthropic's shape of a conversation. */
import { randomUUID } from 'node:crypto';
import type { ChatTurn, GenerationResult, TextModel } from '../../app/text-model.ts';
import {
  Answer,
  type AnswerEnd,
  type Choice,
  collectChoices,
  type NamedEvent,
  noteFigures,
  streamEvents,
} from '../answer.ts';
import { type ApiError, toApiError } from '../errors.ts';
import { standingOf } from '../generation-options.ts';
import { type MessagesRequest, messageTurns, parseMessagesRequest } from '../messages-schema.ts';
import type { ToolCall } from '../tool-use.ts';
import { type ToolChoice, ToolUse, withToolStop } from '../tool-use.ts';
import { chatTurns } from './chat-completions.ts';
import { type Route, warnOfUnknownFields } from './context.ts';

export const messagesRoute: Route = (server, { served, enter }) => {
  server.register(async (scoped) => {
    scoped.setErrorHandler((error, request, reply) => {
      const apiError = toApiError(error);
      if (apiError.status >= 500)
        request.log.error({ err: apiError.cause ?? error }, apiError.message);
      return reply.code(apiError.status).headers(apiError.headers).send(errorBody(apiError));
    });

    scoped.post('/v1/messages', async (request, reply) => {
      const { request: body, unknownFields } = parseMessagesRequest(request.body, true);
      warnOfUnknownFields(request, unknownFields);
      const { model, name } = served.use(body.model);
      const { tokenIds, tools } = promptOf(body, model);
      const sampling = {
        temperature: body.temperature,
        topP: body.top_p,
        topK: body.top_k,
        stop: body.stop_sequences,
        maxTokens: body.max_tokens,
      };
      const standing = standingOf(request, {});
      using scope = enter(request, reply, 1);
      const { signal } = scope;
      const grammar = await tools?.grammar(model);
      const bounded = withToolStop(sampling, tools);
      const generation = model.generate({
        ...standing,
        tokenIds,
        sampling: bounded,
        grammar,
        signal,
      });
      const answer = new Answer(generation, tools);
      const shape = new MessageShape(name, tokenIds.length);
      if (body.stream) {
        const onEnd = (result: GenerationResult) => noteFigures(reply, [result]);
        await streamEvents(reply, shape.events(answer, onEnd), scope, errorBody);
        return reply;
      }
      const [choice] = await collectChoices(reply, [answer], scope);
      return shape.whole(choice!);
    });

    scoped.post('/v1/messages/count_tokens', async (request) => {
      const { request: body } = parseMessagesRequest(request.body, false);
      return { input_tokens: promptOf(body, served.use(body.model).model).tokenIds.length };
    });
  });
};

function promptOf(body: MessagesRequest, model: TextModel) {
  const definitions = body.tools?.map(({ name, description, input_schema: parameters }) => ({
    type: 'function' as const,
    function: { name, description, parameters },
  }));
  const tools = ToolUse.of(definitions, choiceOf(body), model);
  const turns: ChatTurn[] = chatTurns(messageTurns(body));
  // A last turn of the assistant is the beginning of the answer: it is not ended.
  const last = turns.at(-1);
  const prefill = last?.role === 'assistant' ? last.content : undefined;
  const tokenIds = model.encodeChat(prefill === undefined ? turns : turns.slice(0, -1), {
    tools: tools?.tools,
    toolStart: tools?.start ?? prefill,
  });
  return { tokenIds, tools };
}

function choiceOf({ tool_choice: choice }: MessagesRequest): ToolChoice {
  switch (choice?.type) {
    case 'any':
      return 'required';
    case 'tool':
      return { name: choice.name ?? '' };
    default:
      return choice?.type ?? 'auto';
  }
}

function errorBody({ status, message }: ApiError) {
  const types: Record<number, string> = {
    400: 'invalid_request_error',
    401: 'authentication_error',
    403: 'permission_error',
    404: 'not_found_error',
    413: 'request_too_large',
    429: 'rate_limit_error',
    503: 'overloaded_error',
  };
  const type = types[status] ?? (status < 500 ? 'invalid_request_error' : 'api_error');
  return { type: 'error', error: { type, message } };
}

class MessageShape {
  readonly #id = `msg_${randomUUID().replaceAll('-', '')}`;
  readonly #model: string;
  readonly #promptTokens: number;

  constructor(model: string, promptTokens: number) {
    this.#model = model;
    this.#promptTokens = promptTokens;
  }

  whole({ text, calls, end, result }: Choice) {
    const hasText = text.trim() !== '' || calls.length === 0;
    return {
      ...this.#head(),
      content: [...(hasText ? [{ type: 'text', text }] : []), ...calls.map(useBlock)],
      ...stopOf(end, result),
      usage: usageOf(result),
    };
  }

  async *events(
    answer: Answer,
    onEnd: (result: GenerationResult) => void,
  ): AsyncGenerator<NamedEvent> {
    const usage = { input_tokens: this.#promptTokens, output_tokens: 0 };
    const empty = { content: [], stop_reason: null, stop_sequence: null, usage };
    yield { type: 'message_start', message: { ...this.#head(), ...empty } };
    yield { type: 'ping' };
    let index = 0;
    let isTextOpen = false;
    for await (const part of answer) {
      if (part.type === 'call') {
        if (isTextOpen) yield { type: 'content_block_stop', index: index++ };
        isTextOpen = false;
        const block = { ...useBlock(part.call), input: {} };
        yield { type: 'content_block_start', index, content_block: block };
        const delta = { type: 'input_json_delta', partial_json: part.call.arguments };
        yield { type: 'content_block_delta', index, delta };
        yield { type: 'content_block_stop', index: index++ };
        continue;
      }
      if (part.text === '' || (!isTextOpen && index > 0 && part.text.trim() === '')) continue;
      if (!isTextOpen) {
        yield { type: 'content_block_start', index, content_block: { type: 'text', text: '' } };
      }
      isTextOpen = true;
      yield { type: 'content_block_delta', index, delta: { type: 'text_delta', text: part.text } };
    }
    if (isTextOpen) yield { type: 'content_block_stop', index };
    const result = await answer.result;
    onEnd(result);
    const delta = stopOf(answer.endOf(result), result);
    yield { type: 'message_delta', delta, usage: usageOf(result) };
    yield { type: 'message_stop' };
  }

  #head() {
    return { id: this.#id, type: 'message', role: 'assistant', model: this.#model };
  }
}

function useBlock({ id, name, arguments: args }: ToolCall) {
  return {
    type: 'tool_use',
    id: id.replace('call_', 'toolu_'),
    name,
    input: JSON.parse(args) as unknown,
  };
}

function stopOf(end: AnswerEnd, { stopReason }: GenerationResult) {
  const isSequence = end === 'stop' && typeof stopReason === 'string';
  const reasons = {
    stop: 'end_turn',
    length: 'max_tokens',
    tool_calls: 'tool_use',
    abort: 'end_turn',
  };
  return {
    stop_reason: isSequence ? 'stop_sequence' : reasons[end],
    stop_sequence: isSequence ? stopReason : null,
  };
}

function usageOf({ timings, cachedTokens }: GenerationResult) {
  return {
    input_tokens: timings.promptTokens - cachedTokens,
    cache_creation_input_tokens: 0,
    cache_read_input_tokens: cachedTokens,
    output_tokens: timings.outputTokens,
  };
}
