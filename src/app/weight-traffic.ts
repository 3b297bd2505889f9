/** How many bytes of weights a step reads, as they are stored: what a decode step's speed is bounded by. */
import type { Graph } from '../graph/ir.ts';
import { rowBytes } from '../tensor/dtype.ts';
import type { WeightTensor } from '../weights/contract.ts';

/** Every matrix of a linear once; embedding rows and norm weights are left out, as they hardly count. */
export function weightBytesPerStep(
  graph: Graph,
  tensors: ReadonlyMap<string, WeightTensor>,
): number {
  let bytes = 0;
  for (const node of graph.nodes) {
    if (node.op !== 'linear') continue;
    for (const input of node.inputs) {
      if (input.op !== 'weight') continue;
      for (const { tensor, rowStart, rowEnd } of input.attrs.ref.parts) {
        const stored = tensors.get(tensor);
        if (stored === undefined) continue;
        const width = stored.shape.slice(1).reduce((product, dim) => product * dim, 1);
        bytes += (rowEnd - rowStart) * rowBytes(stored.dtype, width);
      }
    }
  }
  return bytes;
}
