/**
 * attention(rope(q), rope(k), v) → pagedAttention(ropeKvStore(q, k, v, positions)): the pure op of the model becomes a store into and a read
 * from the paged KV cache, and the rotation goes into the store. Where q and k are not rotated alike, the rotations stay by themselves.
 */
import type { GraphNode, NodeWithOp } from '../ir.ts';
import { type Rewriter, rewriteGraph } from '../rewrite.ts';
import type { GraphPass } from './graph-pass.ts';

export const lowerAttention: GraphPass<'lower-attention'> = {
  name: 'lower-attention',
  summary: 'attention into RoPE + KV store and paged read',
  run: (graph) =>
    rewriteGraph(graph, (node, rewriter) =>
      node.op === 'attention' ? pagedFrom(node, rewriter) : null,
    ),
};

function pagedFrom(node: NodeWithOp<'attention'>, { map, builder }: Rewriter): GraphNode {
  const { scale, mask, ...storeAttrs } = node.attrs;
  const [q, k, v] = node.inputs as [GraphNode, GraphNode, GraphNode];
  const isRotatedAlike =
    q.op === 'rope' &&
    k.op === 'rope' &&
    JSON.stringify(q.attrs.rope) === JSON.stringify(k.attrs.rope) &&
    q.inputs[1] === k.inputs[1];
  const store = builder.ropeKvStore(
    {
      q: map(isRotatedAlike ? q.inputs[0]! : q),
      k: map(isRotatedAlike ? k.inputs[0]! : k),
      v: map(v),
      positions: isRotatedAlike ? map(q.inputs[1]!) : builder.input('positions'),
    },
    { ...storeAttrs, rope: isRotatedAlike ? q.attrs.rope : null },
    `${node.label}.store`,
  );
  const attrs = { ...storeAttrs, scale, mask, output: 'f32' } as const;
  return builder.pagedAttention(store, attrs, node.label);
}
