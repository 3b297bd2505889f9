/**
 * Shapes as files state them. Knows nothing of dtypes or files.
 */

/** Product of the dimensions (1 for none), or null where it, or a dimension, is beyond 2^53 - 1. */
export function elementCount(dims: readonly (bigint | number)[]): number | null {
  let product = 1n;
  let isEmpty = false;
  const limit = BigInt(Number.MAX_SAFE_INTEGER);
  for (const dim of dims) {
    const size = BigInt(dim);
    if (size > limit) return null;
    if (size === 0n) isEmpty = true;
    else product *= size;
    if (product > limit) return null;
  }
  return isEmpty ? 0 : Number(product);
}

/** How readRows sees a tensor: `[shape[0], rest]`; one row where there are fewer than two dimensions. */
export function rowsOf(shape: readonly number[]): { numRows: number; rowElements: number } {
  if (shape.length < 2) return { numRows: 1, rowElements: shape[0] ?? 1 };
  const rowElements = shape.slice(1).reduce((a, b) => a * b, 1);
  return { numRows: shape[0]!, rowElements };
}
