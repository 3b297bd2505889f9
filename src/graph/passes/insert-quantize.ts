/** linear on a quantized weight → linear on q8 activations; one `quantize` per activation, however many linears take it. */
import type { GraphNode, NodeWithOp } from '../ir.ts';
import { Q8_BLOCK_SIZE } from '../op-rules.ts';
import { rewriteGraph } from '../rewrite.ts';
import { storedDtype, type WeightDirectory } from '../weight-ref.ts';
import type { GraphPass, PassContext } from './graph-pass.ts';

export const insertQuantize: GraphPass<'insert-quantize'> = {
  name: 'insert-quantize',
  summary: 'activations of linears on quantized weights to int8 blocks (fast precision only)',
  run: (graph, context) =>
    rewriteGraph(graph, (node, { map, builder }) => {
      if (!takesQ8(node, context)) return null;
      const x = map(node.inputs[0]!);
      const q8 = builder.quantize(x, `${x.label}.quantize`);
      const others = node.inputs.slice(1).map(map);
      return builder.node('linear', [q8, ...others], node.attrs, node.label);
    }),
};

/** Whether a linear is to take int8 activations and does not yet. */
export function takesQ8(
  node: GraphNode,
  { directory, q8Dtypes }: PassContext,
): node is NodeWithOp<'linear'> {
  if (node.op !== 'linear' || node.inputs[0]!.type === 'q8') return false;
  const [x, weight] = node.inputs as [GraphNode, GraphNode];
  const dtype = commonDtype(weight, directory);
  const isWholeBlocks = (x.shape[1] as number) % Q8_BLOCK_SIZE === 0;
  return dtype !== null && q8Dtypes.has(dtype) && isWholeBlocks;
}

/** Stored dtype of a weight, also before `concatRows` has been folded. */
function commonDtype(weight: GraphNode, directory: WeightDirectory): string | null {
  if (weight.op === 'weight') return storedDtype(weight.attrs.ref, directory);
  if (weight.op !== 'concatRows') return null;
  const dtypes = new Set(weight.inputs.map((input) => commonDtype(input, directory)));
  const [dtype] = dtypes;
  return dtypes.size === 1 ? (dtype ?? null) : null;
}
