import { HastenError } from '../platform/errors.ts';

/** The settings do not fit the model or the machine: what was asked, what there is. */
export class RunnerError extends HastenError {
  constructor(message: string, options?: ErrorOptions) {
    super('cannot_run', message, options);
  }
}

/** Packed weights cannot be kept in the folder given, or read from it; the model can still run, packed into memory. */
export class PlanCacheError extends HastenError {
  constructor(message: string, options?: ErrorOptions) {
    super('plan_cache', message, options);
  }
}
