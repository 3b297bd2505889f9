/** In what a model stored in floats may be quantized while it is loaded, and which of its matrices are. Knows canonical tensor names. */
import type { DType } from '../tensor/dtype.ts';
import type { WeightTensor } from '../weights/contract.ts';

/** `int4`: ggml's Q4_0. `nf4`: bitsandbytes' code book, with a scale per 32 inputs. `int8`: ggml's Q8_0. */
export const LOAD_FORMATS = ['nf4', 'int4', 'int8'] as const;
export type LoadFormat = (typeof LOAD_FORMATS)[number];

const LINEAR_DTYPES: Readonly<Record<LoadFormat, DType>> = {
  nf4: 'nf4',
  int4: 'q4_0',
  int8: 'q8_0',
};

/**
 * Linears of layers get the format. Embeddings and the head get 8 bits in any case: they are more sensitive, and at Q8_0 their error is far below that of the
 * rest.
 */
export function loadedDtype(format: LoadFormat, { name }: WeightTensor): DType {
  return name.startsWith('model.layers.') ? LINEAR_DTYPES[format] : 'q8_0';
}
