/**
 * The order of columns that a linear wants of its input is given to the rows of the weights that make this input, where nobody else sees it: gate and up
 * before down. Their values come in that order then, and nothing has to be brought into it.
 */
import { InternalError } from '../../platform/errors.ts';
import type { GraphNode, NodeWithOp } from '../ir.ts';
import { type Rewriter, rewriteGraph } from '../rewrite.ts';
import { canOrderRows, orderedRows, type WeightDirectory } from '../weight-ref.ts';
import type { GraphPass } from './graph-pass.ts';

const ELEMENT_BY_ELEMENT = new Set<GraphNode['op']>([
  'mul',
  'activation',
  'gatedActivation',
  'scale',
]);

export const orderRows: GraphPass<'order-rows'> = {
  name: 'order-rows',
  summary: 'orders of columns (act-order) into the rows of the weights before them',
  run: (graph, { directory }) =>
    rewriteGraph(graph, (node, rewriter) => {
      if (node.op !== 'permuteColumns' || !canBeOrdered(node.inputs[0]!, rewriter)) return null;
      const tensor = takerOf(node, rewriter, directory);
      return tensor === null ? null : inOrder(node.inputs[0]!, tensor, rewriter);
    }),
};

/** The stored matrix that has its columns in the order of `node`. */
function takerOf(
  node: NodeWithOp<'permuteColumns'>,
  { users }: Rewriter,
  directory: WeightDirectory,
): string | null {
  const weight = users(node)[0]?.inputs[1];
  const tensor = weight?.op === 'weight' ? weight.attrs.ref.parts[0]!.tensor : '';
  const order = directory.get(tensor)?.columnOrder;
  return order?.digest === node.attrs.order.digest ? tensor : null;
}

/** Whether all columns of `x` come from linears by themselves, and nobody else takes any of them. */
function canBeOrdered(x: GraphNode, { users }: Rewriter): boolean {
  const isSeen = (node: GraphNode): boolean => new Set(users(node)).size > 1;
  const visit = (node: GraphNode): boolean => {
    if (isSeen(node)) return false;
    if (ELEMENT_BY_ELEMENT.has(node.op)) return node.inputs.every(visit);
    const weight = node.op === 'linear' && node.inputs.length === 2 ? node.inputs[1]! : null;
    return weight?.op === 'weight' && canOrderRows(weight.attrs.ref);
  };
  return visit(x);
}

function inOrder(x: GraphNode, tensor: string, rewriter: Rewriter): GraphNode {
  const { builder, map } = rewriter;
  if (x.op !== 'linear') {
    const inputs = x.inputs.map((input) => inOrder(input, tensor, rewriter));
    return builder.node(x.op, inputs, x.attrs, x.label);
  }
  const [input, weight] = x.inputs as [GraphNode, GraphNode];
  if (weight.op !== 'weight') throw new InternalError(`"${x.label}" takes no stored weight`);
  const ref = orderedRows(weight.attrs.ref, tensor);
  return builder.linear(
    { x: map(input), weight: builder.weight(ref, weight.shape, weight.label) },
    x.label,
  );
}
