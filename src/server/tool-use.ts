/** What a request says of functions: which there are, and whether the model may, must or must not call them. */
import { randomUUID } from 'node:crypto';
import type { TextModel } from '../app/text-model.ts';
import { toolCallStart } from '../app/tool-prompt.ts';
import { badRequest } from './errors.ts';
import { type ParsedPiece, ToolCallParser } from './tool-call-parser.ts';

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

  private constructor(tools: readonly ToolDefinition[], start: string | undefined) {
    this.tools = tools;
    this.start = start;
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
    if (choice === 'auto') return new ToolUse(tools, undefined);
    const name = choice === 'required' ? null : choice.name;
    if (name !== null && !tools.some((tool) => tool.function.name === name)) {
      throw badRequest('tool_choice', `tool_choice: there is no tool "${name}"`);
    }
    return new ToolUse(tools, toolCallStart(model.toolStyle, name));
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
