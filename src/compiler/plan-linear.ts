/**
 * Products with weight matrices: which kernel serves how many rows, and how the weight rows are cut into chunks. Knows formats and machines; nothing of
 * the model around a product.
 */
import type { NodeWithOp } from '../graph/ir.ts';
import { type MatmulShape, matmulBlockInputs, matmulTile } from '../kernels/matmul.ts';
import { type MatmulQ8Shape, matmulQ8MaxRows, matmulQ8RowsPerBlock } from '../kernels/matmul-q8.ts';
import { type MatvecF32Shape, matvecF32Groups } from '../kernels/matvec-f32.ts';
import {
  type PackedFormat,
  paddedRows,
  ROW_GROUP,
  rowGroupBytes,
} from '../kernels/packed-format.ts';
import { evenChunkSize } from './chunk-size.ts';
import type { CommandVariant, RowCount } from './plan.ts';
import { ANY_ROWS, type Params, type PlanBuilder, rowsOf } from './plan-builder.ts';

/** Least weight bytes of a chunk of a matrix-vector product, so that claiming it costs nothing beside it. */
const MIN_CHUNK_BYTES = 48 * 1024;
const CHUNKS_PER_THREAD = 4;
/** Up to here reading weights is a large part of the time: they are asked for ahead, and chunks are as long as for one row. */
const FEW_ROWS = 64;
/** Row groups per chunk at most for more rows: a chunk is long enough by itself, and many of them share the work evenly. */
const GROUPS_PER_CHUNK = 8;

/** A product with a weight matrix, as its kernels take it. */
interface Linear {
  readonly info: { readonly format: PackedFormat; readonly rows: number; readonly columns: number };
  /** Params that all kernels have. */
  readonly params: Params;
  readonly rows: RowCount;
}

/** The command of a product, with a variant for each range of row counts. */
export function planLinear(plan: PlanBuilder, node: NodeWithOp<'linear'>): void {
  const { bias, residual } = node.attrs;
  const [x, matrix, ...rest] = node.inputs;
  const rows = rowsOf(node);
  const weight = plan.matrixWeight(matrix!);
  const info = plan.matrixInfo(weight);
  const activation = x!.type === 'q8' ? 'q8' : 'f32';
  const groupStride = rowGroupBytes(info.format, info.columns);
  const common: Params = {
    ...plan.matrix('x', x!),
    weight: { kind: 'weight', weight },
    groupStride: { kind: 'value', value: groupStride },
  };
  if (bias) common.bias = plan.vectorWeight(rest.shift()!);
  if (residual) Object.assign(common, plan.matrix('residual', rest.shift()!));
  plan.result(node);
  Object.assign(common, plan.matrix('out', node));

  const shape = { format: info.format, bias, residual };
  const { format } = info;
  const variants =
    activation === 'q8' && format.kind === 'quantized'
      ? linearQ8(plan, { info, params: common, rows }, { ...shape, format })
      : linearF32(plan, { info, params: common, rows }, shape);
  plan.command(node, rows, variants, {
    weightBytes: info.sizeBytes,
    macsPerRow: info.rows * info.columns,
  });
}

/** Activations as q8 blocks. */
function linearQ8(plan: PlanBuilder, linear: Linear, shape: MatmulQ8Shape): CommandVariant[] {
  const { columns, format } = linear.info;
  const numGroups = paddedRows(linear.info.rows) / ROW_GROUP;
  const inRegisters = (
    family: 'matvec' | 'matmulQ8',
    groupsPerChunk: number,
    range: readonly [number, number],
  ): CommandVariant =>
    plan.variant(
      { family, shape },
      {
        ...linear.params,
        numGroups: { kind: 'value', value: numGroups },
        groupsPerChunk: { kind: 'value', value: groupsPerChunk },
        numBlocks: { kind: 'value', value: columns / 32 },
        numRows: { kind: 'rows', rows: linear.rows },
        rowsPerBlock: { kind: 'value', value: matmulQ8RowsPerBlock(columns) },
      },
      { kind: 'fixed', rows: linear.rows, count: Math.ceil(numGroups / groupsPerChunk) },
      range,
    );
  const streamed = streamedChunkSize(plan, numGroups, rowGroupBytes(format, columns));
  const maxRows = matmulQ8MaxRows(plan.options.machine, shape.format) ?? ANY_ROWS;
  const few = Math.min(FEW_ROWS, maxRows);
  const variants = [
    inRegisters('matvec', streamed, [0, 1]),
    inRegisters('matmulQ8', streamed, [2, few]),
  ];
  if (maxRows > few) {
    const most = Math.min(streamed, GROUPS_PER_CHUNK);
    const { numThreads } = plan.options.limits;
    const perChunk = evenChunkSize(numGroups, numThreads, [most, Math.ceil(most / 2)]);
    variants.push(inRegisters('matmulQ8', perChunk, [few + 1, maxRows]));
  }
  if (maxRows === ANY_ROWS) return variants;
  return [...variants, ...expanded(plan, linear, { ...shape, activation: 'q8' }, maxRows + 1)];
}

