/**
 * Linears that share their input become one linear over all their rows, and column ranges of its result: q, k and v; gate and up.
 * One pass over the activations and one longer run through memory instead of several.
 */
import { InternalError } from '../../platform/errors.ts';
import type { Graph, GraphNode, NodeWithOp, WeightRef } from '../ir.ts';
import { type Rewriter, rewriteGraph } from '../rewrite.ts';
import { canConcatRefs, outliersOf, storedDtype, type WeightDirectory } from '../weight-ref.ts';
import type { GraphPass } from './graph-pass.ts';

type Linear = NodeWithOp<'linear'>;

export const mergeLinears: GraphPass<'merge-linears'> = {
  name: 'merge-linears',
  summary: 'linears of one input and one stored dtype into one (q/k/v, gate/up)',
  run: (graph, { directory }) => {
    const groups = mergeableGroups(graph, directory);
    return rewriteGraph(graph, (node, rewriter) => {
      if (node.op !== 'linear') return null;
      const group = groups.get(node);
      return group === undefined ? null : sliceOfMerged(node, group, rewriter);
    });
  },
};

/** For every linear that can be merged, the group it is in (two or more, in graph order). */
function mergeableGroups(
  graph: Graph,
  directory: WeightDirectory,
): ReadonlyMap<GraphNode, readonly Linear[]> {
  const byKey = new Map<string, Linear[]>();
  for (const node of graph.nodes) {
    if (node.op !== 'linear' || node.attrs.residual) continue;
    const weight = node.inputs[1]!;
    if (weight.op !== 'weight') continue;
    const dtype = storedDtype(weight.attrs.ref, directory);
    if (dtype === null) continue;
    const biasKey = node.attrs.bias ? biasMap(node.inputs[2]!) : 'none';
    if (biasKey === null) continue;
    const outliers = outliersOf(weight.attrs.ref, directory)?.columns ?? [];
    const key = `${node.inputs[0]!.id} ${dtype} ${biasKey} ${outliers}`;
    byKey.set(key, [...(byKey.get(key) ?? []), node]);
  }
  const groups = [...byKey.values()].filter((group) => group.length > 1);
  return new Map(groups.flatMap((group) => group.map((linear) => [linear, group] as const)));
}

/** Biases can be joined if the same affine map is applied to them after reading; null: not a plain weight. */
function biasMap(bias: GraphNode): string | null {
  return bias.op === 'weight' ? `${bias.attrs.ref.scale} ${bias.attrs.ref.offset}` : null;
}

function sliceOfMerged(node: Linear, group: readonly Linear[], rewriter: Rewriter): GraphNode {
  const { builder, map } = rewriter;
  const label = mergedLabel(group.map((linear) => linear.label));
  const joined = (index: number) =>
    joinWeights(group, index, `${label}.${WEIGHT_KINDS[index]}`, rewriter);
  const merged = builder.linear(
    { x: map(node.inputs[0]!), weight: joined(1), bias: node.attrs.bias ? joined(2) : null },
    label,
  );
  let start = 0;
  for (const linear of group) {
    if (linear === node) break;
    start += linear.shape[1] as number;
  }
  return builder.slice(merged, start, node.shape[1] as number, node.label);
}

const WEIGHT_KINDS = ['', 'weight', 'bias'];

function joinWeights(
  group: readonly Linear[],
  index: number,
  label: string,
  { builder, map }: Rewriter,
) {
  const weights = group.map((linear) => map(linear.inputs[index]!));
  const refs = weights.map((weight) => (weight as { attrs: { ref: WeightRef } }).attrs.ref);
  if (!canConcatRefs(refs))
    throw new InternalError(`"${label}": weights with different maps were grouped`);
  return builder.concatRows(weights, label);
}

/** `layers.0.self_attn.q_proj`, `...k_proj`, `...v_proj` → `layers.0.self_attn.q_proj+k_proj+v_proj`. */
function mergedLabel(labels: readonly string[]): string {
  const last = (label: string) => label.slice(label.lastIndexOf('.') + 1);
  return [labels[0]!, ...labels.slice(1).map(last)].join('+');
}
