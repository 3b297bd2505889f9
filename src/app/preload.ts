/**
 * Prompts that are computed before a server says that it is ready, so that the first request that begins like one of them finds its keys and
 * values in the prefix cache. They are pinned there: until a request that would not fit otherwise needs the room.
 */
import * as z from 'zod';
import { HastenError } from '../platform/errors.ts';
import type { TextModel } from './text-model.ts';

export class PreloadError extends HastenError {
  constructor(message: string) {
    super('invalid_preload', message);
  }
}

const turn = z.looseObject({ role: z.string(), content: z.string() });
const preloadSchema = z.array(
  z.union([
    z.string().min(1),
    z.strictObject({ messages: z.array(turn).min(1), tools: z.array(z.unknown()).optional() }),
  ]),
);

/** A plain prompt, or the beginning of a conversation. */
export type Preload = z.infer<typeof preloadSchema>[number];

/** @throws {PreloadError} if it is not a list of texts and conversations */
export function parsePreload(text: string): readonly Preload[] {
  const accepted =
    'a JSON list of texts and of {"messages": [{"role", "content"}, ...], "tools": [...]}';
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new PreloadError(`--preload: expected ${accepted}: ${(error as Error).message}`);
  }
  const parsed = preloadSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  const place = parsed.error.issues[0]?.path.join('.') ?? '';
  throw new PreloadError(`--preload: expected ${accepted}; entry ${place} is none of these`);
}

export interface PreloadFigures {
  readonly numPrompts: number;
  readonly numTokens: number;
  /** Those of full KV blocks. */
  readonly numPinnedTokens: number;
  readonly tookMs: number;
}

/**
 * Computes them one after the other, so that each finds what it shares with those before.
 *
 * @throws {RequestError | RequestTooLongError} if one is too long, or all together are too much to pin
 */
export async function preload(
  model: TextModel,
  prompts: readonly Preload[],
  signal: AbortSignal,
): Promise<PreloadFigures> {
  const startMs = performance.now();
  let numTokens = 0;
  let numPinnedTokens = 0;
  for (const prompt of prompts) {
    const tokenIds =
      typeof prompt === 'string'
        ? model.encodePrompt(prompt)
        : model.encodeChat(prompt.messages, { tools: prompt.tools, addGenerationPrompt: false });
    numTokens += tokenIds.length;
    numPinnedTokens += await model.calls.pinPrefix({ tokenIds });
    signal.throwIfAborted();
  }
  const tookMs = Math.round(performance.now() - startMs);
  return { numPrompts: prompts.length, numTokens, numPinnedTokens, tookMs };
}
