/**
 * Finds function calls in a model's text as it comes: Hermes and Qwen (`<tool_call>{...}</tool_call>`), Llama 3 (a JSON object, with or without
 * `<|python_tag|>`), Mistral (`[TOOL_CALLS][{...}]`, later `[TOOL_CALLS]name[ARGS]{...}`), GLM-4 (`name`, a line break, `{...}`) and GLM-4.5 (keys and
 * values within `<tool_call>`). Marks that are control tokens may be missing in the text. What only looks like a call stays text. Knows nothing of APIs.
 */
import type { CallableTool } from '../app/tool-grammar.ts';
import { keyedCall } from './keyed-call.ts';

export interface ParsedCall {
  readonly name: string;
  /** JSON, as the APIs carry it. */
  readonly arguments: string;
}

export type ParsedPiece =
  | { readonly type: 'text'; readonly text: string }
  | ({ readonly type: 'call' } & ParsedCall);

/** What a call in the formats of Hermes and GLM-4.5 begins and ends with. */
export const TOOL_CALL_START = '<tool_call>';
export const TOOL_CALL_END = '</tool_call>';
/** In Mistral's format all that follows this is calls. */
const CALLS_FOLLOW = '[TOOL_CALLS]';
/** Beginnings of an answer that is nothing but calls. */
const BARE_STARTS = ['<|python_tag|>', CALLS_FOLLOW, '{', '[{'];
/** Between the name of a function and its arguments. */
const NAME_ENDS = ['\n', '[ARGS]', ''];

export class ToolCallParser {
  readonly #tools: ReadonlyMap<string, CallableTool>;
  readonly #bareStarts: readonly string[];
  #state: 'start' | 'text' | 'tagged' | 'between' | 'bare' = 'start';
  #held = '';

  /** @param tools the functions that there are */
  constructor(tools: readonly CallableTool[]) {
    this.#tools = new Map(tools.map((tool) => [tool.name, tool]));
    const named = tools.flatMap(({ name }) => NAME_ENDS.map((end) => `${name}${end}{`));
    this.#bareStarts = [...BARE_STARTS, ...named];
  }

