/** How a pass makes a new graph from an old one: node by node into a fresh builder. Knows no particular pass. */
import { GraphBuilder } from './builder.ts';
import type { Graph, GraphNode } from './ir.ts';

/** What a rewrite rule may use. */
export interface Rewriter {
  readonly builder: GraphBuilder;
  /** The new node that stands for an old one; made on demand, so a rule may ask for nodes that come later in the list. */
  map(oldNode: GraphNode): GraphNode;
  /** A plain copy of an old node over its mapped inputs. */
  copy(oldNode: GraphNode): GraphNode;
  /** Old nodes that take `oldNode` as an input, each once per place. */
  users(oldNode: GraphNode): readonly GraphNode[];
}

/** Gives the new node for an old one, or null for a plain copy. */
export type RewriteRule = (oldNode: GraphNode, rewriter: Rewriter) => GraphNode | null;

/** Applies `rule` to every node, inputs first; what the new output does not need any more is left out. */
export function rewriteGraph(graph: Graph, rule: RewriteRule): Graph {
  const builder = new GraphBuilder();
  const mapped = new Map<GraphNode, GraphNode>();
  const users = usersOf(graph);
  const rewriter: Rewriter = {
    builder,
    map(oldNode) {
      const known = mapped.get(oldNode);
      if (known !== undefined) return known;
      const made = rule(oldNode, rewriter) ?? rewriter.copy(oldNode);
      mapped.set(oldNode, made);
      return made;
    },
    copy(oldNode) {
      const inputs = oldNode.inputs.map(rewriter.map);
      const statedShape = oldNode.op === 'weight' ? oldNode.shape : undefined;
      return builder.node(oldNode.op, inputs, oldNode.attrs, oldNode.label, statedShape);
    },
    users: (oldNode) => users.get(oldNode) ?? [],
  };
  for (const node of graph.nodes) rewriter.map(node);
  return builder.finish(graph.name, rewriter.map(graph.output));
}

/** For every node, the nodes that take it as an input, each once per place. */
export function usersOf(graph: Graph): ReadonlyMap<GraphNode, readonly GraphNode[]> {
  const users = new Map<GraphNode, GraphNode[]>();
  for (const node of graph.nodes) {
    for (const input of node.inputs) {
      const known = users.get(input);
      if (known === undefined) users.set(input, [node]);
      else known.push(node);
    }
  }
  return users;
}
