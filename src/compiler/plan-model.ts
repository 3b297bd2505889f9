/**
 * Lowered graph → plan: a command per op, kernels per row count, buffers in one arena, weights in one image. Decides everything and runs nothing.
 *
 * Each op has one function that says which kernel serves it and what its params are: here, in plan-linear.ts and in plan-attention.ts; plan-builder.ts
 * gathers what they decide. Knows kernels and shapes; not encodings, addresses or sequences.
 */
import type { Graph, GraphNode, NodeWithOp } from '../graph/ir.ts';
import { rowGroupBytes } from '../kernels/packed-format.ts';
import { segmentsPerRow } from '../kernels/rows.ts';
import { PlanError } from './errors.ts';
import type { KernelSpec } from './kernel-spec.ts';
import type { ParamSource, Plan } from './plan.ts';
import { AttentionPlanner } from './plan-attention.ts';
import {
  ANY_ROWS,
  type Params,
  PlanBuilder,
  type PlanOptions,
  ROWS_PER_CHUNK,
  rowsOf,
  widthOf,
} from './plan-builder.ts';
import { planLinear } from './plan-linear.ts';

/** Logits per slice of the statistics that sampling reads. */
const SLICE_SIZE = 256;
const SLICES_PER_CHUNK = 16;

/**
 * @param graph verified as `lowered`
 * @throws {PlanError} if an op or a weight format has no kernel
 */
export function planModel(graph: Graph, options: PlanOptions): Plan {
  const plan = new PlanBuilder(options);
  const attention = new AttentionPlanner(plan);
  for (const node of graph.nodes) planNode(plan, attention, node);
  const stats = planSliceStats(plan, graph.output);
  const hidden = hiddenOf(graph);
  plan.keepToEnd(hidden);
  return {
    ...plan.finish(),
    ...attention.finish(graph.name),
    vocabSize: widthOf(graph.output),
    hiddenSize: widthOf(hidden),
    hidden: { buffer: plan.bufferOf(hidden) },
    logits: { buffer: plan.bufferOf(graph.output) },
    ...stats,
    sliceSize: SLICE_SIZE,
  };
}

/** The command of a node, if it is one. */
function planNode(plan: PlanBuilder, attention: AttentionPlanner, node: GraphNode): void {
  switch (node.op) {
    case 'input':
    case 'weight':
      return;
    case 'slice':
      plan.placeWithin(node, node.inputs[0]!, 4 * node.attrs.start);
      return;
    case 'firstRows':
      plan.placeWithin(node, node.inputs[0]!, 0);
      return;
    case 'embed':
      planEmbed(plan, node);
      return;
    case 'linear':
      planLinear(plan, node);
      return;
    case 'rmsNorm': {
      const { eps, groupSize, residual, output } = node.attrs;
      const shape = { width: widthOf(node), groupSize, eps, residual, output };
      planRowwise(plan, node, { family: 'rmsNorm', shape }, ['x', 'weight', 'residual']);
      return;
    }
    case 'layerNorm': {
      const { eps, output } = node.attrs;
      const shape = { width: widthOf(node), eps, output };
      planRowwise(plan, node, { family: 'layerNorm', shape }, ['x', 'weight', 'bias']);
      return;
    }
    case 'ropeKvStore':
      attention.ropeKvStore(node);
      return;
    case 'pagedAttention':
      attention.attention(node);
      return;
    case 'add':
    case 'mul':
      planSegmented(plan, node, ['x', 'y'], (segment) => ({
        family: 'elementwise',
        shape: { ...segment, op: node.op },
      }));
      return;
    case 'scale':
      planSegmented(plan, node, ['x'], (segment) => ({
        family: 'scale',
        shape: { ...segment, factor: node.attrs.factor },
      }));
      return;
    case 'softcap':
      planSegmented(plan, node, ['x'], (segment) => ({
        family: 'softcap',
        shape: { ...segment, cap: node.attrs.cap },
      }));
      return;
    case 'activation':
      planSegmented(plan, node, ['x'], (segment) => ({
        family: 'activation',
        shape: { ...segment, kind: node.attrs.kind },
      }));
      return;
    case 'gatedActivation':
      planSegmented(plan, node, ['gate', 'up'], (segment) => ({
        family: 'gatedActivation',
        shape: { ...segment, kind: node.attrs.kind, output: node.attrs.output },
      }));
      return;
    case 'permuteColumns': {
      const { order, output } = node.attrs;
      const ofRow: Params = {
        columns: plan.columns(order.columns),
        columnsStride: { kind: 'value', value: 0 },
      };
      planSegmented(
        plan,
        node,
        ['x'],
        (segment) => ({ family: 'permuteColumns', shape: { ...segment, output } }),
        ofRow,
      );
      return;
    }
    case 'quantize':
      if (node.attrs.outliers.length > 0) planSplitOutliers(plan, node);
      else planSegmented(plan, node, ['x'], (shape) => ({ family: 'quantize', shape }));
      return;
    case 'outliers':
      plan.placeOutliers(node);
      return;
    case 'selectRows':
      planSelectRows(plan, node);
      return;
    case 'concatRows':
    case 'affineWeight':
    case 'rope':
    case 'attention':
      throw new PlanError(
        `${node.label}: op ${node.op} is left in the graph; it must be folded or lowered first`,
      );
    default:
      node satisfies never;
  }
}

/** A kernel over whole rows; `names` are the params of the inputs: activations by matrix, weights by vector. */
function planRowwise(
  plan: PlanBuilder,
  node: GraphNode,
  spec: KernelSpec,
  names: readonly string[],
): void {
  const rows = rowsOf(node);
  const params: Params = plan.rowParams(rows);
  node.inputs.forEach((input, i) => {
    if (input.op === 'weight') params[names[i]!] = plan.vectorWeight(input);
    else Object.assign(params, plan.matrix(names[i]!, input));
  });
  plan.result(node);
  Object.assign(params, plan.matrix('out', node));
  plan.command(node, rows, [plan.variant(spec, params, plan.rowChunks(rows))]);
}

