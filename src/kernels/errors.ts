/** The one fault of this folder: a kernel is asked for a shape that it cannot do. Found when the kernel is recorded, never when it runs. */
import { HastenError } from '../platform/errors.ts';

export class KernelShapeError extends HastenError {
  readonly kernel: string;

  constructor(kernel: string, message: string) {
    super('kernel_shape', `${kernel}: ${message}`);
    this.kernel = kernel;
  }
}

/** Throws unless `value` is an integer of at least 1 (and a multiple of `multipleOf`). */
export function requireCount(kernel: string, name: string, value: number, multipleOf = 1): void {
  if (Number.isSafeInteger(value) && value >= 1 && value % multipleOf === 0) return;
  const accepted =
    multipleOf === 1 ? 'a whole number of at least 1' : `a multiple of ${multipleOf}`;
  throw new KernelShapeError(kernel, `${name} is ${value}; accepted: ${accepted}`);
}
