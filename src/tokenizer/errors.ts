/**
 * The errors of this folder: what a tokenizer file, a token id or a chat template did wrong.
 * Knows nothing of where the file lies; callers that know the path add it with `cause`.
 */
import { HastenError } from '../platform/errors.ts';

/** A tokenizer description is malformed or unsupported, or an id is outside the vocabulary. */
export class TokenizerError extends HastenError {
  constructor(message: string, options?: ErrorOptions) {
    super('invalid_tokenizer', message, options);
  }
}

/** What went wrong in a chat template. */
export type ChatTemplateFault = 'syntax' | 'raised' | 'limit' | 'render';

/**
 * A chat template cannot be parsed (`syntax`), called `raise_exception` (`raised`, the message is the template's own),
 * ran over its bounds (`limit`), or failed while rendering (`render`).
 */
export class ChatTemplateError extends HastenError {
  readonly fault: ChatTemplateFault;

  constructor(fault: ChatTemplateFault, message: string, options?: ErrorOptions) {
    super('chat_template', message, options);
    this.fault = fault;
  }
}
