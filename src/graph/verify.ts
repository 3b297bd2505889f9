/**
 * The grammar of each stage as code: what may stand in a graph that a model made, and what compilers are handed.
 * Knows nothing of how a pass works; a pass that breaks the grammar is caught here.
 */
import { GraphError } from './errors.ts';
import type { Graph, GraphNode, NodeWithOp, OpName } from './ir.ts';
import { inferValueType } from './op-rules.ts';

/**
 * `model`: pure ops in f32, nothing fused, as a model file describes itself.
 * `lowered`: every weight is one reference, attention is a paged store and read; fused and unfused ops may stand side by side.
 */
export type GraphStage = 'model' | 'lowered';

const SHARED_OPS: readonly OpName[] = [
  'input',
  'weight',
  'embed',
  'linear',
  'rmsNorm',
  'layerNorm',
  'slice',
  'rope',
  'add',
  'mul',
  'scale',
  'softcap',
  'activation',
  'permuteColumns',
  'selectRows',
  'firstRows',
];

const STAGE_OPS: { readonly [Stage in GraphStage]: ReadonlySet<OpName> } = {
  model: new Set([...SHARED_OPS, 'concatRows', 'affineWeight', 'attention']),
  lowered: new Set([
    ...SHARED_OPS,
    ...(['ropeKvStore', 'pagedAttention', 'gatedActivation', 'quantize', 'outliers'] as const),
  ]),
};

/** @throws {GraphError} naming the first node that breaks the grammar of `stage` */
export function verifyGraph(graph: Graph, stage: GraphStage): void {
  verifyOrder(graph);
  const layersStored = new Map<number, GraphNode>();
  for (const node of graph.nodes) {
    if (!STAGE_OPS[stage].has(node.op)) {
      throw new GraphError(`this op may not stand in a ${stage} graph`, node);
    }
    verifyValueType(node);
    if (stage === 'model') verifyUnfused(node);
    if (node.op === 'attention' || node.op === 'ropeKvStore') {
      verifyOncePerLayer(node, layersStored);
    }
    if (node.op === 'pagedAttention') verifyReadsItsStore(node);
  }
  const { type, shape } = graph.output;
  if (type !== 'f32' || shape.length !== 2 || shape[0] !== 'L') {
    throw new GraphError(
      `the output of "${graph.name}" must be f32 [L, vocabSize], got ${type} [${shape.join(', ')}]`,
      graph.output,
    );
  }
}

/** Inputs before users, each node once, all of them needed, the output among them. */
function verifyOrder(graph: Graph): void {
  const seen = new Set<GraphNode>();
  for (const node of graph.nodes) {
    for (const input of node.inputs) {
      if (!seen.has(input)) {
        throw new GraphError(
          `its input "${input.label}" (${input.op}) does not come before it`,
          node,
        );
      }
    }
    if (seen.has(node)) throw new GraphError('is listed twice', node);
    seen.add(node);
  }
  if (!seen.has(graph.output))
    throw new GraphError('the output is not among the nodes', graph.output);
  const needed = new Set<GraphNode>([graph.output]);
  for (const node of graph.nodes.toReversed()) {
    if (!needed.has(node)) throw new GraphError('nothing needs this node', node);
    for (const input of node.inputs) needed.add(input);
  }
}

function verifyValueType(node: GraphNode): void {
  const { shape, type } = inferValueType(node, node.op, node.inputs, node.attrs, node.shape);
  const isSame = type === node.type && shape.join() === node.shape.join();
  if (!isSame) {
    throw new GraphError(
      `states ${node.type} [${node.shape.join(', ')}], but its inputs give ${type} [${shape.join(', ')}]`,
      node,
    );
  }
}

function verifyUnfused(node: GraphNode): void {
  const isFused =
    (node.op === 'linear' && (node.attrs.bias || node.attrs.residual)) ||
    (node.op === 'rmsNorm' && node.attrs.residual) ||
    node.type === 'q8';
  if (isFused)
    throw new GraphError('bias, residual and q8 come from passes, not from models', node);
}

function verifyOncePerLayer(
  node: NodeWithOp<'attention'> | NodeWithOp<'ropeKvStore'>,
  layersStored: Map<number, GraphNode>,
): void {
  const { layer } = node.attrs;
  const other = layersStored.get(layer);
  if (other !== undefined) {
    throw new GraphError(
      `layer ${layer} has its keys and values from "${other.label}" already`,
      node,
    );
  }
  layersStored.set(layer, node);
}

function verifyReadsItsStore(node: NodeWithOp<'pagedAttention'>): void {
  const store = node.inputs[0]!;
  if (store.op !== 'ropeKvStore') {
    throw new GraphError(`must take its query from a ropeKvStore, got ${store.op}`, node);
  }
  for (const key of ['layer', 'numHeads', 'numKvHeads', 'headDim'] as const) {
    if (store.attrs[key] !== node.attrs[key]) {
      throw new GraphError(
        `${key} is ${node.attrs[key]}, but the store "${store.label}" has ${store.attrs[key]}`,
        node,
      );
    }
  }
}
