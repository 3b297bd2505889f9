/** A two-layer model's step graph by hand, with everything that passes look for; for tests of this folder. */
import { GraphBuilder } from '../builder.ts';
import type { Graph, GraphNode } from '../ir.ts';
import { isWeightOp } from '../op-rules.ts';
import { type WeightDirectory, type WeightInfo, weightRows } from '../weight-ref.ts';

export const HIDDEN = 64;
export const HEADS = { numHeads: 4, numKvHeads: 2, headDim: 16 };
const INTERMEDIATE = 96;
const VOCAB = 40;
const KV = HEADS.numKvHeads * HEADS.headDim;
const ROPE = {
  style: 'half' as const,
  rotaryDim: 4,
  frequencies: [1, 0.01],
  magnitude: 1,
};

export interface TinyGraph {
  readonly graph: Graph;
  readonly directory: WeightDirectory;
}

/** @param dtype of every matrix; `dtypeOf` overrides it by tensor name, `outliersOf` gives a matrix outlier columns */
export function tinyGraph(
  dtype = 'q4_0',
  dtypeOf: Readonly<Record<string, string>> = {},
  outliersOf: Readonly<Record<string, readonly number[]>> = {},
): TinyGraph {
  const builder = new GraphBuilder();
  const directory = new Map<string, WeightInfo>();
  const matrix = (name: string, rows: number, columns: number) => {
    const outliers = outliersOf[name] && {
      outliers: { columns: outliersOf[name], tensor: `${name}.outliers` },
    };
    directory.set(name, { dtype: dtypeOf[name] ?? dtype, shape: [rows, columns], ...outliers });
    return builder.weight(weightRows(name, 0, rows), [rows, columns], name);
  };
  const vector = (name: string, length: number) => {
    directory.set(name, { dtype: 'f32', shape: [length] });
    return builder.weight(weightRows(name, 0, length), [length], name);
  };
  const norm = (x: GraphNode, name: string) => {
    const weight = builder.affineWeight(vector(name, HIDDEN), 1, 1, name);
    return builder.rmsNorm({ x, weight, eps: 1e-6, groupSize: HIDDEN }, name);
  };
  const linear = (x: GraphNode, name: string, rows: number) =>
    builder.linear({ x, weight: matrix(name, rows, x.shape[1] as number) }, name);

  let x = builder.embed(matrix('embed', VOCAB, HIDDEN), builder.input('tokenIds'), 1, 'embed');
  for (const layer of [0, 1]) {
    const named = (name: string) => `l${layer}.${name}`;
    const normed = norm(x, named('norm1'));
    const biased = (name: string, rows: number) =>
      builder.add(
        linear(normed, named(name), rows),
        vector(named(`${name}.b`), rows),
        named(`${name}.sum`),
      );
    const rotate = (value: GraphNode, numHeads: number, name: string) =>
      builder.rope(
        value,
        builder.input('positions'),
        { rope: ROPE, numHeads, headDim: HEADS.headDim },
        named(name),
      );
    const q = rotate(biased('q', HIDDEN), HEADS.numHeads, 'q_rope');
    const k = rotate(biased('k', KV), HEADS.numKvHeads, 'k_rope');
    const attended = builder.attention(
      { q, k, v: biased('v', KV) },
      { ...HEADS, scale: 0.25, mask: { window: null }, layer },
      named('attention'),
    );
    x = builder.add(x, linear(attended, named('o'), HIDDEN), named('sum1'));
    const normed2 = norm(x, named('norm2'));
    const gate = builder.activation(
      linear(normed2, named('gate'), INTERMEDIATE),
      'silu',
      named('silu'),
    );
    const product = builder.mul(gate, linear(normed2, named('up'), INTERMEDIATE), named('mul'));
    x = builder.add(x, norm(linear(product, named('down'), HIDDEN), named('norm3')), named('sum2'));
  }
  const rows = builder.selectRows(x, builder.input('logitRows'), 'rows');
  const head = builder.firstRows(norm(rows, 'norm'), 'head');
  return { graph: builder.finish('step', linear(head, 'out', VOCAB)), directory };
}

/** Counts of the ops in a graph. */
export function countOps(graph: Graph): Readonly<Record<string, number>> {
  const counts: Record<string, number> = {};
  for (const { op } of graph.nodes) counts[op] = (counts[op] ?? 0) + 1;
  return counts;
}

/** The activation with this label, which must be the only one. */
export function nodeLabelled(graph: Graph, label: string): GraphNode {
  const found = graph.nodes.filter((node) => !isWeightOp(node.op) && node.label === label);
  if (found.length !== 1) throw new Error(`${found.length} nodes are labelled "${label}"`);
  return found[0]!;
}
