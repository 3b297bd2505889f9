/** mul(activation(gate), up) → gatedActivation(gate, up), either way round. */
import { rewriteGraph } from '../rewrite.ts';
import type { GraphPass } from './graph-pass.ts';

export const fuseGatedActivation: GraphPass<'fuse-gated-activation'> = {
  name: 'fuse-gated-activation',
  summary: 'activation(gate) * up in one op',
  run: (graph) =>
    rewriteGraph(graph, (node, { map, users, builder }) => {
      if (node.op !== 'mul') return null;
      const activated = node.inputs.find(
        (input) => input.op === 'activation' && users(input).length === 1,
      );
      if (activated?.op !== 'activation') return null;
      const up = node.inputs[0] === activated ? node.inputs[1]! : node.inputs[0]!;
      return builder.gatedActivation(
        map(activated.inputs[0]!),
        map(up),
        activated.attrs.kind,
        node.label,
      );
    }),
};