/** Activations as f32. */
function linearF32(plan: PlanBuilder, linear: Linear, shape: MatvecF32Shape): CommandVariant[] {
  return [
    matvecF32(plan, linear, shape),
    ...expanded(plan, linear, { ...shape, activation: 'f32' }, 2),
  ];
}

/** Kernels that expand weights into scratch, from `fromRows` rows on. */
function expanded(
  plan: PlanBuilder,
  { info: { format, rows, columns }, params, rows: rowCount }: Linear,
  shape: Omit<MatmulShape, 'prefetch'>,
  fromRows: number,
): CommandVariant[] {
  const { activation } = shape;
  const { unitRows } = matmulTile(plan.options.machine, shape);
  const numUnits = paddedRows(rows) / unitRows;
  const variant = (
    unitsPerChunk: number,
    prefetch: boolean,
    range: readonly [number, number],
  ): CommandVariant =>
    plan.variant(
      { family: 'matmul', shape: { ...shape, prefetch } },
      {
        ...params,
        numUnits: { kind: 'value', value: numUnits },
        unitsPerChunk: { kind: 'value', value: unitsPerChunk },
        inputs: { kind: 'value', value: columns },
        blockInputs: { kind: 'value', value: matmulBlockInputs(activation, format, columns) },
        numRows: { kind: 'rows', rows: rowCount },
      },
      { kind: 'fixed', rows: rowCount, count: Math.ceil(numUnits / unitsPerChunk) },
      range,
    );
  const streamed = streamedChunkSize(
    plan,
    numUnits,
    (unitRows / ROW_GROUP) * rowGroupBytes(format, columns),
  );
  return [
    variant(streamed, activation === 'q8', [fromRows, FEW_ROWS]),
    variant(1, false, [FEW_ROWS + 1, ANY_ROWS]),
  ];
}

/** One row of f32 activations. */
function matvecF32(
  plan: PlanBuilder,
  { info: { format, rows, columns }, params, rows: rowCount }: Linear,
  shape: MatvecF32Shape,
): CommandVariant {
  const groupsPerUnit = matvecF32Groups(plan.options.machine, format);
  const numUnits = paddedRows(rows) / ROW_GROUP / groupsPerUnit;
  const unitsPerChunk = streamedChunkSize(
    plan,
    numUnits,
    groupsPerUnit * rowGroupBytes(format, columns),
  );
  return plan.variant(
    { family: 'matvecF32', shape },
    {
      ...params,
      numUnits: { kind: 'value', value: numUnits },
      unitsPerChunk: { kind: 'value', value: unitsPerChunk },
      inputs: { kind: 'value', value: columns },
    },
    { kind: 'fixed', rows: rowCount, count: Math.ceil(numUnits / unitsPerChunk) },
    [0, 1],
  );
}

/** Row groups (or units) per chunk where weights are read once: some chunks for each thread, none too small. */
function streamedChunkSize(plan: PlanBuilder, numRowGroups: number, groupBytes: number): number {
  const { numThreads } = plan.options.limits;
  const wanted = Math.ceil(numRowGroups / (numThreads * CHUNKS_PER_THREAD));
  const least = Math.max(1, Math.ceil(MIN_CHUNK_BYTES / groupBytes), wanted);
  return evenChunkSize(numRowGroups, numThreads, [least, 2 * least]);
}
