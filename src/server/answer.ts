/**
 * What the two generating endpoints share: running the choices of a request side by side, either collected into one answer or sent as a
 * stream of chunks. Knows nothing of the shape of answers and chunks.
 */
import type { FastifyReply } from 'fastify';
import type { Generation, GenerationPart, GenerationResult } from '../app/text-model.ts';
import { toApiError } from './errors.ts';
import { EventStream } from './sse.ts';

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
 * @param signal aborted when nobody reads any more: ends quietly
 */
export async function streamChoices(
  reply: FastifyReply,
  generations: readonly Generation[],
  shapes: ChunkShapes,
  signal: AbortSignal,
): Promise<void> {
  reply.hijack();
  const stream = new EventStream(reply.raw, signal);
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
  } catch (error) {
    if (reply.raw.destroyed) return;
    reply.log.error({ err: error }, 'a stream ended with an error');
    reply.raw.end(`data: ${JSON.stringify(toApiError(error).toBody())}\n\n`);
  }
}
