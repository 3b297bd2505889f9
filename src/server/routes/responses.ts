/** POST /v1/responses: OpenAI's newer shape of a conversation. Nothing is stored, so `previous_response_id` is refused. */
import { randomUUID } from 'node:crypto';
import type { ChatTurn, GenerationResult } from '../../app/text-model.ts';
import {
  Answer,
  type AnswerEnd,
  collectChoices,
  type NamedEvent,
  noteFigures,
  streamEvents,
} from '../answer.ts';
import { samplingOf, standingOf } from '../generation-options.ts';
import { type AskedGrammar, askedGrammar, compiledGrammar } from '../response-format.ts';
import { parseResponsesRequest, type ResponsesRequest } from '../responses-schema.ts';
import { type ToolCall, ToolUse, withToolStop } from '../tool-use.ts';
import { chatTurns } from './chat-completions.ts';
import { type Route, warnOfUnknownFields } from './context.ts';

export const responsesRoute: Route = (server, { served, enter }) => {
  server.post('/v1/responses', async (request, reply) => {
    const { request: body, unknownFields } = parseResponsesRequest(request.body);
    warnOfUnknownFields(request, unknownFields);
    const { model, name } = served.use(body.model);
    const definitions = body.tools?.map(({ type, ...rest }) => ({ type, function: rest }));
    const tools = ToolUse.of(definitions, choiceOf(body), model, body.parallel_tool_calls);
    const tokenIds = model.encodeChat(turnsOf(body), {
      tools: tools?.tools,
      toolStart: tools?.start,
    });
    const limits = { maxTokens: body.max_output_tokens ?? null, logprobs: null };
    const asked = textGrammar(body);
    using scope = enter(request, reply, 1);
    const grammar = (await compiledGrammar(asked, model)) ?? (await tools?.grammar(model));
    const { signal } = scope;
    const sampling = withToolStop(samplingOf(body, limits, 0), tools);
    const standing = standingOf(request, body);
    const generation = model.generate({ ...standing, tokenIds, sampling, grammar, signal });
    const answer = new Answer(generation, tools);
    const shape = new ResponseShape(name, body);
    if (body.stream) {
      await streamEvents(
        reply,
        shape.events(answer, (result) => noteFigures(reply, [result])),
        scope,
        (error) => shape.failed(error.apiCode ?? 'server_error', error.message),
      );
      return reply;
    }
    const [choice] = await collectChoices(reply, [answer], scope);
    const { text, calls, result, end } = choice!;
    return shape.whole(shape.outputOf(text, calls), end, result);
  });
};

function choiceOf({ tool_choice: choice }: ResponsesRequest) {
  return typeof choice === 'object' ? { name: choice.name } : (choice ?? 'auto');
}

/** @throws {ApiError} 400 if it is not well formed */
function textGrammar({ text }: ResponsesRequest): AskedGrammar | null {
  const format = text?.format;
  if (format === undefined || format.type === 'text') return null;
  return askedGrammar('text.format', format);
}

/** Input items as chat messages. */
function turnsOf({ instructions, input }: ResponsesRequest): ChatTurn[] {
  const messages: Parameters<typeof chatTurns>[0] = [];
  if (instructions !== undefined) messages.push({ role: 'system', content: instructions });
  const items = typeof input === 'string' ? [{ role: 'user' as const, content: input }] : input;
  for (const item of items) {
    if (isMessage(item)) {
      messages.push({ role: item.role, content: asTextParts(item.content) });
    } else if (item.type === 'function_call') {
      const { call_id: id, name, arguments: args } = item;
      const call = { id, type: 'function', function: { name, arguments: args } };
      messages.push({ role: 'assistant', content: '', tool_calls: [call] });
    } else if (item.type === 'function_call_output') {
      const { call_id: id, output } = item;
      const content = typeof output === 'string' ? output : JSON.stringify(output);
      messages.push({ role: 'tool', tool_call_id: id, content });
    }
  }
  return chatTurns(messages);
}

type InputItem = Exclude<ResponsesRequest['input'], string>[number];
type InputMessage = Extract<InputItem, { role: 'user' | 'system' | 'developer' | 'assistant' }>;

function isMessage(item: InputItem): item is InputMessage {
  return 'role' in item;
}

/** `input_text` and `output_text` are what chat calls `text`. */
function asTextParts(content: unknown): unknown {
  if (!Array.isArray(content)) return content;
  return content.map((part: { type?: unknown }) =>
    part?.type === 'input_text' || part?.type === 'output_text' ? { ...part, type: 'text' } : part,
  );
}

class ResponseShape {
  readonly #id = `resp_${hex()}`;
  readonly #createdAt = Math.floor(Date.now() / 1000);
  readonly #model: string;
  readonly #body: ResponsesRequest;
  #sequence = 0;

  constructor(model: string, body: ResponsesRequest) {
    this.#model = model;
    this.#body = body;
  }

