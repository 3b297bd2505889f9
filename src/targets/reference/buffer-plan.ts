/**
 * Which value of a graph lives in which buffer: values that are never needed at the same time share one. Pure data, decided once; allocates nothing.
 */
import type { Graph, GraphNode, StepRows } from '../../graph/ir.ts';
import { isWeightOp } from '../../graph/op-rules.ts';

export interface PlannedBuffer {
  readonly type: 'f32' | 'q8';
  /** Which count of the step its rows are. */
  readonly rows: StepRows;
  readonly width: number;
  /** Columns beside q8 rows. */
  readonly numOutliers: number;
}

export interface BufferPlan {
  readonly buffers: readonly PlannedBuffer[];
  /** Buffer index of every node that computes rows; slices are views and have none. */
  readonly bufferOf: ReadonlyMap<GraphNode, number>;
}

export function planBuffers(graph: Graph): BufferPlan {
  const lastUse = lastUses(graph);
  const buffers: PlannedBuffer[] = [];
  const bufferOf = new Map<GraphNode, number>();
  const free = new Map<string, number[]>();
  graph.nodes.forEach((node, place) => {
    if (ownsBuffer(node)) {
      const buffer = bufferFor(node);
      const key = keyOf(buffer);
      let index = free.get(key)?.pop();
      if (index === undefined) index = buffers.push(buffer) - 1;
      bufferOf.set(node, index);
    }
    // only now: an op never writes where it reads
    for (const owner of new Set(node.inputs.map(ownerOf))) {
      const index = bufferOf.get(owner);
      if (index === undefined || lastUse.get(owner) !== place) continue;
      const key = keyOf(buffers[index]!);
      const list = free.get(key);
      if (list === undefined) free.set(key, [index]);
      else list.push(index);
    }
  });
  return { buffers, bufferOf };
}

/** The node whose buffer a value lies in. */
export function ownerOf(node: GraphNode): GraphNode {
  return isView(node) ? ownerOf(node.inputs[0]!) : node;
}

/** Place of the last node that reads a value or a view of it; the output is read after all. */
function lastUses(graph: Graph): ReadonlyMap<GraphNode, number> {
  const last = new Map<GraphNode, number>();
  graph.nodes.forEach((node, place) => {
    for (const input of node.inputs) last.set(ownerOf(input), place);
  });
  last.set(ownerOf(graph.output), Number.POSITIVE_INFINITY);
  // The hidden states are read after the step, too.
  for (const node of graph.nodes) {
    if (node.op === 'firstRows') last.set(ownerOf(node), Number.POSITIVE_INFINITY);
  }
  return last;
}

function isView(node: GraphNode): boolean {
  return node.op === 'slice' || node.op === 'firstRows' || node.op === 'outliers';
}

function ownsBuffer(node: GraphNode): boolean {
  return node.op !== 'input' && !isView(node) && !isWeightOp(node.op);
}

function bufferFor(node: GraphNode): PlannedBuffer {
  const [rows, width] = node.shape as [StepRows, number];
  const numOutliers = node.op === 'quantize' ? node.attrs.outliers.length : 0;
  return { type: node.type === 'q8' ? 'q8' : 'f32', rows, width, numOutliers };
}

/** Values with equal keys can share a buffer. */
function keyOf({ type, rows, width, numOutliers }: PlannedBuffer): string {
  return `${type} ${rows} ${width} ${numOutliers}`;
}
