/**
 * Chat templates: messages to the prompt a model was trained on. Knows what `transformers` gives a template (variables,
 * `raise_exception`, `strftime_now`, block trimming) and that templates come from strangers; the language itself is in
 * `jinja-interpreter.ts`.
 */
import { HastenError } from '../platform/errors.ts';
import type { Tokenizer } from './contract.ts';
import { ChatTemplateError } from './errors.ts';
import {
  BoundedInterpreter,
  boundedRange,
  defaultRenderLimits,
  type PreparedProgram,
  prepareProgram,
  type RenderLimits,
} from './jinja-interpreter.ts';
import { Environment, parse, tokenize } from './jinja-package.ts';
import { strftime } from './python-text.ts';
import { protectText, specialTexts, unusedMark } from './special-text-guard.ts';

/** One part of a message's content; text parts are flattened for templates that take strings only. */
export interface ContentPart {
  readonly type: string;
  readonly text?: string;
  readonly [field: string]: unknown;
}

export interface ChatMessage {
  readonly role: string;
  readonly content?: string | readonly ContentPart[] | null;
  /** `tool_calls`, `name`, `reasoning_content` and whatever else a template asks for. */
  readonly [field: string]: unknown;
}

export interface ChatTemplateOptions {
  /** The text of BOS and EOS, `bos_token` and `eos_token` in templates. */
  readonly bosToken?: string | null;
  readonly eosToken?: string | null;
  /** More variables that every rendering has, such as `pad_token`. */
  readonly variables?: Readonly<Record<string, unknown>>;
  readonly limits?: Partial<RenderLimits>;
  /** The clock of `strftime_now`. */
  readonly now?: () => Date;
}

export interface RenderOptions {
  /** Function definitions, as in the OpenAI API. */
  readonly tools?: readonly unknown[] | null;
  /** End with the start of the assistant's turn; default false, as in `transformers`. */
  readonly addGenerationPrompt?: boolean;
  /** More variables (`chat_template_kwargs`), such as `enable_thinking`; they win over all others. */
  readonly variables?: Readonly<Record<string, unknown>>;
}

export interface RenderToIdsOptions extends RenderOptions {
  /**
   * What the text of a control token inside messages or tools becomes: `parse` the control token, as in `transformers`
   * (a user who writes `<|im_end|>` ends the turn); `text` plain text. Default `parse`.
   */
  readonly specialsInContent?: 'parse' | 'text';
  /** Sees the text before it becomes ids; what it throws goes to the caller. */
  readonly beforeEncoding?: (text: string) => void;
}

export interface RenderedPrompt {
  readonly prompt: string;
  /** No BOS is added but what the template writes. */
  readonly tokenIds: number[];
}

/** Real templates have at most some 20,000 characters. The package's lexer is quadratic in runs of white space. */
const MAX_TEMPLATE_LENGTH = 1 << 20;
const MAX_SPACE_RUN = 1000;

class RaisedByTemplate extends Error {}

export class ChatTemplate {
  readonly #prepared: PreparedProgram;
  readonly #source: string;
  readonly #variables: Readonly<Record<string, unknown>>;
  readonly #limits: RenderLimits;
  readonly #now: () => Date;
  #takesParts: boolean | null = null;

