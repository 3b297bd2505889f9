/** Whether another toolkit's layout can hold a matrix, asked before hours are spent on it. */
import { checkPackable } from '../weights/hf-packed.ts';
import { CompressError } from './errors.ts';
import type { QuantizedMatrix } from './group-quantizer.ts';
import type { HfLayout } from './write-hf.ts';

/** @throws {CompressError} naming the tensor */
export function checkFitsLayout(
  layout: HfLayout,
  tensor: string,
  shape: Pick<QuantizedMatrix, 'rows' | 'columns' | 'bits'>,
): void {
  try {
    checkPackable(layout, shape);
  } catch (error) {
    throw new CompressError(`tensor "${tensor}": ${(error as Error).message}`, {
      tensor,
      cause: error,
    });
  }
}
