/** POST /v1/completions: a text (or several) in, its continuation out. */
import { randomUUID } from 'node:crypto';
import type { GenerationPart, GenerationResult, TextModel } from '../../app/text-model.ts';
import { type Choice, collectChoices, noteFigures, streamChoices } from '../answer.ts';
import { samplingOf } from '../generation-options.ts';
import { completionLogprobs } from '../logprobs.ts';
import { type CompletionRequest, parseCompletionRequest } from '../request-schemas.ts';
import { usageOf } from '../usage.ts';
import { type Route, warnOfUnknownFields } from './context.ts';

/** OpenAI's default. */
const DEFAULT_MAX_TOKENS = 16;

export const completionsRoute: Route = (server, { served, enter }) => {
  server.post('/v1/completions', async (request, reply) => {
    const { request: body, unknownFields } = parseCompletionRequest(request.body);
    warnOfUnknownFields(request, unknownFields);
    const { model, name } = served.use(body.model);
    const prompts = promptsOf(body, model);
    const choicesPerPrompt = body.n ?? 1;
    const limits = {
      maxTokens: body.max_tokens ?? DEFAULT_MAX_TOKENS,
      logprobs: body.logprobs ?? null,
    };
    using scope = enter(request, reply, prompts.length * choicesPerPrompt);
    const { signal } = scope;
    const generations = prompts.flatMap(({ tokenIds }) =>
      Array.from({ length: choicesPerPrompt }, (_, choice) =>
        model.generate({ tokenIds, sampling: samplingOf(body, limits, choice), signal }),
      ),
    );
    const echoes = prompts.flatMap(({ text }) =>
      new Array<string>(choicesPerPrompt).fill(body.echo ? text() : ''),
    );
    const shapes = new CompletionShapes(name, body, echoes, choicesPerPrompt);

    if (body.stream) {
      await streamChoices(reply, generations, shapes, scope);
      return reply;
    }
    const choices = await collectChoices(generations, signal);
    noteFigures(
      reply,
      choices.map(({ result }) => result),
    );
    return shapes.whole(choices);
  });
};

interface Prompt {
  readonly tokenIds: readonly number[];
  text(): string;
}

function promptsOf({ prompt }: CompletionRequest, model: TextModel): Prompt[] {
  const list = isTokenIds(prompt) || typeof prompt === 'string' ? [prompt] : prompt;
  return list.map((one) =>
    typeof one === 'string'
      ? { tokenIds: model.encodePrompt(one), text: () => one }
      : { tokenIds: one, text: () => model.decode(one) },
  );
}

function isTokenIds(prompt: CompletionRequest['prompt']): prompt is number[] {
  return Array.isArray(prompt) && typeof prompt[0] === 'number';
}

class CompletionShapes {
  readonly #head: { id: string; object: string; created: number; model: string };
  readonly #withUsage: boolean;
  readonly #withLogprobs: boolean;
  readonly #echoes: readonly string[];
  readonly #choicesPerPrompt: number;
  /** Characters sent so far, by choice: logprobs say where in the text a token stands. */
  readonly #offsets: number[];

  constructor(
    model: string,
    body: CompletionRequest,
    echoes: readonly string[],
    choicesPerPrompt: number,
  ) {
    this.#head = {
      id: `cmpl-${randomUUID().replaceAll('-', '')}`,
      object: 'text_completion',
      created: Math.floor(Date.now() / 1000),
      model,
    };
    this.#withUsage = body.stream_options?.include_usage === true;
    this.#withLogprobs = body.logprobs !== undefined;
    this.#echoes = echoes;
    this.#choicesPerPrompt = choicesPerPrompt;
    this.#offsets = echoes.map((echo) => echo.length);
  }

  whole(choices: readonly Choice[]) {
    return {
      ...this.#head,
      choices: choices.map(({ parts, text, result }, index) => ({
        index,
        text: `${this.#echoes[index] ?? ''}${text}`,
        logprobs: this.#logprobs(parts, index),
        finish_reason: result.finishReason,
      })),
      usage: usageOf(
        choices.map(({ result }) => result),
        this.#choicesPerPrompt,
      ),
    };
  }

  opening(index: number) {
    const text = this.#echoes[index] ?? '';
    if (text === '') return undefined;
    return this.#chunk([{ index, text, logprobs: null, finish_reason: null }]);
  }

  part(part: GenerationPart, index: number) {
    if (part.text === '' && part.logprobs.length === 0) return undefined;
    const logprobs = this.#logprobs([part], index);
    this.#offsets[index] = (this.#offsets[index] ?? 0) + part.text.length;
    return this.#chunk([{ index, text: part.text, logprobs, finish_reason: null }]);
  }

  closing(result: GenerationResult, index: number) {
    return this.#chunk([{ index, text: '', logprobs: null, finish_reason: result.finishReason }]);
  }

  usage(results: readonly GenerationResult[]) {
    if (!this.#withUsage) return undefined;
    return { ...this.#chunk([]), usage: usageOf(results, this.#choicesPerPrompt) };
  }

  #logprobs(parts: readonly GenerationPart[], index: number) {
    if (!this.#withLogprobs) return null;
    return completionLogprobs(
      parts.flatMap((part) => part.logprobs),
      this.#offsets[index] ?? 0,
    );
  }

  #chunk(choices: readonly unknown[]) {
    const usage = this.#withUsage ? { usage: null } : {};
    return { ...this.#head, choices, ...usage };
  }
}