  /** @throws {ChatTemplateError} if the template cannot be parsed */
  constructor(source: string, options: ChatTemplateOptions = {}) {
    const { bosToken, eosToken, variables, limits, now = () => new Date() } = options;
    this.#source = source;
    this.#now = now;
    this.#limits = { ...defaultRenderLimits, ...limits };
    this.#variables = {
      ...(bosToken == null ? {} : { bos_token: bosToken }),
      ...(eosToken == null ? {} : { eos_token: eosToken }),
      ...variables,
    };
    if (source.length > MAX_TEMPLATE_LENGTH) {
      throw new ChatTemplateError(
        'limit',
        `the chat template has ${source.length} characters; at most ${MAX_TEMPLATE_LENGTH} are accepted`,
      );
    }
    if (new RegExp(`\\s{${MAX_SPACE_RUN + 1}}`).test(source)) {
      throw new ChatTemplateError(
        'limit',
        `the chat template has a run of more than ${MAX_SPACE_RUN} white space characters`,
      );
    }
    try {
      const program = parse(tokenize(source, { lstrip_blocks: true, trim_blocks: true }));
      this.#prepared = prepareProgram(program);
    } catch (cause) {
      if (isStackOverflow(cause)) {
        throw new ChatTemplateError('limit', 'the chat template is nested too deeply', { cause });
      }
      throw new ChatTemplateError(
        'syntax',
        `the chat template cannot be parsed: ${(cause as Error).message}`,
        { cause },
      );
    }
  }

  /**
   * The template that a model's tokenizer has for such a request (`tool_use` for tools where there is one), or null.
   *
   * @throws {ChatTemplateError} if it cannot be parsed
   */
  static of(
    tokenizer: Tokenizer,
    options: ChatTemplateOptions & { readonly name?: string; readonly hasTools?: boolean } = {},
  ): ChatTemplate | null {
    const { name, hasTools = false, ...rest } = options;
    const named = tokenizer.chatTemplates;
    const source =
      name !== undefined
        ? (named?.get(name) ?? null)
        : ((hasTools ? named?.get('tool_use') : undefined) ?? tokenizer.chatTemplate);
    if (source === null) return null;
    const textOf = (id: number | null | undefined): string | null =>
      id == null ? null : (tokenizer.idToToken(id) ?? null);
    return new ChatTemplate(source, {
      bosToken: textOf(tokenizer.bosTokenId),
      eosToken: textOf(tokenizer.eosTokenIds[0]),
      ...rest,
    });
  }

  /**
   * The prompt for a conversation.
   *
   * @throws {ChatTemplateError} `raised` with the template's own message if it rejects the conversation, `limit` if it runs
   *   over its bounds, `render` if it fails otherwise
   */
  render(messages: readonly ChatMessage[], options: RenderOptions = {}): string {
    return this.#render(this.#flattened(messages), options);
  }

  /** As `render`, encoded; see `specialsInContent` for what users can do with the text of control tokens. */
  renderToIds(
    tokenizer: Tokenizer,
    messages: readonly ChatMessage[],
    options: RenderToIdsOptions = {},
  ): RenderedPrompt {
    const { specialsInContent = 'parse', beforeEncoding, ...renderOptions } = options;
    if (specialsInContent === 'parse') {
      const prompt = this.render(messages, renderOptions);
      beforeEncoding?.(prompt);
      return { prompt, tokenIds: tokenizer.encode(prompt, { parseSpecial: true }) };
    }
    const { tools } = renderOptions;
    const mark = unusedMark(this.#source, messages, tools, renderOptions.variables);
    const specials = specialTexts(tokenizer);
    const guarded = this.render(protectText(messages, specials, mark, new Set(['role', 'type'])), {
      ...renderOptions,
      tools: protectText(tools, specials, mark, new Set(['type'])),
    });
    beforeEncoding?.(guarded);
    return {
      prompt: guarded.replaceAll(mark, ''),
      tokenIds: tokenizer.encode(guarded, { parseSpecial: true, breakMark: mark }),
    };
  }

  #render(messages: readonly ChatMessage[], options: RenderOptions): string {
    const environment = new Environment();
    const constants = {
      true: true,
      True: true,
      false: false,
      False: false,
      none: null,
      None: null,
    };
    const functions = {
      range: boundedRange(this.#limits.maxItems),
      raise_exception: (message: unknown) => {
        throw new RaisedByTemplate(String(message));
      },
      strftime_now: (format: unknown) => strftime(this.#now(), String(format)),
    };
    const variables = {
      ...constants,
      ...functions,
      ...this.#variables,
      messages,
      tools: options.tools ?? null,
      documents: null,
      add_generation_prompt: options.addGenerationPrompt ?? false,
      ...options.variables,
    };
    try {
      for (const [name, value] of Object.entries(variables)) {
        environment.variables.delete(name);
        environment.set(name, value);
      }
      const interpreter = new BoundedInterpreter(environment, this.#prepared, this.#limits);
      return String(interpreter.run(this.#prepared.program).value);
    } catch (cause) {
      if (cause instanceof HastenError) throw cause;
      if (cause instanceof RaisedByTemplate) {
        throw new ChatTemplateError('raised', cause.message, { cause });
      }
      if (isStackOverflow(cause)) {
        throw new ChatTemplateError('limit', 'the chat template recurses too deeply', { cause });
      }
      throw new ChatTemplateError(
        'render',
        `the chat template failed: ${(cause as Error).message}`,
        { cause },
      );
    }
  }

  /** Content that is a list of texts becomes one string, joined by newlines, where the template does not take lists. */
  #flattened(messages: readonly ChatMessage[]): readonly ChatMessage[] {
    const isTextList = (content: ChatMessage['content']): content is readonly ContentPart[] =>
      Array.isArray(content) &&
      content.every((part) => part?.type === 'text' && typeof part.text === 'string');
    if (!messages.some(({ content }) => isTextList(content)) || this.#templateTakesParts()) {
      return messages;
    }
    return messages.map((message) =>
      isTextList(message.content)
        ? { ...message, content: message.content.map(({ text }) => text).join('\n') }
        : message,
    );
  }

  /** Tries it: whether a list with one text prints what the text alone prints. */
  #templateTakesParts(): boolean {
    if (this.#takesParts === null) {
      const text = 'probe';
      const tryContent = (content: string | readonly ContentPart[]): string | null => {
        try {
          return this.#render([{ role: 'user', content }], {});
        } catch {
          return null;
        }
      };
      const expected = tryContent(text);
      this.#takesParts =
        expected?.includes(text) === true && tryContent([{ type: 'text', text }]) === expected;
    }
    return this.#takesParts;
  }
}

function isStackOverflow(error: unknown): boolean {
  return error instanceof RangeError && error.message.includes('call stack');
}
