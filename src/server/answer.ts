/**
 * What the two generating endpoints share: running the choices of a request side by side, either collected into one answer or sent as a
 * stream of chunks. Knows nothing of the shape of answers and chunks.
 */
import type { FastifyReply } from 'fastify';
import type { Generation, GenerationPart, GenerationResult } from '../app/text-model.ts';
import { type ApiError, toApiError } from './errors.ts';
import type { RequestScope } from './request-scope.ts';
import { EventStream, SlowReaderError } from './sse.ts';

/** One answer, whole. */
export interface Choice {
  readonly parts: readonly GenerationPart[];
  readonly text: string;
  readonly result: GenerationResult;
}

/**
 * Waits for all choices.
 * @throws the reason of `signal` if they were cut off
 */
export async function collectChoices(
  generations: readonly Generation[],
  signal: AbortSignal,
): Promise<Choice[]> {
  const choices = await Promise.all(generations.map(collectChoice));
  signal.throwIfAborted();
  return choices;
}

async function collectChoice(generation: Generation): Promise<Choice> {
  const parts: GenerationPart[] = [];
  for await (const part of generation) parts.push(part);
  return {
    parts,
    text: parts.map(({ text }) => text).join(''),
    result: await generation.result,
  };
}

export interface ChunkShapes {
  /** Sent before the first token; undefined for none. */
  opening(choice: number): unknown;
  /** undefined: nothing to send for this part. */
  part(part: GenerationPart, choice: number): unknown;
  closing(result: GenerationResult, choice: number): unknown;
  /** After all choices; undefined for none. */
  usage(results: readonly GenerationResult[]): unknown;
}

/**
 * Streams the choices as they come. A fault after the head was sent goes into the stream as an `error` event, and the stream ends without
 * `[DONE]`.
 * @param scope ends when nobody reads any more, and the stream then ends quietly
 */
export async function streamChoices(
  reply: FastifyReply,
  generations: readonly Generation[],
  shapes: ChunkShapes,
  scope: RequestScope,
): Promise<void> {
  const stream = openStream(reply, scope);
  const send = (value: unknown) => (value === undefined ? undefined : stream.send(value));
  try {
    const results = await Promise.all(
      generations.map(async (generation, choice) => {
        await send(shapes.opening(choice));
        for await (const part of generation) await send(shapes.part(part, choice));
        const result = await generation.result;
        await send(shapes.closing(result, choice));
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

/** Takes the answer out of fastify's hands and begins an event stream. */
export function openStream(reply: FastifyReply, scope: RequestScope): EventStream {
  const headers = Object.fromEntries(
    Object.entries(reply.getHeaders()).map(([name, value]) => [name, String(value)]),
  );
  reply.hijack();
  return new EventStream(reply.raw, scope.signal, { slowReaderMs: scope.slowReaderMs, headers });
}

/** The last words of a stream that has failed, if there is anybody to hear them. */
export function endFailedStream(
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
  const sum = (pick: (result: GenerationResult) => number): number =>
    results.reduce((total, result) => total + pick(result), 0);
  reply.request.figures = {
    promptTokens: results[0]?.timings.promptTokens ?? 0,
    cachedTokens: results[0]?.cachedTokens ?? 0,
    outputTokens: sum(({ timings }) => timings.outputTokens),
    ttftMs: Math.round(results[0]?.timings.ttftMs ?? 0),
    finishReasons: results.map(({ finishReason }) => finishReason).join(','),
  };
}
