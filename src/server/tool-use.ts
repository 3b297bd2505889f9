/** What a request says of functions: which there are, and whether the model may, must or must not call them. */
import { randomUUID } from 'node:crypto';
import type { TextModel } from '../app/text-model.ts';
import { toolCallStart } from '../app/tool-prompt.ts';
import type { SamplingParamsInput } from '../engine/sampling-params.ts';
import { badRequest } from './errors.ts';
import { type ParsedPiece, TOOL_CALL_END, ToolCallParser } from './tool-call-parser.ts';

/** A function as templates are told of it, the OpenAI form. */
export interface ToolDefinition {
  readonly type: 'function';
  readonly function: {
    readonly name: string;
    readonly description?: string | undefined;
    readonly parameters?: unknown;
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

  private constructor(
    tools: readonly ToolDefinition[],
    start?: string | undefined,
    stop?: string | undefined,
  ) {
    this.tools = tools;
    this.start = start;
    this.stop = stop;
  }

  /**
   * @returns null if nothing may be called
   * @throws {ApiError} 400 if a function must be called that there is not
   */
  static of(
    tools: readonly ToolDefinition[] | undefined,
    choice: ToolChoice,
    model: Pick<TextModel, 'toolStyle'>,
  ): ToolUse | null {
    if (tools === undefined || tools.length === 0) {
      if (choice === 'auto' || choice === 'none') return null;
      throw badRequest('tool_choice', 'tool_choice: there are no tools to call');
    }
    if (choice === 'none') return null;
    if (choice === 'auto') return new ToolUse(tools);
    const only = tools.length === 1 ? tools[0]!.function.name : null;
    const name = choice === 'required' ? only : choice.name;
    if (name !== null && !tools.some((tool) => tool.function.name === name)) {
      throw badRequest('tool_choice', `tool_choice: there is no tool "${name}"`);
    }
    const isOneCall = name !== null && model.toolStyle === 'hermes';
    const start = toolCallStart(model.toolStyle, name);
    return new ToolUse(tools, start, isOneCall ? TOOL_CALL_END : undefined);
  }

  createParser(): ToolCallParser {
    const parser = new ToolCallParser(this.tools.map((tool) => tool.function.name));
    if (this.start !== undefined) parser.push(this.start);
    return parser;
  }
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
