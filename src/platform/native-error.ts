/**
 * What can go wrong between this process and the machine. Knows nothing of models or kernels.
 */
import { HastenError } from './errors.ts';

/** This machine or this Node cannot run native code at all; `reason` is one sentence. */
export class UnsupportedPlatformError extends HastenError {
  readonly reason: string;

  constructor(reason: string, options?: ErrorOptions) {
    super(
      'unsupported_platform',
      `native code cannot run here: ${reason}; use --target reference`,
      options,
    );
    this.reason = reason;
  }
}

/** The operating system refused memory, a mapping or advice about one. */
export class NativeMemoryError extends HastenError {
  /** Bytes that were asked for. */
  readonly sizeBytes: number;

  constructor(message: string, sizeBytes: number, options?: ErrorOptions) {
    super('native_memory', message, options);
    this.sizeBytes = sizeBytes;
  }
}

/** The operating system gave no thread. */
export class NativeThreadError extends HastenError {
  constructor(reason: string) {
    super('native_thread', `the system starts no thread: ${reason}`);
  }
}
