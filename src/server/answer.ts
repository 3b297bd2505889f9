/**
 * What the generating endpoints share: a model's output as parts of an answer (text and calls of functions), the choices of a request side by
 * side, either collected into one answer or sent as a stream. Knows nothing of the shape of answers and chunks.
 */
import type { FastifyReply } from 'fastify';
import type { Generation, GenerationResult, TokenLogprobs } from '../app/text-model.ts';
import { type ApiError, toApiError } from './errors.ts';
import type { RequestScope } from './request-scope.ts';
import { EventStream, SlowReaderError } from './sse.ts';
import { type ToolCall, type ToolUse, toolCallOf } from './tool-use.ts';

export type AnswerPart =
  | { readonly type: 'text'; readonly text: string; readonly logprobs: readonly TokenLogprobs[] }
  | { readonly type: 'call'; readonly call: ToolCall };

/** Why an answer ended, calls of functions being a reason of their own. */
export type AnswerEnd = 'stop' | 'length' | 'tool_calls' | 'abort';

/** One answer on its way. Iterate once. */
export class Answer {
  readonly #generation: Generation;
  readonly #tools: ToolUse | null;
  #numCalls = 0;

  constructor(generation: Generation, tools: ToolUse | null = null) {
    this.#generation = generation;
    this.#tools = tools;
  }

  get result(): Promise<GenerationResult> {
    return this.#generation.result;
  }

  /** There when the iteration is over. */
  endOf({ finishReason }: GenerationResult): AnswerEnd {
    return finishReason === 'stop' && this.#numCalls > 0 ? 'tool_calls' : finishReason;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<AnswerPart, void, undefined> {
    if (this.#tools === null) {
      for await (const { text, logprobs } of this.#generation)
        yield { type: 'text', text, logprobs };
      return;
    }
    const parser = this.#tools.createParser();
    for await (const { text, logprobs } of this.#generation) {
      const parts = parser.push(text).map((piece) => this.#partOf(piece));
      // Log probabilities go with the token, whatever became of its text.
      if (logprobs.length > 0) yield { type: 'text', text: '', logprobs };
      yield* parts;
    }
    yield* parser.end().map((piece) => this.#partOf(piece));
  }

  #partOf(piece: ReturnType<ReturnType<ToolUse['createParser']>['push']>[number]): AnswerPart {
    if (piece.type === 'text') return { type: 'text', text: piece.text, logprobs: [] };
    this.#numCalls++;
    return { type: 'call', call: toolCallOf(piece) };
  }
}

/** One answer, whole. */
export interface Choice {
  readonly text: string;
  readonly calls: readonly ToolCall[];
  readonly logprobs: readonly TokenLogprobs[];
  readonly result: GenerationResult;
  readonly end: AnswerEnd;
}

/**
 * Waits for all choices.
 * @throws the reason of the scope's signal if they were cut off
 */
export async function collectChoices(
  reply: FastifyReply,
  answers: readonly Answer[],
  { signal }: RequestScope,
): Promise<Choice[]> {
  const choices = await Promise.all(answers.map(collectChoice));
  signal.throwIfAborted();
  noteFigures(
    reply,
    choices.map(({ result }) => result),
  );
  return choices;
}

async function collectChoice(answer: Answer): Promise<Choice> {
  const texts: string[] = [];
  const calls: ToolCall[] = [];
  const logprobs: TokenLogprobs[] = [];
  for await (const part of answer) {
    if (part.type === 'call') calls.push(part.call);
    else {
      texts.push(part.text);
      logprobs.push(...part.logprobs);
    }
  }
  const result = await answer.result;
  return { text: texts.join(''), calls, logprobs, result, end: answer.endOf(result) };
}

/** The chunks that an endpoint makes of what comes; undefined for none. */
export interface ChunkShapes {
  /** Before the first token. */
  opening(choice: number): unknown;
  part(part: AnswerPart, choice: number): unknown;
  closing(end: AnswerEnd, result: GenerationResult, choice: number): unknown;
  /** After all choices. */
  usage(results: readonly GenerationResult[]): unknown;
}

/**
 * Streams the choices as they come. A fault after the head was sent goes into the stream as an `error` event, and the stream ends without
 * `[DONE]`.
 * @param scope ends when nobody reads any more, and the stream then ends quietly
 */
export async function streamChoices(
  reply: FastifyReply,
  answers: readonly Answer[],
  shapes: ChunkShapes,
  scope: RequestScope,
): Promise<void> {
  const stream = openStream(reply, scope);
  const send = (value: unknown) => (value === undefined ? undefined : stream.send(value));
  try {
    const results = await Promise.all(
      answers.map(async (answer, choice) => {
        await send(shapes.opening(choice));
        for await (const part of answer) await send(shapes.part(part, choice));
        const result = await answer.result;
        await send(shapes.closing(answer.endOf(result), result, choice));
        return result;
      }),
    );
    await send(shapes.usage(results));
    await stream.finish();
    noteFigures(reply, results);
  } catch (error) {
    endFailedStream(reply, error, (apiError) => `data: ${JSON.stringify(apiError.toBody())}\n\n`);
  }
}

/** An event with its kind beside it, as the newer APIs stream them. */
export interface NamedEvent {
  readonly type: string;
  readonly [field: string]: unknown;
}

/**
 * Streams the events of one answer.
 * @param write the last words where it fails
 */
export async function streamEvents(
  reply: FastifyReply,
  events: AsyncIterable<NamedEvent>,
  scope: RequestScope,
  write: (error: ApiError) => NamedEvent,
): Promise<void> {
  const stream = openStream(reply, scope);
  try {
    for await (const event of events) await stream.sendNamed(event.type, event);
    stream.end();
  } catch (error) {
    endFailedStream(reply, error, (apiError) => {
      const event = write(apiError);
      return `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`;
    });
  }
}

/** Takes the answer out of fastify's hands and begins an event stream. */
function openStream(reply: FastifyReply, scope: RequestScope): EventStream {
  const headers = Object.fromEntries(
    Object.entries(reply.getHeaders()).map(([name, value]) => [name, String(value)]),
  );
  reply.hijack();
  return new EventStream(reply.raw, scope.signal, { slowReaderMs: scope.slowReaderMs, headers });
}

/** The last words of a stream that has failed, if there is anybody to hear them. */
function endFailedStream(
  reply: FastifyReply,
  error: unknown,
  write: (error: ApiError) => string,
): void {
  if (reply.raw.destroyed || reply.raw.writableEnded) {
    if (error instanceof SlowReaderError) reply.log.warn(error.message);
    return;
  }
  reply.log.error({ err: error }, 'a stream ended with an error');
  reply.raw.end(write(toApiError(error)));
}

/** For the log line of the request. */
export function noteFigures(reply: FastifyReply, results: readonly GenerationResult[]): void {
  reply.request.figures = {
    promptTokens: results[0]?.timings.promptTokens ?? 0,
    cachedTokens: results[0]?.cachedTokens ?? 0,
    outputTokens: results.reduce((total, { timings }) => total + timings.outputTokens, 0),
    ttftMs: Math.round(results[0]?.timings.ttftMs ?? 0),
    finishReasons: results.map(({ finishReason }) => finishReason).join(','),
  };
}
