/**
 * Calls of functions as a grammar: in the format of the model's template, with the arguments that the function's schema allows. Knows formats
 * and nothing of requests.
 */
import type { GrammarInput } from '../grammar/grammar-spec.ts';
import { type ToolStyle, toolCallStart } from './tool-prompt.ts';

/** A function that the model may call. */
export interface CallableTool {
  readonly name: string;
  /** JSON schema of the arguments; `null`: any object. */
  readonly parameters: unknown;
}

export interface ToolGrammarOptions {
  /** The answer was made to begin with this, and goes on from there as a call; `null`: it may be any text with calls in it. */
  readonly start: string | null;
  /** Whether further calls may follow the first. */
  readonly isParallel: boolean;
}

const ANY_OBJECT = { type: 'object', additionalProperties: true };

export function toolGrammar(
  style: ToolStyle,
  tools: readonly CallableTool[],
  { start, isParallel }: ToolGrammarOptions,
): GrammarInput {
  const end = style === 'hermes' ? '}\n</tool_call>' : '}';
  const tags = tools.map(({ name, parameters }) => ({
    begin: toolCallStart(style, name),
    schema: parameters ?? ANY_OBJECT,
    end,
  }));
  // A Llama 3 answer is one call, or none.
  const hasMore = start === null || (isParallel && style === 'hermes');
  return {
    type: 'tags',
    first:
      start === null
        ? null
        : tags
            .filter(({ begin }) => begin.startsWith(start))
            .map((tag) => ({ ...tag, begin: tag.begin.slice(start.length) })),
    more: hasMore ? { trigger: style === 'hermes' ? '<tool_call>' : '{"name": "', tags } : null,
    isSingle: !isParallel || style !== 'hermes',
  };
}
