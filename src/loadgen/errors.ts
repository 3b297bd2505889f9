/** What a load generator refuses or cannot do before a load begins. What happens to single requests is data, not an error: see `outcome.ts`. */
import { HastenError } from '../platform/errors.ts';

/** The load that was asked for makes no sense, or a dataset cannot be read. */
export class LoadError extends HastenError {
  constructor(message: string, options?: ErrorOptions) {
    super('bad_load', message, options);
  }
}

/** The target may not be loaded, or does not answer. */
export class TargetError extends HastenError {
  constructor(message: string, options?: ErrorOptions) {
    super('bad_target', message, options);
  }
}
