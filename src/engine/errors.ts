/**
 * What can go wrong in the engine, one class per kind of fault. Knows nothing of HTTP: the server maps `code` and `param` to its answers.
 */

import { HastenError } from '../platform/errors.ts';

/** A request that is wrong in itself: a bad sampling parameter, a bad token id, an unknown key. */
export class RequestError extends HastenError {
  /** The field at fault, as the engine spells it, such as `temperature`. */
  readonly param: string;

  constructor(param: string, message: string) {
    super('invalid_request', message);
    this.param = param;
  }
}

/** A request that this engine can never take in, whatever else is running. */
export class RequestTooLongError extends HastenError {
  readonly param: string;
  readonly numPromptTokens: number;
  readonly maxTokens: number;
  /** Most tokens, prompt and output together, that one sequence may have here. */
  readonly maxSequenceTokens: number;

  constructor(
    message: string,
    values: { numPromptTokens: number; maxTokens: number; maxSequenceTokens: number },
  ) {
    super('context_length_exceeded', message);
    // A prompt that leaves no room fits with no number of tokens.
    const leavesRoom = values.numPromptTokens < values.maxSequenceTokens;
    this.param = values.maxTokens > 0 && leavesRoom ? 'maxTokens' : 'prompt';
    this.numPromptTokens = values.numPromptTokens;
    this.maxTokens = values.maxTokens;
    this.maxSequenceTokens = values.maxSequenceTokens;
  }
}

/** The engine was closed, or its process is gone. */
export class EngineClosedError extends HastenError {
  constructor(message = 'the engine is closed: it takes no more requests') {
    super('engine_closed', message);
  }
}

/** The model gave logits that nothing can be drawn from. */
export class SamplingError extends HastenError {
  constructor(message: string) {
    super('bad_logits', message);
  }
}

/** The engine cannot be set up as it was asked to be. */
export class EngineSetupError extends HastenError {
  constructor(message: string, options?: ErrorOptions) {
    super('engine_setup', message, options);
  }
}

/** An engine elsewhere refused a call; `code` is that of the error there. */
export class EngineCallError extends HastenError {}

/** The draft model does not speak the language of the first. */
export class DraftModelError extends HastenError {
  constructor(message: string) {
    super('draft_model_mismatch', message);
  }
}
