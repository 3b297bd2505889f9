/**
 * Moves `selectRows` towards the inputs, past everything that works on each row by itself: after the last attention only the rows whose logits
 * are wanted are worked on. In a prefill that saves the last layer's output projection and MLP for all tokens but one.
 */
import type { Graph, GraphNode } from '../ir.ts';
import { isWeightOp } from '../op-rules.ts';
import { rewriteGraph, usersOf } from '../rewrite.ts';
import type { GraphPass } from './graph-pass.ts';

const ROW_BY_ROW = new Set<GraphNode['op']>([
  'linear',
  'rmsNorm',
  'layerNorm',
  'slice',
  'add',
  'mul',
  'scale',
  'softcap',
  'activation',
  'gatedActivation',
  'permuteColumns',
]);

export const selectRowsEarly: GraphPass<'select-rows-early'> = {
  name: 'select-rows-early',
  summary: 'only rows whose logits are wanted, from the last attention on',
  run: (graph) => {
    const movable = onlyForSelection(graph);
    const isSelected = (node: GraphNode) => movable.has(node) || node.op === 'selectRows';
    return rewriteGraph(graph, (node, { map, builder }) => {
      const selected = (input: GraphNode): GraphNode =>
        isWeightOp(input.op) || isSelected(input)
          ? map(input)
          : builder.selectRows(map(input), builder.input('logitRows'), `${input.label}.rows`);
      if (node.op === 'selectRows') {
        return isSelected(node.inputs[0]!) ? map(node.inputs[0]!) : null;
      }
      if (!movable.has(node)) return null;
      return builder.node(node.op, node.inputs.map(selected), node.attrs, node.label);
    });
  },
};

/** Nodes whose every user is a `selectRows` or such a node itself: nobody wants their other rows. */
function onlyForSelection(graph: Graph): ReadonlySet<GraphNode> {
  const users = usersOf(graph);
  const found = new Set<GraphNode>();
  for (const node of graph.nodes.toReversed()) {
    if (!ROW_BY_ROW.has(node.op) || node.shape[0] !== 'T' || node === graph.output) continue;
    if ((users.get(node) ?? []).every((user) => user.op === 'selectRows' || found.has(user))) {
      found.add(node);
    }
  }
  return found;
}