  push(text: string): ParsedPiece[] {
    this.#held += text;
    const pieces: ParsedPiece[] = [];
    while (this.#advance(pieces));
    return pieces;
  }

  /** What was held back; the text is over. */
  end(): ParsedPiece[] {
    const rest = this.#held;
    this.#held = '';
    if (this.#state === 'tagged') return this.#tagged(rest, '');
    if (this.#state === 'bare' || this.#state === 'start') {
      const calls = this.#bare(rest);
      if (calls !== null) return calls;
    }
    return rest === '' ? [] : [{ type: 'text', text: rest }];
  }

  /** One move from state to state; false where more text is needed. */
  #advance(pieces: ParsedPiece[]): boolean {
    switch (this.#state) {
      case 'start': {
        const begun = this.#held.trimStart();
        if (this.#bareStarts.some((start) => begun.startsWith(start))) this.#state = 'bare';
        else if (this.#bareStarts.some((start) => start.startsWith(begun))) return false;
        else this.#state = 'text';
        return this.#state === 'text';
      }
      case 'text': {
        const [mark, at] = firstMark(this.#held);
        const text = this.#held.slice(0, at);
        if (text !== '') pieces.push({ type: 'text', text });
        this.#held = this.#held.slice(at + (mark === TOOL_CALL_START ? TOOL_CALL_START.length : 0));
        if (mark !== null) this.#state = mark === TOOL_CALL_START ? 'tagged' : 'bare';
        return mark !== null;
      }
      case 'tagged': {
        const at = this.#held.indexOf(TOOL_CALL_END);
        if (at < 0) return false;
        pieces.push(...this.#tagged(this.#held.slice(0, at), TOOL_CALL_END));
        this.#held = this.#held.slice(at + TOOL_CALL_END.length);
        this.#state = 'between';
        return true;
      }
      case 'between':
        // Space between calls is nobody's text.
        this.#held = this.#held.trimStart();
        if (this.#held === '') return false;
        this.#state = 'text';
        return true;
      case 'bare':
        return false;
      default:
        return this.#state satisfies never;
    }
  }

  #tagged(body: string, close: string): ParsedPiece[] {
    // Small models forget the last brace, the more so where they did not write the first.
    const calls = callsOf(parsedJson(body) ?? parsedJson(`${body}}`));
    if (calls !== null) return calls;
    const keyed = keyedCall(body, this.#tools);
    return keyed !== null
      ? [{ type: 'call', ...keyed }]
      : [{ type: 'text', text: TOOL_CALL_START + body + close }];
  }

  /** null if it is not all calls of functions that there are. */
  #bare(text: string): ParsedPiece[] | null {
    const body = text.trim().replace(/^(?:<\|python_tag\|>|\[TOOL_CALLS\])/, '');
    const named = this.#named(body);
    if (named !== null) return named;
    const whole = parsedJson(body);
    const values = whole === undefined ? body.split(/;\s*(?=\{)/).map(parsedJson) : [whole];
    const calls = values.map(callsOf);
    if (calls.some((each) => each === null)) return null;
    const flat = calls.flatMap((each) => each ?? []);
    return flat.length > 0 && flat.every(({ name }) => this.#tools.has(name)) ? flat : null;
  }

  /** Functions by name, each followed by its arguments; null if the text is not all of these. */
  #named(text: string): ParsedPiece[] | null {
    const calls: ParsedPiece[] = [];
    let rest = text;
    while (rest !== '') {
      const [before, name] =
        /^(?:\[TOOL_CALLS\])?([^\n{[]+)(?:\n|\[ARGS\])?(?=\{)/.exec(rest) ?? [];
      if (before === undefined || !this.#tools.has(name!)) return null;
      rest = rest.slice(before.length);
      const end = endOfObject(rest);
      const value = end < 0 ? undefined : parsedJson(rest.slice(0, end));
      if (value === undefined) return null;
      calls.push({ type: 'call', name: name!, arguments: JSON.stringify(value) });
      rest = rest.slice(end).trimStart();
    }
    return calls.length > 0 ? calls : null;
  }
}

/** The first mark in a text, and where; without one, the place from which on it may begin. */
function firstMark(text: string): [mark: string | null, at: number] {
  const found = [TOOL_CALL_START, CALLS_FOLLOW]
    .map((mark): [string, number] => [mark, text.indexOf(mark)])
    .filter(([, at]) => at >= 0)
    .toSorted(([, a], [, b]) => a - b);
  const most = Math.max(overlap(text, TOOL_CALL_START), overlap(text, CALLS_FOLLOW));
  return found[0] ?? [null, text.length - most];
}

/** Where the JSON object that `text` begins with ends; -1 if it does not. */
function endOfObject(text: string): number {
  let depth = 0;
  let isInString = false;
  for (let i = 0; i < text.length; i++) {
    const character = text[i];
    if (isInString) {
      if (character === '\\') i++;
      else if (character === '"') isInString = false;
    } else if (character === '"') isInString = true;
    else if (character === '{') depth++;
    else if (character === '}' && --depth === 0) return i + 1;
  }
  return -1;
}

/** How much of the end of `text` may be the beginning of `mark`. */
function overlap(text: string, mark: string): number {
  for (let length = Math.min(text.length, mark.length - 1); length > 0; length--) {
    if (text.endsWith(mark.slice(0, length))) return length;
  }
  return 0;
}

function parsedJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function callsOf(value: unknown): ({ readonly type: 'call' } & ParsedCall)[] | null {
  const list: unknown[] = Array.isArray(value) ? value : [value];
  const calls = list.map((each) => {
    const { name, arguments: args, parameters } = (each ?? {}) as Record<string, unknown>;
    const given = args ?? parameters ?? {};
    if (typeof name !== 'string' || typeof given !== 'object') return null;
    return { type: 'call' as const, name, arguments: JSON.stringify(given) };
  });
  return calls.every((call) => call !== null) && calls.length > 0 ? calls : null;
}
