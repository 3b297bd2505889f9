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

/** What ends a call, after the object of its arguments. */
const ENDS: Readonly<Record<ToolStyle, string>> = {
  hermes: '}\n</tool_call>',
  json: '}',
  mistral: '}]',
  glm: '',
  'glm-keys': '',
};
/** What begins a call in text that is free: not a control token, which no grammar can ask for, and not a name alone. */
const TRIGGERS: Readonly<Record<ToolStyle, string | null>> = {
  hermes: '<tool_call>',
  json: '{"name": "',
  mistral: null,
  glm: null,
  'glm-keys': null,
};

const ANY_OBJECT = { type: 'object', additionalProperties: true };

/** null: calls of this style cannot be told from the text that they may stand in, or are no JSON, so nothing can be asked of them. */
export function toolGrammar(
  style: ToolStyle,
  tools: readonly CallableTool[],
  { start, isParallel }: ToolGrammarOptions,
): GrammarInput | null {
  const trigger = TRIGGERS[style];
  if (style === 'glm-keys' || (start === null && trigger === null)) return null;
  const tags = tools.map(({ name, parameters }) => ({
    begin: toolCallStart(style, name),
    schema: parameters ?? ANY_OBJECT,
    end: ENDS[style],
  }));
  // In the other styles an answer is one call, or none.
  const hasMore = start === null || (isParallel && style === 'hermes');
  return {
    type: 'tags',
    first:
      start === null
        ? null
        : tags
            .filter(({ begin }) => begin.startsWith(start))
            .map((tag) => ({ ...tag, begin: tag.begin.slice(start.length) })),
    more: hasMore && trigger !== null ? { trigger, tags } : null,
    isSingle: !isParallel || style !== 'hermes',
  };
}
