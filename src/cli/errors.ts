/** What the command line itself refuses; the exit code follows from the class. */
import { HastenError } from '../platform/errors.ts';

/** Wrong usage: exit code 2, with a pointer to `--help`. */
export class UsageError extends HastenError {
  constructor(message: string, options?: ErrorOptions) {
    super('wrong_usage', message, options);
  }
}

/** A command could not do what it was asked: exit code 1. */
export class CommandError extends HastenError {
  constructor(message: string, options?: ErrorOptions) {
    super('command_failed', message, options);
  }
}

/** The user interrupted the command. Exit code 130, as a shell reports a process that died of SIGINT. */
export class InterruptedError extends HastenError {
  constructor() {
    super('interrupted', 'interrupted');
  }
}
