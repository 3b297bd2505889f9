/**
 * The faults of dtypes and rows: a name or a length that does not fit, a format without a decoder, a buffer that is too short.
 * Knows nothing of files: the reader of a file adds which file and which tensor.
 */
import { HastenError } from '../platform/errors.ts';

/** A dtype and a length, or a dtype and an operation, do not go together. */
export class DTypeError extends HastenError {
  readonly dtype: string;

  constructor(dtype: string, message: string, options?: ErrorOptions) {
    super('invalid_dtype', `${dtype}: ${message}`, options);
    this.dtype = dtype;
  }
}

/** A dtype that is recognised (its size is known) but cannot be decoded, unpacked or encoded. */
export class UnsupportedDTypeError extends DTypeError {}

/** A buffer handed to a row function is shorter than the row. */
export class RowBufferError extends DTypeError {}
