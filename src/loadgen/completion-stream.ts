/**
 * What the chunks of a streamed completion say, chat or plain: text, the end, usage, errors. Knows OpenAI's chunk shapes, no HTTP and no clock.
 */

export interface ChunkFacts {
  /** Text, reasoning and arguments of tool calls: whatever the model wrote. */
  readonly content: string;
  /** What belongs to the answer's text, for the next turn. */
  readonly text: string;
  readonly finishReason: string | null;
  readonly usage: StreamUsage | null;
}

export interface StreamUsage {
  readonly promptTokens: number;
  readonly outputTokens: number;
  readonly cachedTokens: number | null;
}

/** A chunk that says that something went wrong. */
export class StreamedError extends Error {}

/** What came is no chunk. */
export class MalformedChunkError extends Error {}

/**
 * @param data of one event, not `[DONE]`
 * @throws {StreamedError} if the chunk is an error
 * @throws {MalformedChunkError} if it is no JSON object
 */
export function parseChunk(data: string): ChunkFacts {
  const chunk = parseObject(data);
  if (chunk.error !== undefined && chunk.error !== null) {
    throw new StreamedError(errorMessage(chunk) ?? data);
  }
  let content = '';
  let text = '';
  let finishReason: string | null = null;
  for (const choice of asList(chunk.choices)) {
    const delta = asObject(choice.delta);
    const piece = asText(choice.text) + asText(delta.content);
    text += piece;
    content += piece + asText(delta.reasoning_content) + asText(delta.reasoning);
    for (const call of asList(delta.tool_calls))
      content += asText(asObject(call.function).arguments);
    if (typeof choice.finish_reason === 'string') finishReason = choice.finish_reason;
  }
  return { content, text, finishReason, usage: usageOf(chunk.usage) };
}

/** The message of an error body, as OpenAI, vLLM, llama.cpp or ollama word it; undefined if there is none. */
export function errorMessage(body: unknown): string | undefined {
  const { error, message } = asObject(body);
  if (typeof error === 'string') return error;
  const inner = asObject(error).message ?? message;
  return typeof inner === 'string' ? inner : undefined;
}

function parseObject(data: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(data);
    if (typeof value === 'object' && value !== null) return value as Record<string, unknown>;
  } catch {
    // Said below.
  }
  throw new MalformedChunkError(`not a chunk of a completion: ${data.slice(0, 80)}`);
}

function usageOf(value: unknown): StreamUsage | null {
  const usage = asObject(value);
  const { prompt_tokens: promptTokens, completion_tokens: outputTokens } = usage;
  if (typeof outputTokens !== 'number') return null;
  const cached = asObject(usage.prompt_tokens_details).cached_tokens;
  return {
    promptTokens: typeof promptTokens === 'number' ? promptTokens : 0,
    outputTokens,
    cachedTokens: typeof cached === 'number' ? cached : null,
  };
}

function asObject(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
}

function asList(value: unknown): Record<string, unknown>[] {
  return Array.isArray(value) ? value.map(asObject) : [];
}

function asText(value: unknown): string {
  return typeof value === 'string' ? value : '';
}
