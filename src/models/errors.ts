/** The faults of this folder: a model description that cannot be used. Knows nothing of how it was read. */
import { HastenError } from '../platform/errors.ts';

/** A model whose description is broken, or whose tensors disagree with it. */
export class ModelError extends HastenError {
  /** The tensor at fault, by its canonical name; null if it is the description itself. */
  readonly tensor: string | null;
  readonly seen: string | null;
  readonly expected: string | null;

  constructor(
    message: string,
    detail: { code?: string; tensor?: string; seen?: string; expected?: string } = {},
    options?: ErrorOptions,
  ) {
    super(detail.code ?? 'invalid_model', message, options);
    this.tensor = detail.tensor ?? null;
    this.seen = detail.seen ?? null;
    this.expected = detail.expected ?? null;
  }
}

/** A sound model that hasten cannot run (yet): an unknown architecture, or a feature that is not implemented. */
export class UnsupportedModelError extends ModelError {
  constructor(message: string, detail: { seen?: string; expected?: string } = {}) {
    super(message, { ...detail, code: 'unsupported_model' });
  }
}