  whole(output: readonly object[], end: AnswerEnd, result: GenerationResult) {
    const isCut = end === 'length';
    const { promptTokens, outputTokens } = result.timings;
    return {
      ...this.#head(isCut ? 'incomplete' : 'completed'),
      incomplete_details: isCut ? { reason: 'max_output_tokens' } : null,
      output,
      usage: {
        input_tokens: promptTokens,
        input_tokens_details: { cached_tokens: result.cachedTokens },
        output_tokens: outputTokens,
        output_tokens_details: { reasoning_tokens: 0 },
        total_tokens: promptTokens + outputTokens,
      },
    };
  }

  outputOf(text: string, calls: readonly ToolCall[]): object[] {
    const hasText = text.trim() !== '' || calls.length === 0;
    return [
      ...(hasText ? [messageItem(`msg_${hex()}`, 'completed', text)] : []),
      ...calls.map((call) => callItem(`fc_${hex()}`, 'completed', call)),
    ];
  }

  async *events(
    answer: Answer,
    onEnd: (result: GenerationResult) => void,
  ): AsyncGenerator<NamedEvent> {
    const head = { ...this.#head('in_progress'), output: [], usage: null };
    yield this.#event('response.created', { response: head });
    yield this.#event('response.in_progress', { response: head });
    const output: object[] = [];
    let open: { id: string; text: string } | undefined;
    for await (const part of answer) {
      if (part.type === 'call') {
        if (open !== undefined) {
          yield* this.#closeMessage(open, output);
          open = undefined;
        }
        yield* this.#call(part.call, output);
        continue;
      }
      if (part.text === '' || (open === undefined && part.text.trim() === '')) continue;
      if (open === undefined) {
        open = { id: `msg_${hex()}`, text: '' };
        yield* this.#openMessage(open.id, output.length);
      }
      open.text += part.text;
      yield this.#event('response.output_text.delta', {
        ...placeOf(open.id, output.length),
        delta: part.text,
        logprobs: [],
      });
    }
    if (open === undefined && output.length === 0) {
      open = { id: `msg_${hex()}`, text: '' };
      yield* this.#openMessage(open.id, 0);
    }
    if (open !== undefined) yield* this.#closeMessage(open, output);
    const result = await answer.result;
    const end = answer.endOf(result);
    onEnd(result);
    const kind = end === 'length' ? 'response.incomplete' : 'response.completed';
    yield this.#event(kind, { response: this.whole(output, end, result) });
  }

  failed(code: string, message: string): NamedEvent {
    const response = { ...this.#head('failed'), error: { code, message }, output: [] };
    return this.#event('response.failed', { response });
  }

  *#openMessage(id: string, index: number): Generator<NamedEvent> {
    const item = { ...messageItem(id, 'in_progress', ''), content: [] };
    yield this.#event('response.output_item.added', { output_index: index, item });
    yield this.#event('response.content_part.added', { ...placeOf(id, index), part: textPart('') });
  }

  *#closeMessage({ id, text }: { id: string; text: string }, output: object[]) {
    const place = placeOf(id, output.length);
    yield this.#event('response.output_text.done', { ...place, text, logprobs: [] });
    yield this.#event('response.content_part.done', { ...place, part: textPart(text) });
    const item = messageItem(id, 'completed', text);
    yield this.#event('response.output_item.done', { output_index: output.length, item });
    output.push(item);
  }

  *#call(call: ToolCall, output: object[]): Generator<NamedEvent> {
    const id = `fc_${hex()}`;
    const place = { item_id: id, output_index: output.length };
    const begun = callItem(id, 'in_progress', { ...call, arguments: '' });
    yield this.#event('response.output_item.added', { output_index: output.length, item: begun });
    const { name, arguments: args } = call;
    yield this.#event('response.function_call_arguments.delta', { ...place, delta: args });
    yield this.#event('response.function_call_arguments.done', { ...place, name, arguments: args });
    const item = callItem(id, 'completed', call);
    yield this.#event('response.output_item.done', { output_index: output.length, item });
    output.push(item);
  }

  #event(type: string, fields: object): NamedEvent {
    return { type, sequence_number: this.#sequence++, ...fields };
  }

  #head(status: string) {
    const { instructions, max_output_tokens, temperature, top_p, tools, tool_choice, text } =
      this.#body;
    return {
      id: this.#id,
      object: 'response',
      created_at: this.#createdAt,
      status,
      error: null,
      incomplete_details: null,
      instructions: instructions ?? null,
      max_output_tokens: max_output_tokens ?? null,
      model: this.#model,
      parallel_tool_calls: true,
      previous_response_id: null,
      store: false,
      temperature: temperature ?? null,
      top_p: top_p ?? null,
      text: text ?? { format: { type: 'text' } },
      tool_choice: tool_choice ?? 'auto',
      tools: tools ?? [],
      truncation: 'disabled',
      metadata: {},
    };
  }
}

function hex(): string {
  return randomUUID().replaceAll('-', '');
}

function placeOf(id: string, index: number) {
  return { item_id: id, output_index: index, content_index: 0 };
}

function textPart(text: string) {
  return { type: 'output_text', text, annotations: [], logprobs: [] };
}

function messageItem(id: string, status: string, text: string) {
  return { id, type: 'message', status, role: 'assistant', content: [textPart(text)] };
}

function callItem(id: string, status: string, { id: callId, name, arguments: args }: ToolCall) {
  return { id, type: 'function_call', status, call_id: callId, name, arguments: args };
}
