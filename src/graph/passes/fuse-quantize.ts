/** quantize(norm or gatedActivation) → that op with q8 output, where nobody wants its f32 values. */
import type { GraphNode } from '../ir.ts';
import { rewriteGraph } from '../rewrite.ts';
import type { GraphPass } from './graph-pass.ts';

export const fuseQuantize: GraphPass<'fuse-quantize'> = {
  name: 'fuse-quantize',
  summary: 'int8 rounding into the norm or gated activation before it',
  run: (graph) =>
    rewriteGraph(graph, (node, { map, users, builder }) => {
      if (node.op !== 'quantize' || users(node.inputs[0]!).length !== 1) return null;
      const x = map(node.inputs[0]!);
      if (!canGiveQ8(x)) return null;
      return builder.node(x.op, x.inputs, { ...x.attrs, output: 'q8' }, x.label);
    }),
};

function canGiveQ8(
  x: GraphNode,
): x is Extract<GraphNode, { op: 'rmsNorm' | 'layerNorm' | 'gatedActivation' }> {
  if (x.op === 'rmsNorm') return x.attrs.groupSize === x.shape[1] && !x.attrs.residual;
  return x.op === 'layerNorm' || x.op === 'gatedActivation';
}
