import { HastenError } from '../platform/errors.ts';

/** The model cannot be planned as asked: an op, format or setting that no kernel serves. */
export class PlanError extends HastenError {
  constructor(message: string, options?: ErrorOptions) {
    super('cannot_plan', message, options);
  }
}
