/** quantize(norm, gatedActivation, permuteColumns or pagedAttention) → that op with q8 output, where nobody wants its f32 values. */
import type { GraphNode, NodeWithOp } from '../ir.ts';
import { rewriteGraph } from '../rewrite.ts';
import type { GraphPass } from './graph-pass.ts';

export const fuseQuantize: GraphPass<'fuse-quantize'> = {
  name: 'fuse-quantize',
  summary: 'int8 rounding into the norm, gated activation, order of columns or attention before it',
  run: (graph) =>
    rewriteGraph(graph, (node, { map, users, builder }) => {
      if (node.op !== 'quantize' || node.attrs.outliers.length > 0) return null;
      if (users(node.inputs[0]!).length !== 1) return null;
      const x = map(node.inputs[0]!);
      if (!canGiveQ8(x)) return null;
      return builder.node(x.op, x.inputs, { ...x.attrs, output: 'q8' }, x.label);
    }),
};

function canGiveQ8(
  x: GraphNode,
): x is NodeWithOp<
  'rmsNorm' | 'layerNorm' | 'gatedActivation' | 'permuteColumns' | 'pagedAttention'
> {
  if (x.op === 'rmsNorm') return x.attrs.groupSize === x.shape[1] && !x.attrs.residual;
  // A block of 32 values lies in one head, so that heads can be computed apart.
  if (x.op === 'pagedAttention') return x.attrs.headDim % 32 === 0;
  return x.op === 'layerNorm' || x.op === 'gatedActivation' || x.op === 'permuteColumns';
}
