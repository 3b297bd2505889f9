/** A graph as text, for `hasten explain` and for snapshots. Nodes are numbered by place, so equal graphs print equally. */
import type { ColumnOrder } from '../tensor/column-order.ts';
import type { Graph, GraphNode, RopeSpec, WeightRef } from './ir.ts';

/**
 * ```
 * graph step: 9 nodes
 *   %0 = input tokenIds                           i32 [T]
 *   %2 = embed(%1, %0)                            f32 [T, 96]      embed_tokens
 * ```
 */
export function printGraph(graph: Graph): string {
  const places = new Map<GraphNode, number>();
  const rows = graph.nodes.map((node, place) => {
    places.set(node, place);
    const inputs = node.inputs.map((input) => `%${places.get(input)}`).join(', ');
    const call = node.inputs.length > 0 ? `${node.op}(${inputs})` : node.op;
    const attrs = describeAttrs(node);
    return {
      value: `%${place} = ${call}${attrs === '' ? '' : ` ${attrs}`}`,
      type: `${node.type} [${node.shape.join(', ')}]`,
      label: node.op === 'input' || node.op === 'weight' ? '' : node.label,
    };
  });
  const valueWidth = Math.min(64, Math.max(...rows.map((row) => row.value.length)));
  const typeWidth = Math.max(...rows.map((row) => row.type.length));
  const lines = rows.map(({ value, type, label }) =>
    `  ${value.padEnd(valueWidth)}  ${type.padEnd(typeWidth)}  ${label}`.trimEnd(),
  );
  return `graph ${graph.name}: ${graph.nodes.length} nodes\n${lines.join('\n')}\n`;
}

/** How often each op occurs, most frequent first: `linear 91, rmsNorm 61, ...`. */
export function summarizeGraph(graph: Graph): string {
  const counts = new Map<string, number>();
  for (const node of graph.nodes) counts.set(node.op, (counts.get(node.op) ?? 0) + 1);
  return [...counts]
    .sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0]))
    .map(([op, count]) => `${op} ${count}`)
    .join(', ');
}

function describeAttrs(node: GraphNode): string {
  if (node.op === 'input') return node.attrs.name;
  if (node.op === 'weight') return describeWeightRef(node.attrs.ref);
  return Object.entries(node.attrs)
    .map(([key, value]) => describeAttr(key, value))
    .filter((text) => text !== '')
    .join(' ');
}

function describeAttr(key: string, value: unknown): string {
  if (value === false || value === 'f32') return ''; // what is not there, or as usual
  if (value === true) return `+${key}`;
  if (key === 'rope') return value === null ? 'rope=none' : describeRope(value as RopeSpec);
  if (key === 'outliers') return describeOutliers(value as readonly number[]);
  if (key === 'order') return `order=${(value as ColumnOrder).digest.slice(0, 8)}`;
  if (key === 'mask') return describeMask(value as { window: number | null });
  if (key === 'scale' && value === 1) return '';
  return `${key}=${typeof value === 'number' ? Number(value.toPrecision(7)) : value}`;
}

function describeOutliers(columns: readonly number[]): string {
  return columns.length === 0 ? '' : `outliers=${columns.length}`;
}

function describeMask({ window }: { window: number | null }): string {
  return window === null ? 'causal' : `causal window=${window}`;
}

/** Frequencies by their two ends; every value would be a page. */
function describeRope({ style, rotaryDim, frequencies, magnitude }: RopeSpec): string {
  const last = frequencies.at(-1) ?? 0;
  const ends = `${Number(frequencies[0]?.toPrecision(4))}..${Number(last.toPrecision(4))}`;
  const scaled = magnitude === 1 ? '' : ` magnitude=${Number(magnitude.toPrecision(5))}`;
  return `rope=${style}/${rotaryDim} freq=${ends}${scaled}`;
}

/** `layers.0.q.weight[0:576] + layers.0.k.weight[0:192] *2 +1`; a single whole tensor shows its rows too. */
function describeWeightRef({ parts, scale, offset }: WeightRef): string {
  const rows = parts
    .map(({ tensor, rowStart, rowEnd, rowOrderOf }) => {
      const order = rowOrderOf ? ` as columns of ${rowOrderOf}` : '';
      return `${tensor}[${rowStart}:${rowEnd}]${order}`;
    })
    .join(' + ');
  return `${rows}${scale === 1 ? '' : ` *${scale}`}${offset === 0 ? '' : ` +${offset}`}`;
}
