/**
 * The text that a model is calibrated with, as windows of token ids: a plain text, or JSON lines with `text` or `messages`, as chats if asked for. Knows nothing
 * of what is done with them.
 */
import { CalibrationTooShortError } from '../compress/errors.ts';
import { HastenError } from '../platform/errors.ts';
import { type ChatMessage, ChatTemplate } from '../tokenizer/chat-template.ts';
import type { Tokenizer } from '../tokenizer/contract.ts';

/** Characters of a message where a plain text is to become chats. */
const MESSAGE_CHARACTERS = 1500;
/** More of a text than this per token that is wanted need not be looked at. */
const CHARACTERS_PER_TOKEN = 32;

export class CalibrationTextError extends HastenError {
  constructor(message: string, options: { cause?: unknown } = {}) {
    super('calibration_text', message, options);
  }
}

export interface CalibrationText {
  /** What it is called in messages; one that ends in `.jsonl` holds a JSON object per line. */
  readonly name: string;
  readonly content: string;
  /** Every text becomes a message of a user, and chats what the model's template makes of them. */
  readonly asChat: boolean;
  /** Tokens wanted, and of a window. */
  readonly tokens: number;
  readonly window: number;
}

/**
 * Windows without gaps, the texts one after another.
 *
 * @throws {CalibrationTextError} if a line is no such object, or the model has no chat template
 * @throws {CalibrationTooShortError} if there are fewer tokens
 */
export function calibrationWindows(text: CalibrationText, tokenizer: Tokenizer): number[][] {
  const { tokens, window } = text;
  const numWindows = Math.max(1, Math.floor(tokens / window));
  const wanted = numWindows * window;
  const ids: number[] = [];
  for (const each of idsOf(text, wanted, tokenizer)) {
    for (const id of each) ids.push(id);
    if (ids.length >= wanted) break;
  }
  if (ids.length < wanted) throw new CalibrationTooShortError(ids.length, wanted, window);
  return Array.from({ length: numWindows }, (_, i) => ids.slice(i * window, (i + 1) * window));
}

/** Token ids, piece by piece, as long as more are asked for. */
function* idsOf(text: CalibrationText, wanted: number, tokenizer: Tokenizer): Generator<number[]> {
  const { name, content, asChat } = text;
  const isLines = name.endsWith('.jsonl');
  if (!asChat && !isLines) {
    yield tokenizer.encode(content.slice(0, wanted * CHARACTERS_PER_TOKEN));
    // A text whose tokens are longer than that.
    if (content.length > wanted * CHARACTERS_PER_TOKEN) {
      yield tokenizer.encode(content.slice(wanted * CHARACTERS_PER_TOKEN));
    }
    return;
  }
  const template = asChat ? ChatTemplate.of(tokenizer) : null;
  if (asChat && template === null) {
    throw new CalibrationTextError('the model has no chat template to put the calibration text in');
  }
  for (const messages of isLines ? lineMessages(name, content) : pieces(content)) {
    if (template === null) {
      const whole = messages.map((message) => message.content).join('\n\n');
      yield tokenizer.encode(`${whole}\n\n`);
    } else {
      yield template.renderToIds(tokenizer, messages, { specialsInContent: 'text' }).tokenIds;
    }
  }
}

/** A plain text as messages of a user, cut at the ends of lines. */
function* pieces(content: string): Generator<ChatMessage[]> {
  for (let start = 0; start < content.length; ) {
    const line = content.indexOf('\n', start + MESSAGE_CHARACTERS);
    const isNear = line !== -1 && line < start + 2 * MESSAGE_CHARACTERS;
    const end = isNear ? line + 1 : start + MESSAGE_CHARACTERS;
    const piece = content.slice(start, end).trim();
    if (piece !== '') yield [{ role: 'user', content: piece }];
    start = end;
  }
}

function* lineMessages(name: string, content: string): Generator<ChatMessage[]> {
  let number = 0;
  for (let start = 0; start < content.length; ) {
    number++;
    const newline = content.indexOf('\n', start);
    const end = newline === -1 ? content.length : newline;
    const line = content.slice(start, end).trim();
    start = end + 1;
    if (line !== '') yield messagesOf(line, `${name}:${number}`);
  }
}

function messagesOf(line: string, place: string): ChatMessage[] {
  let record: unknown;
  try {
    record = JSON.parse(line);
  } catch (cause) {
    throw new CalibrationTextError(`${place}: is not valid JSON: ${(cause as Error).message}`, {
      cause,
    });
  }
  const { text, messages } = (record ?? {}) as { text?: unknown; messages?: unknown };
  if (typeof text === 'string') return [{ role: 'user', content: text }];
  const isChat =
    Array.isArray(messages) &&
    messages.length > 0 &&
    messages.every((m) => typeof m?.role === 'string' && typeof m?.content === 'string');
  if (!isChat) {
    throw new CalibrationTextError(
      `${place}: has neither a "text" nor "messages" with "role" and "content"; expected one of them`,
    );
  }
  return messages as ChatMessage[];
}
