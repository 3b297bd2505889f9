/** What the command line itself refuses; the exit code follows from the class. */
import { constants } from 'node:os';
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

/** The command was interrupted by a signal. The exit code is what a shell reports of a process that died of it: 130 after Ctrl-C. */
export class InterruptedError extends HastenError {
  readonly exitCode: number;

  constructor(signalNumber: number = constants.signals.SIGINT) {
    super('interrupted', 'interrupted');
    this.exitCode = 128 + signalNumber;
  }
}
