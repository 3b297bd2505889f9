/** What an attention kernel is made for, and which shapes there are kernels of. Knows nothing of how they work. */
import { KernelShapeError, requireCount } from './errors.ts';
import type { KvShape, KvType } from './kv-layout.ts';
import type { RowElement } from './rows.ts';

export interface PagedAttentionShape extends KvShape {
  readonly kvType: KvType;
  readonly numHeads: number;
  /** Factor on q · k, 1 / sqrt(headDim) for most. */
  readonly scale: number;
  /** Position i sees positions j with i - window < j <= i; null: all j <= i. */
  readonly window: number | null;
  /** Most query tokens of one tile. More rows per tile share one pass over the context; scratch grows with it. */
  readonly queryTokens: number;
  /** q8 only for head sizes that are multiples of 32. */
  readonly output: RowElement;
}

const MAX_HEAD_DIM = 256;
const MAX_GROUP = 16;

/** @throws {KernelShapeError} for shapes that there is no kernel of */
export function requireAttentionShape(shape: PagedAttentionShape): void {
  const { numHeads, numKvHeads, headDim, window, queryTokens, output } = shape;
  requireCount('pagedAttention', 'numKvHeads', numKvHeads);
  requireCount('pagedAttention', 'numHeads', numHeads, numKvHeads);
  requireCount('pagedAttention', 'headDim', headDim, 8);
  if (output === 'q8') requireCount('pagedAttention', 'headDim (q8 output)', headDim, 32);
  requireCount('pagedAttention', 'queryTokens', queryTokens);
  if (window !== null) requireCount('pagedAttention', 'window', window);
  if (headDim > MAX_HEAD_DIM) {
    throw new KernelShapeError(
      'pagedAttention',
      `headDim is ${headDim}; accepted: up to ${MAX_HEAD_DIM}`,
    );
  }
  if (numHeads / numKvHeads > MAX_GROUP) {
    throw new KernelShapeError(
      'pagedAttention',
      `${numHeads} query heads on ${numKvHeads} KV heads; accepted: up to ${MAX_GROUP} to one`,
    );
  }
}
