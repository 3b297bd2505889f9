/** What can go wrong with a grammar, one class per kind of fault. */
import { HastenError } from '../platform/errors.ts';

/** Codes of errors that are the request's own doing, wherever they turn up. */
export const GRAMMAR_FAULT = 'invalid_grammar';

/** A grammar that cannot be used: not well formed, asking for what no text can be, or too large. */
export class GrammarError extends HastenError {
  constructor(message: string, options?: ErrorOptions) {
    super(GRAMMAR_FAULT, message, options);
  }
}