/** An element-wise kernel: few rows are cut into column segments, so that all threads have work. `more` are params beside those of values. */
function planSegmented(
  plan: PlanBuilder,
  node: GraphNode,
  names: readonly string[],
  spec: (segment: { width: number; segmentColumns?: number }) => KernelSpec,
  more: Params = {},
): void {
  const rows = rowsOf(node);
  const width = widthOf(node);
  const params: Params = { ...more };
  node.inputs.forEach((input, i) => {
    Object.assign(params, plan.matrix(names[i]!, input));
  });
  plan.result(node);
  Object.assign(params, plan.matrix('out', node), { numRows: { kind: 'rows', rows } });
  const segmentColumns = Math.ceil(width / plan.options.limits.numThreads / 32) * 32;
  const few = { width, segmentColumns };
  const one: ParamSource = { kind: 'value', value: 1 };
  const many: ParamSource = { kind: 'value', value: ROWS_PER_CHUNK };
  plan.command(node, rows, [
    plan.variant(
      spec(few),
      { ...params, rowsPerChunk: one },
      { kind: 'rows', rows, rowsPerChunk: 1, perGroup: segmentsPerRow(few) },
      [0, ROWS_PER_CHUNK],
    ),
    plan.variant(spec({ width }), { ...params, rowsPerChunk: many }, plan.rowChunks(rows), [
      ROWS_PER_CHUNK + 1,
      ANY_ROWS,
    ]),
  ]);
}

function planEmbed(plan: PlanBuilder, node: NodeWithOp<'embed'>): void {
  const [table, ids] = node.inputs;
  const weight = plan.matrixWeight(table!);
  const { format, columns } = plan.matrixInfo(weight);
  plan.result(node);
  const params: Params = {
    ...plan.rowParams('T'),
    ...plan.matrix('out', node),
    table: { kind: 'weight', weight },
    groupStride: { kind: 'value', value: rowGroupBytes(format, columns) },
    tokenIds: plan.input(ids!),
  };
  const shape = { width: columns, scale: node.attrs.scale, format };
  plan.command(node, 'T', [plan.variant({ family: 'embed', shape }, params, plan.rowChunks('T'))]);
}

function planSelectRows(plan: PlanBuilder, node: NodeWithOp<'selectRows'>): void {
  const [x, rows] = node.inputs;
  const params: Params = {
    ...plan.rowParams('R'),
    ...plan.matrix('x', x!),
    rows: plan.input(rows!),
  };
  plan.result(node);
  Object.assign(params, plan.matrix('out', node));
  const shape = { width: widthOf(node) };
  plan.command(node, 'R', [
    plan.variant({ family: 'selectRows', shape }, params, plan.rowChunks('R')),
  ]);
}

/** int8 blocks and, behind them in the same rows, the columns that are not in them. */
function planSplitOutliers(plan: PlanBuilder, node: NodeWithOp<'quantize'>): void {
  const { outliers } = node.attrs;
  const rows = rowsOf(node);
  const x = plan.matrix('x', node.inputs[0]!);
  plan.result(node);
  const params: Params = {
    ...plan.rowParams(rows),
    ...x,
    ...plan.matrix('out', node),
    outliers: plan.outliersBehind(node),
    columns: plan.columns(outliers),
    numColumns: { kind: 'value', value: outliers.length },
  };
  const shape = { width: widthOf(node) };
  plan.command(node, rows, [
    plan.variant({ family: 'splitOutliers', shape }, params, plan.rowChunks(rows)),
  ]);
}

/** The node whose value is what `ModelRunner.hidden` shows. */
function hiddenOf(graph: Graph): GraphNode {
  const head = graph.nodes.find((node) => node.op === 'firstRows');
  if (!head) throw new PlanError(`graph ${graph.name} has no firstRows before its head`);
  return head.inputs[0]!;
}

/** The last command: what sampling reads of the logits. */
function planSliceStats(
  plan: PlanBuilder,
  logits: GraphNode,
): Pick<Plan, 'sliceMax' | 'sliceExpSum'> {
  const vocabSize = widthOf(logits);
  const numSlices = Math.ceil(vocabSize / SLICE_SIZE);
  const strideBytes = Math.ceil((4 * numSlices) / 64) * 64;
  const sliceMax = plan.newBuffer('slice_max', 'L', strideBytes);
  const sliceExpSum = plan.newBuffer('slice_exp_sum', 'L', strideBytes);
  const params: Params = {
    ...plan.matrix('logits', logits),
    inverseTemperatures: { kind: 'input', input: 'inverseTemperatures' },
    sliceMax: { kind: 'buffer', buffer: sliceMax, offsetBytes: 0 },
    sliceExpSum: { kind: 'buffer', buffer: sliceExpSum, offsetBytes: 0 },
    statsStride: { kind: 'value', value: strideBytes },
    slicesPerChunk: { kind: 'value', value: SLICES_PER_CHUNK },
  };
  const perGroup = Math.ceil(numSlices / SLICES_PER_CHUNK);
  plan.command({ label: 'slice_stats', op: 'sliceStats' }, 'L', [
    plan.variant({ family: 'sliceStats', shape: { vocabSize, sliceSize: SLICE_SIZE } }, params, {
      kind: 'rows',
      rows: 'L',
      rowsPerChunk: 1,
      perGroup,
    }),
  ]);
  return { sliceMax: { buffer: sliceMax }, sliceExpSum: { buffer: sliceExpSum } };
}
