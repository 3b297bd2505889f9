/** add(linear(x, w), bias vector) → linear with bias. */
import { isWeightOp } from '../op-rules.ts';
import { rewriteGraph } from '../rewrite.ts';
import type { GraphPass } from './graph-pass.ts';

export const fuseBias: GraphPass<'fuse-bias'> = {
  name: 'fuse-bias',
  summary: 'bias vectors into the linear before them',
  run: (graph) =>
    rewriteGraph(graph, (node, { map, users, builder }) => {
      if (node.op !== 'add') return null;
      const [sum, bias] = node.inputs as [typeof node, typeof node];
      if (!isWeightOp(bias.op) || users(sum).length !== 1) return null;
      const linear = map(sum);
      // bias goes in before a residual does, so that the order of the two sums stays as the model has it
      if (linear.op !== 'linear' || linear.attrs.bias || linear.attrs.residual) return null;
      const [x, weight] = linear.inputs;
      return builder.linear({ x: x!, weight: weight!, bias: map(bias) }, linear.label);
    }),
};
