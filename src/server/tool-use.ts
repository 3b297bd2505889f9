/** What a request says of functions: which there are, and whether the model may, must or must not call them. */
import { randomUUID } from 'node:crypto';
import type { TextModel } from '../app/text-model.ts';
import { type CallableTool, toolGrammar } from '../app/tool-grammar.ts';
import { toolCallStart } from '../app/tool-prompt.ts';
import type { SamplingParamsInput } from '../engine/sampling-params.ts';
import type { GrammarInput } from '../grammar/grammar-spec.ts';
import { badRequest } from './errors.ts';
import { compileOrRefuse, isGrammarFault } from './response-format.ts';
import {
  type ParsedPiece,
  TOOL_CALL_END,
  TOOL_CALL_START,
  ToolCallParser,
} from './tool-call-parser.ts';

/** A function as templates are told of it, the OpenAI form. */
export interface ToolDefinition {
  readonly type: 'function';
  readonly function: {
    readonly name: string;
    readonly description?: string | undefined;
    readonly parameters?: unknown;
    /** The arguments must be as the schema says, though the model is free to call or not. */
    readonly strict?: boolean | null | undefined;
  };
}

/** `name`: that function must be called. */
export type ToolChoice = 'auto' | 'none' | 'required' | { readonly name: string };

export class ToolUse {
  readonly tools: readonly ToolDefinition[];
  /** What the answer is made to begin with; the model does not write it, so it is parsed as if it had. */
  readonly start: string | undefined;

  /** Ends an answer that is to be one call and nothing else. */
  readonly stop: string | undefined;

  /** What the answer may be, if that can be kept to. */
  readonly #grammar: GrammarInput | null;

  private constructor(
    tools: readonly ToolDefinition[],
    grammar: GrammarInput | null,
    start?: string | undefined,
    stop?: string | undefined,
  ) {
    this.tools = tools;
    this.#grammar = grammar;
    this.start = start;
    this.stop = stop;
  }

  /**
   * @param isParallel whether several calls are welcome
   * @returns null if nothing may be called
   * @throws {ApiError} 400 if a function must be called that there is not, or a strict one may be called in a style that does not show where
   */
  static of(
    tools: readonly ToolDefinition[] | undefined,
    choice: ToolChoice,
    model: Pick<TextModel, 'toolStyle'>,
    isParallel = true,
  ): ToolUse | null {
    if (tools === undefined || tools.length === 0) {
      if (choice === 'auto' || choice === 'none') return null;
      throw badRequest('tool_choice', 'tool_choice: there are no tools to call');
    }
    if (choice === 'none') return null;
    if (choice === 'auto') {
      const isFree = !tools.some(isStrict);
      const callable = tools.map((tool) => callableOf(tool, !isStrict(tool)));
      const grammar = isFree
        ? null
        : toolGrammar(model.toolStyle, callable, { start: null, isParallel });
      if (!isFree && grammar === null) {
        throw badRequest(
          'tools',
          'tools: strict: calls of this model cannot be kept to a schema in text that is free; tool_choice may make it call',
        );
      }
      return new ToolUse(tools, grammar);
    }
    const only = tools.length === 1 ? tools[0]!.function.name : null;
    const name = choice === 'required' ? only : choice.name;
    if (name !== null && !tools.some((tool) => tool.function.name === name)) {
      throw badRequest('tool_choice', `tool_choice: there is no tool "${name}"`);
    }
    const isOneCall = choice !== 'required' || !isParallel;
    const start = toolCallStart(model.toolStyle, name);
    const callable = tools.map((tool) => callableOf(tool, false));
    const grammar = toolGrammar(model.toolStyle, callable, { start, isParallel: !isOneCall });
    if (grammar === null && tools.some(isStrict)) {
      throw badRequest(
        'tools',
        'tools: strict: the arguments of a call of this model are not JSON, and cannot be kept to a schema',
      );
    }
    const endsAtCall = isOneCall && name !== null && start.startsWith(TOOL_CALL_START);
    return new ToolUse(tools, grammar, start, endsAtCall ? TOOL_CALL_END : undefined);
  }

  /**
   * The form that the answer is to have, compiled. A schema that cannot be kept to is passed over where the tool is not `strict`.
   * @throws {ApiError} 400 if it is
   */
  async grammar(model: Pick<TextModel, 'calls'>): Promise<GrammarInput | undefined> {
    if (this.#grammar === null) return undefined;
    try {
      await compileOrRefuse('tools', this.#grammar, model);
      return this.#grammar;
    } catch (error) {
      if (this.tools.some(isStrict) || !isGrammarFault(error)) throw error;
      return undefined;
    }
  }

  createParser(): ToolCallParser {
    const parser = new ToolCallParser(this.tools.map((tool) => callableOf(tool, false)));
    if (this.start !== undefined) parser.push(this.start);
    return parser;
  }
}

function isStrict(tool: ToolDefinition): boolean {
  return tool.function.strict === true;
}

function callableOf(
  { function: { name, parameters } }: ToolDefinition,
  isAny: boolean,
): CallableTool {
  return { name, parameters: isAny ? null : (parameters ?? null) };
}

export interface ToolCall {
  readonly id: string;
  readonly name: string;
  /** JSON. */
  readonly arguments: string;
}

export function toolCallOf({ name, arguments: args }: ParsedPiece & { type: 'call' }): ToolCall {
  return { id: `call_${randomUUID().replaceAll('-', '').slice(0, 24)}`, name, arguments: args };
}

/** Sampling that ends where a forced call does. */
export function withToolStop(
  sampling: SamplingParamsInput,
  tools: ToolUse | null,
): SamplingParamsInput {
  if (tools?.stop === undefined) return sampling;
  const stop = sampling.stop ?? [];
  return { ...sampling, stop: [...(typeof stop === 'string' ? [stop] : stop), tools.stop] };
}
