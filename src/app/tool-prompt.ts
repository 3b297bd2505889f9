/**
 * How a model is told of functions, and how it calls them. Templates that know tools have a format of their own; for those that do not, a
 * system text in the Hermes format tells of them, and calls and results are written into ordinary turns.
 */
import type { ChatTurn } from './text-model.ts';

/**
 * `hermes`: `<tool_call>{"name", "arguments"}</tool_call>`; `json`: the object by itself, with `parameters` (Llama 3); `mistral`: `[TOOL_CALLS]` and a list
 * of objects with `arguments`; `glm`: the name in a line of its own, then the arguments (GLM-4); `glm-keys`: within `<tool_call>` the name, then each argument
 * as `<arg_key>` and `<arg_value>` (GLM-4.5).
 */
export type ToolStyle = 'hermes' | 'json' | 'mistral' | 'glm' | 'glm-keys';

/** @param template the model's own, raw */
export function toolStyleOf(template: string): ToolStyle {
  if (!knowsTools(template)) return 'hermes';
  if (template.includes('<arg_key>')) return 'glm-keys';
  if (template.includes('<tool_call>')) return 'hermes';
  if (template.includes('[TOOL_CALLS]')) return 'mistral';
  return template.includes('<|observation|>') ? 'glm' : 'json';
}

export function knowsTools(template: string): boolean {
  return /\btools\b/.test(template);
}

/** The beginning of an answer that calls a function, the named one or any; empty where any of them begins with its name. */
export function toolCallStart(style: ToolStyle, name: string | null): string {
  if (style === 'glm') return name === null ? '' : `${name}\n`;
  if (style === 'glm-keys') return name === null ? '<tool_call>' : `<tool_call>${name}\n`;
  const open = { hermes: '<tool_call>\n', json: '', mistral: '[TOOL_CALLS][' }[style];
  const field = style === 'json' ? 'parameters' : 'arguments';
  if (name === null) return `${open}{"name": "`;
  return `${open}{"name": ${JSON.stringify(name)}, "${field}": `;
}

/** Conversations as templates want them that have no word for tools. */
export function withToolsAsText(
  turns: readonly ChatTurn[],
  tools: readonly unknown[],
): readonly ChatTurn[] {
  const [first, ...rest] = turns;
  const isSystem = first?.role === 'system';
  const system = [...(isSystem ? [first.content] : []), toolsText(tools)].join('\n\n');
  const others = first === undefined || isSystem ? rest : [first, ...rest];
  return [{ role: 'system', content: system }, ...others.map(turnAsText)];
}

function toolsText(tools: readonly unknown[]): string {
  return `# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
${tools.map((tool) => JSON.stringify(tool)).join('\n')}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>`;
}

function turnAsText(turn: ChatTurn): ChatTurn {
  if (turn.role === 'tool') {
    return { role: 'user', content: `<tool_response>\n${turn.content}\n</tool_response>` };
  }
  const calls = turn.tool_calls;
  if (!Array.isArray(calls)) return turn;
  const texts = calls.map((call: { function?: object }) => {
    return `<tool_call>\n${JSON.stringify(call.function ?? {})}\n</tool_call>`;
  });
  return { role: turn.role, content: [turn.content, ...texts].filter((text) => text).join('\n') };
}
