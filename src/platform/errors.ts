/**
 * The base of every error that hasten raises on purpose. Callers test the class, never the text.
 * Knows nothing of any part; each part derives its own few classes, with the values as fields.
 */
export class HastenError extends Error {
  /** Stable machine-readable kind, such as `invalid_file`; servers and `--json` print it. */
  readonly code: string;

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}

/** A program invariant was broken: worded for the maintainer, never for bad input. */
export class InternalError extends HastenError {
  constructor(message: string, options?: ErrorOptions) {
    super('internal', message, options);
  }
}
