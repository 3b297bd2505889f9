/** add(x, linear(y)) → linear(y) plus residual x; the same for the norm after a block (sandwich norms): add(x, rmsNorm(y)). */

import type { GraphNode } from '../ir.ts';
import { isWeightOp } from '../op-rules.ts';
import { type Rewriter, rewriteGraph } from '../rewrite.ts';
import type { GraphPass } from './graph-pass.ts';

export const fuseResidual: GraphPass<'fuse-residual'> = {
  name: 'fuse-residual',
  summary: 'the residual sum into the linear or norm that ends a block',
  run: (graph) =>
    rewriteGraph(graph, (node, rewriter) => {
      if (node.op !== 'add' || isWeightOp(node.inputs[1]!.op)) return null;
      const [a, b] = node.inputs as [GraphNode, GraphNode];
      // the later one: the other is then surely there before it
      return withResidual(b, a, rewriter) ?? withResidual(a, b, rewriter);
    }),
};

function withResidual(
  oldBlock: GraphNode,
  oldResidual: GraphNode,
  { map, users, builder }: Rewriter,
): GraphNode | null {
  if (users(oldBlock).length !== 1) return null;
  const block = map(oldBlock);
  const residual = map(oldResidual);
  const [x, weight, bias] = block.inputs as [GraphNode, GraphNode, GraphNode | undefined];
  if (block.op === 'linear' && !block.attrs.residual) {
    return builder.linear({ x, weight, bias, residual }, block.label);
  }
  if (block.op === 'rmsNorm' && !block.attrs.residual && block.type === 'f32') {
    return builder.rmsNorm({ x, weight, residual, ...normAttrs(block.attrs) }, block.label);
  }
  return null;
}

function normAttrs({ eps, groupSize }: { eps: number; groupSize: number }) {
  return { eps, groupSize };
}
