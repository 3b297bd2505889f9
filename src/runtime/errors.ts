import { HastenError } from '../platform/errors.ts';

/** The settings do not fit the model or the machine: what was asked, what there is. */
export class RunnerError extends HastenError {
  constructor(message: string, options?: ErrorOptions) {
    super('cannot_run', message, options);
  }
}
