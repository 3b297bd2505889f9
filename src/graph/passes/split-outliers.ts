/**
 * linear on a quantized weight with outlier columns → linear on int8 activations without these columns, plus a linear of these alone in floats (LLM.int8,
 * Dettmers et al. 2022, arXiv:2208.07339). What is large in a few columns does not set the scale of their blocks any more.
 */
import type { NodeWithOp } from '../ir.ts';
import { type Rewriter, rewriteGraph } from '../rewrite.ts';
import { outliersOf } from '../weight-ref.ts';
import type { GraphPass, PassContext } from './graph-pass.ts';
import { takesQ8 } from './insert-quantize.ts';

export const splitOutliers: GraphPass<'split-outliers'> = {
  name: 'split-outliers',
  summary: 'outlier columns of int8 activations into a product of their own (fast precision only)',
  run: (graph, context) =>
    rewriteGraph(graph, (node, rewriter) =>
      takesQ8(node, context) ? withOutliersApart(node, rewriter, context) : null,
    ),
};

function withOutliersApart(
  node: NodeWithOp<'linear'>,
  { map, builder }: Rewriter,
  { directory }: PassContext,
) {
  const weight = map(node.inputs[1]!);
  const found = weight.op === 'weight' ? outliersOf(weight.attrs.ref, directory) : null;
  if (found === null) return null;
  const { columns, ref } = found;
  const { bias, residual } = node.attrs;
  const oldX = node.inputs[0]!;
  const label = `${node.label}.outliers`;
  const q8 = builder.quantize(map(oldX), `${oldX.label}.quantize`, columns);
  const few = builder.linear(
    {
      x: builder.outliers(q8, `${oldX.label}.outliers`),
      weight: builder.weight(ref, [node.shape[1]!, columns.length], label),
      residual: residual ? map(node.inputs.at(-1)!) : null,
    },
    label,
  );
  return builder.linear(
    { x: q8, weight, bias: bias ? map(node.inputs[2]!) : null, residual: few },
    node.label,
  );
}
