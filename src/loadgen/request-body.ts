/**
 * The body of each request: prompt, limits, model. Knows OpenAI's fields (and the extras that vLLM, llama.cpp and hasten share), no HTTP.
 */
import type { PromptMaker } from './prompt-maker.ts';
import type { Endpoint } from './target.ts';
import type { Conversation, PromptSpec } from './workload.ts';

export interface RequestShape {
  readonly endpoint: Endpoint;
  readonly model: string;
  /** `ids`: prompts as lists of token ids, of exact length; completions only. */
  readonly promptForm: 'ids' | 'text';
  readonly sharedPrefixTokens: number;
  /** Generate up to the limit whatever the model says, so that every run does the same work. */
  readonly ignoreEos: boolean;
  readonly temperature: number | null;
  /** Added to every body. */
  readonly extraBody: Readonly<Record<string, unknown>>;
}

export function pathOf(endpoint: Endpoint): string {
  return endpoint === 'chat' ? '/v1/chat/completions' : '/v1/completions';
}

/**
 * @param turn place in the conversation, from 0
 * @param answers what was answered to the turns before
 */
export function requestBody(
  shape: RequestShape,
  maker: PromptMaker,
  { conversation, turn, answers }: TurnContext,
): Record<string, unknown> {
  const { outputTokens } = conversation.turns[turn]!;
  return {
    model: shape.model,
    ...(shape.endpoint === 'chat'
      ? { messages: messagesOf(shape, maker, { conversation, turn, answers }) }
      : { prompt: promptOf(shape, maker, { conversation, turn, answers }) }),
    stream: true,
    stream_options: { include_usage: true },
    ...(outputTokens === null ? {} : { max_tokens: outputTokens }),
    ...(shape.temperature === null ? {} : { temperature: shape.temperature }),
    ...(shape.ignoreEos ? { ignore_eos: true } : {}),
    ...shape.extraBody,
  };
}

export interface TurnContext {
  readonly conversation: Conversation;
  readonly turn: number;
  readonly answers: readonly string[];
}

function messagesOf(
  shape: RequestShape,
  maker: PromptMaker,
  { conversation, turn, answers }: TurnContext,
): { role: string; content: string }[] {
  const system = sharedWords(shape, maker, conversation);
  const messages = system === '' ? [] : [{ role: 'system', content: system }];
  for (let t = 0; t <= turn; t++) {
    const { index, prompt } = conversation.turns[t]!;
    messages.push({ role: 'user', content: wordsOf(prompt, maker, index) });
    if (t < turn) messages.push({ role: 'assistant', content: answers[t] ?? '' });
  }
  return messages;
}

function promptOf(
  shape: RequestShape,
  maker: PromptMaker,
  { conversation, turn, answers }: TurnContext,
): string | number[] {
  const { index, prompt } = conversation.turns[turn]!;
  if (shape.promptForm === 'ids' && prompt.kind === 'made') {
    const prefix =
      conversation.prefix === null
        ? []
        : maker.tokenIds(prefixName(conversation.prefix), shape.sharedPrefixTokens);
    return [...prefix, ...maker.tokenIds(`${index}`, prompt.tokens)];
  }
  let text = sharedWords(shape, maker, conversation);
  for (let t = 0; t <= turn; t++) {
    const { index, prompt } = conversation.turns[t]!;
    text += `${text === '' ? '' : '\n'}${wordsOf(prompt, maker, index)}${answers[t] ?? ''}`;
  }
  return text;
}

function sharedWords(shape: RequestShape, maker: PromptMaker, { prefix }: Conversation): string {
  return prefix === null ? '' : maker.words(prefixName(prefix), shape.sharedPrefixTokens);
}

function prefixName(prefix: number): string {
  return `prefix ${prefix}`;
}

function wordsOf(prompt: PromptSpec, maker: PromptMaker, index: number): string {
  return prompt.kind === 'text' ? prompt.text : maker.words(`${index}`, prompt.tokens);
}
