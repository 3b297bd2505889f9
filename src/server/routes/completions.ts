/** POST /v1/completions: a text (or several) in, its continuation out. */
import { randomUUID } from 'node:crypto';
import type { GenerationResult, TextModel, TokenLogprobs } from '../../app/text-model.ts';
import {
  Answer,
  type AnswerEnd,
  type AnswerPart,
  type Choice,
  type ChunkShapes,
  collectChoices,
  streamChoices,
} from '../answer.ts';
import { badRequest } from '../errors.ts';
import { samplingOf, standingOf } from '../generation-options.ts';
import { completionLogprobs } from '../logprobs.ts';
import { type CompletionRequest, parseCompletionRequest, textsOf } from '../request-schemas.ts';
import { compiledGrammar, grammarOf } from '../response-format.ts';
import { timingsOf } from '../timings.ts';
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
    const asked = grammarOf(body);
    using scope = enter(request, reply, prompts.length * choicesPerPrompt);
    const grammar = await compiledGrammar(asked, model);
    const { signal } = scope;
    const standing = standingOf(request, body);
    const answers = prompts.flatMap(({ tokenIds }) =>
      Array.from({ length: choicesPerPrompt }, (_, choice) => {
        const sampling = samplingOf(body, limits, choice);
        return new Answer(model.generate({ ...standing, tokenIds, sampling, grammar, signal }));
      }),
    );
    const echoes = prompts.flatMap(({ text }) =>
      new Array<string>(choicesPerPrompt).fill(body.echo ? text() : ''),
    );
    const shapes = new CompletionShapes(name, body, echoes, choicesPerPrompt);

    if (body.stream) {
      await streamChoices(reply, answers, shapes, scope);
      return reply;
    }
    return shapes.whole(await collectChoices(reply, answers, scope));
  });
};

interface Prompt {
  readonly tokenIds: readonly number[];
  text(): string;
}

function promptsOf({ prompt, suffix }: CompletionRequest, model: TextModel): Prompt[] {
  const list = textsOf(prompt);
  if (suffix !== undefined && suffix !== '') {
    return list.map((one) =>
      infillPrompt(typeof one === 'string' ? one : model.decode(one), suffix, model),
    );
  }
  return list.map((one) =>
    typeof one === 'string'
      ? { tokenIds: model.encodePrompt(one), text: () => one }
      : { tokenIds: one, text: () => model.decode(one) },
  );
}

/** @throws {ApiError} 400 if the model cannot fill in */
function infillPrompt(prefix: string, suffix: string, model: TextModel): Prompt {
  const tokenIds = model.encodeInfill(prefix, suffix);
  if (tokenIds === null) {
    throw badRequest(
      'suffix',
      'suffix: this model has no tokens for filling in, so it can only go on from a prompt',
      'unsupported_parameter',
    );
  }
  return { tokenIds, text: () => prefix };
}

class CompletionShapes implements ChunkShapes {
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
      choices: choices.map(({ text, logprobs, end }, index) => ({
        index,
        text: `${this.#echoes[index] ?? ''}${text}`,
        logprobs: this.#logprobs(logprobs, index),
        finish_reason: end,
      })),
      usage: usageOf(
        choices.map(({ result }) => result),
        this.#choicesPerPrompt,
      ),
      timings: timingsOf(choices[0]!.result),
    };
  }

  opening(index: number) {
    const text = this.#echoes[index] ?? '';
    if (text === '') return undefined;
    return this.#chunk([{ index, text, logprobs: null, finish_reason: null }]);
  }

  part(part: AnswerPart, index: number) {
    if (part.type === 'call' || (part.text === '' && part.logprobs.length === 0)) return undefined;
    const logprobs = this.#logprobs(part.logprobs, index);
    this.#offsets[index] = (this.#offsets[index] ?? 0) + part.text.length;
    return this.#chunk([{ index, text: part.text, logprobs, finish_reason: null }]);
  }

  closing(end: AnswerEnd, result: GenerationResult, index: number) {
    const chunk = this.#chunk([{ index, text: '', logprobs: null, finish_reason: end }]);
    return { ...chunk, timings: timingsOf(result) };
  }

  usage(results: readonly GenerationResult[]) {
    if (!this.#withUsage) return undefined;
    return { ...this.#chunk([]), usage: usageOf(results, this.#choicesPerPrompt) };
  }

  #logprobs(logprobs: readonly TokenLogprobs[], index: number) {
    if (!this.#withLogprobs) return null;
    return completionLogprobs(logprobs, this.#offsets[index] ?? 0);
  }

  #chunk(choices: readonly unknown[]) {
    const usage = this.#withUsage ? { usage: null } : {};
    return { ...this.#head, choices, ...usage };
  }
}
