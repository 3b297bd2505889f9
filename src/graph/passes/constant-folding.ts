/** Folds arithmetic on weights into the reference, and arithmetic with constants into neighbours. */
import type { GraphNode, NodeWithOp, WeightRef } from '../ir.ts';
import { type Rewriter, rewriteGraph } from '../rewrite.ts';
import { affineRef, canConcatRefs, concatRefs } from '../weight-ref.ts';
import type { GraphPass } from './graph-pass.ts';

export const constantFolding: GraphPass<'constant-folding'> = {
  name: 'constant-folding',
  summary: 'weight arithmetic into weight references; scale by 1, scale of scale, slice of slice',
  run: (graph) =>
    rewriteGraph(graph, (node, rewriter) => {
      switch (node.op) {
        case 'concatRows':
          return foldConcatRows(node, rewriter);
        case 'affineWeight':
          return foldAffineWeight(node, rewriter);
        case 'scale':
          return foldScale(node, rewriter);
        case 'slice':
          return foldSlice(node, rewriter);
        default:
          return null;
      }
    }),
};

function foldConcatRows(node: NodeWithOp<'concatRows'>, { map, builder }: Rewriter) {
  const refs = node.inputs.map((input) => weightRefOf(map(input)));
  if (!refs.every((ref) => ref !== null) || !canConcatRefs(refs)) return null;
  return builder.weight(concatRefs(refs), node.shape, node.label);
}

function foldAffineWeight(node: NodeWithOp<'affineWeight'>, { map, builder }: Rewriter) {
  const weight = map(node.inputs[0]!);
  const { scale, offset } = node.attrs;
  if (scale === 1 && offset === 0) return weight;
  const ref = weightRefOf(weight);
  return ref && builder.weight(affineRef(ref, scale, offset), node.shape, node.label);
}

function foldScale(node: NodeWithOp<'scale'>, { map, builder, users }: Rewriter) {
  const x = map(node.inputs[0]!);
  const { factor } = node.attrs;
  if (factor === 1) return x;
  if (x.op === 'scale') {
    return builder.scale(x.inputs[0]!, x.attrs.factor * factor, node.label);
  }
  if (x.op === 'embed' && users(node.inputs[0]!).length === 1) {
    return builder.embed(x.inputs[0]!, x.inputs[1]!, x.attrs.scale * factor, x.label);
  }
  return null;
}

function foldSlice(node: NodeWithOp<'slice'>, { map, builder }: Rewriter) {
  const x = map(node.inputs[0]!);
  const { start, length } = node.attrs;
  if (length === x.shape[1]) return x;
  if (x.op !== 'slice') return null;
  return builder.slice(x.inputs[0]!, x.attrs.start + start, length, node.label);
}

function weightRefOf(node: GraphNode): WeightRef | null {
  return node.op === 'weight' ? node.attrs.ref : null;
}
