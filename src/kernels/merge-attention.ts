/**
 * The last step of attention for query tokens whose context was split over chunks: folds the states of the spans in ascending order.
 *
 * The counterpart of paged-attention.ts, with which it shares the arithmetic (attention-spans.ts). Knows nothing of keys and values.
 */

import type { PagedAttentionShape } from './attention-shape.ts';
import {
  finishHead,
  loadSpanState,
  locateTile,
  mergeSpan,
  outputHeadBytes,
  spanStateBytes,
} from './attention-spans.ts';
import { KernelBuilder } from './builder.ts';
import type { KernelProgram, VectorMachine } from './kernel-ir.ts';
import { hasRotatedValues } from './kv-layout.ts';
import { TILE_ENTRY } from './tile-entry.ts';

export type MergeAttentionShape = Pick<
  PagedAttentionShape,
  'numHeads' | 'numKvHeads' | 'headDim' | 'window' | 'output' | 'kvType'
>;

/**
 * parts: states of one span each, `[numParts, numHeads, spanStateBytes]`, as pagedAttention wrote them; the first of each row is used up.
 * merges: entries (attention-spans.ts). out as in pagedAttention.
 *
 * Params: parts out outStride contextLens queryStarts merges. Chunk: entry * numKvHeads + kvHead. No scratch.
 */
export function mergeAttentionKernel(
  machine: VectorMachine,
  { numHeads, numKvHeads, headDim, window, output, kvType }: MergeAttentionShape,
): KernelProgram {
  const group = numHeads / numKvHeads;
  const stateBytes = spanStateBytes(headDim);
  const headBytes = outputHeadBytes(headDim, output);
  const isRotated = hasRotatedValues(kvType);
  const rotation = isRotated ? '_rotated' : '';
  const name = `mergeAttention_${numHeads}_${numKvHeads}_${headDim}_w${window ?? 0}_${output}${rotation}`;
  const k = new KernelBuilder(name, machine);
  const index = k.div(k.chunk, numKvHeads);
  const kvHead = k.sub(k.chunk, k.mul(index, numKvHeads));
  const entry = k.add(k.arg('merges'), k.mul(index, TILE_ENTRY.bytes));
  const { firstToken, numTokens, firstSpan, endSpan } = locateTile(k, entry, window);

  // From here on the entry's place is in few registers: the state of the first span and the output of the first token, strides, numbers left.
  const numMerges = k.sub(k.sub(endSpan, firstSpan), 1);
  const spanBytes = k.mul(numTokens, numHeads * stateBytes);
  const firstPart = k.loadScalar(32, k.at(entry, TILE_ENTRY.firstPart));
  const state = k.add(k.arg('parts'), k.mul(firstPart, numHeads * stateBytes));
  k.addTo(state, k.mul(firstSpan, spanBytes));
  k.addTo(state, k.mul(kvHead, group * stateBytes));
  const out = k.add(k.arg('out'), k.mul(firstToken, k.arg('outStride')));
  k.addTo(out, k.mul(kvHead, group * headBytes));
  k.loop(
    numTokens,
    () => {
      const head = k.copy(out);
      k.loop(group, () => {
        const next = k.copy(state);
        k.loop(numMerges, () => {
          k.addTo(next, spanBytes);
          mergeSpan(k, headDim, state, loadSpanState(k, headDim, next));
        });
        finishHead(k, { headDim, output, isRotated }, state, head);
        k.addTo(head, headBytes);
        k.addTo(state, stateBytes);
      });
      k.addTo(state, (numHeads - group) * stateBytes);
      k.addTo(out, k.arg('outStride'));
    },
    { countIsPositive: true },
  );
  return k.finish();
}
