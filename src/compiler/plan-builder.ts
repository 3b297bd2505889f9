/**
 * What is gathered while a plan is made: buffers with their lifetimes, kernels, commands, the weight image, and where each value of the graph stands.
 * Knows nothing of ops: which kernel serves which is plan-model.ts, plan-linear.ts and plan-attention.ts.
 */
import type { GraphNode, NodeWithOp } from '../graph/ir.ts';
import type { WeightDirectory } from '../graph/weight-ref.ts';
import { q8RowBytes } from '../kernels/activation-format.ts';
import type { VectorMachine } from '../kernels/kernel-ir.ts';
import type { KvType } from '../kernels/kv-layout.ts';
import { paddedRows } from '../kernels/packed-format.ts';
import { InternalError } from '../platform/errors.ts';
import { PlanError } from './errors.ts';
import { type KernelSpec, kernelKey } from './kernel-spec.ts';
import { planMemory } from './memory-plan.ts';
import type {
  ChunkRule,
  Command,
  CommandVariant,
  ParamSource,
  Plan,
  PlanLimits,
  PlannedBuffer,
  PlannedWeight,
  RowCount,
} from './plan.ts';
import { WeightImage } from './weight-image.ts';

/** Rows that one chunk of a row-wise kernel takes: a chunk is a few microseconds of work. */
export const ROWS_PER_CHUNK = 4;
/** The most rows of a variant that takes any number. */
export const ANY_ROWS = Number.MAX_SAFE_INTEGER;

export interface PlanOptions {
  readonly machine: VectorMachine;
  readonly limits: PlanLimits;
  readonly precision: 'fast' | 'f32';
  readonly kvType: KvType;
  readonly directory: WeightDirectory;
}

/** Where a value stands: columns of a buffer. */
interface Place {
  readonly buffer: number;
  readonly offsetBytes: number;
}

interface BufferRequestState {
  readonly label: string;
  readonly rows: RowCount | number;
  readonly strideBytes: number;
  first: number;
  last: number;
}

/** Params of a kernel by name. */
export type Params = Record<string, ParamSource>;

/** What the builder knows of the finished plan. */
type BuiltPlan = Pick<
  Plan,
  | 'limits'
  | 'precision'
  | 'kernels'
  | 'commands'
  | 'buffers'
  | 'arenaBytes'
  | 'weights'
  | 'weightBytes'
>;

/** One plan in the making. Methods that name buffers or values speak of the command that comes next. */
export class PlanBuilder {
  readonly options: PlanOptions;
  readonly #image: WeightImage;
  readonly #kernels: KernelSpec[] = [];
  readonly #kernelIndices = new Map<string, number>();
  readonly #commands: Command[] = [];
  readonly #buffers: BufferRequestState[] = [];
  readonly #places = new Map<number, Place>();

  constructor(options: PlanOptions) {
    this.options = options;
    this.#image = new WeightImage(options.directory, { rounds: options.precision === 'fast' });
  }

  /** Gives every buffer its memory. */
  finish(): BuiltPlan {
    const { limits, precision } = this.options;
    const rowsOfBuffer = (rows: RowCount | number): number => {
      if (typeof rows === 'number') return rows;
      return rows === 'L' ? limits.maxLogitRows : limits.maxTokens;
    };
    const requests = this.#buffers.map((b) => ({
      // One row more than in use: kernels may read a vector past the end of the last row.
      sizeBytes: b.strideBytes * rowsOfBuffer(b.rows) + 64,
      first: b.first,
      last: b.last,
    }));
    const memory = planMemory(requests);
    const buffers: PlannedBuffer[] = this.#buffers.map((b, i) => ({
      label: b.label,
      offsetBytes: memory.offsets[i]!,
      sizeBytes: requests[i]!.sizeBytes,
      strideBytes: b.strideBytes,
      rows: b.rows,
      firstCommand: b.first,
      lastCommand: b.last,
    }));
    return {
      limits,
      precision,
      kernels: this.#kernels,
      commands: this.#commands,
      buffers,
      arenaBytes: memory.arenaBytes,
      weights: this.#image.weights,
      weightBytes: this.#image.sizeBytes,
    };
  }

  // Values

  #place(node: GraphNode): Place {
    const place = this.#places.get(node.id);
    if (!place) throw new InternalError(`${node.label} (${node.op}) is used before it is planned`);
    return place;
  }

  /** Memory from the next command on, for as long as it is touched; its index. */
  newBuffer(label: string, rows: RowCount | number, strideBytes: number): number {
    const first = this.#commands.length;
    return this.#buffers.push({ label, rows, strideBytes, first, last: first }) - 1;
  }

  /** The next command reads or writes the buffer. */
  touch(buffer: number): void {
    this.#buffers[buffer]!.last = this.#commands.length;
  }

  /** Nothing may overwrite the value up to the last command that there is. */
  keepToEnd(node: GraphNode): void {
    this.#buffers[this.bufferOf(node)]!.last = this.#commands.length - 1;
  }

  /** The buffer of a value. */
  bufferOf(node: GraphNode): number {
    return this.#place(node).buffer;
  }

  /** A node's value stands in that of another, from `offsetBytes` of each row on. */
  placeWithin(node: GraphNode, of: GraphNode, offsetBytes: number): void {
    const place = this.#place(of);
    this.#places.set(node.id, { ...place, offsetBytes: place.offsetBytes + offsetBytes });
  }

  /** Outlier columns stand behind the q8 blocks of their row. */
  placeOutliers(node: NodeWithOp<'outliers'>): void {
    this.placeWithin(node, node.inputs[0]!, alignedRowBytes(node.inputs[0]!));
  }

  /** Where the command that makes a q8 value puts them. */
  outliersBehind(node: NodeWithOp<'quantize'>): ParamSource {
    const { buffer, offsetBytes } = this.#place(node);
    return { kind: 'buffer', buffer, offsetBytes: offsetBytes + alignedRowBytes(node) };
  }

  /** Memory of a node's result, written by the command that comes next. */
  result(node: GraphNode): void {
    const behind = node.op === 'quantize' ? 4 * paddedRows(node.attrs.outliers.length) : 0;
    const buffer = this.newBuffer(node.label, rowsOf(node), alignedRowBytes(node) + behind);
    this.#places.set(node.id, { buffer, offsetBytes: 0 });
  }

  /** Address and stride params of a matrix that the next command touches. */
  matrix(name: string, node: GraphNode): Params {
    const place = this.#place(node);
    this.touch(place.buffer);
    return {
      [name]: { kind: 'buffer', buffer: place.buffer, offsetBytes: place.offsetBytes },
      [`${name}Stride`]: { kind: 'value', value: this.#buffers[place.buffer]!.strideBytes },
    };
  }

  /** A vector of weights as a param. */
  vectorWeight(node: GraphNode): ParamSource {
    return { kind: 'weight', weight: this.#image.vector(weightOf(node).attrs.ref) };
  }

  /** Indices of columns as a param. */
  columns(columns: Iterable<number>): ParamSource {
    return { kind: 'weight', weight: this.#image.columns(columns) };
  }

  /** A matrix of weights: its index. */
  matrixWeight(node: GraphNode): number {
    return this.#image.matrix(weightOf(node).attrs.ref, widthOf(node), node.label);
  }

  /** What is known of a matrix of weights by its index. */
  matrixInfo(index: number): Extract<PlannedWeight, { kind: 'matrix' }> {
    const weight = this.#image.weights[index]!;
    if (weight.kind !== 'matrix') throw new InternalError('a matrix was asked for');
    return weight;
  }

  /** An input of the step as a param. */
  input(node: GraphNode): ParamSource {
    if (node.op !== 'input')
      throw new InternalError(`${node.label}: expected an input of the step`);
    return { kind: 'input', input: node.attrs.name };
  }

  // Commands

  #kernel(spec: KernelSpec): number {
    const key = kernelKey(spec);
    const known = this.#kernelIndices.get(key);
    if (known !== undefined) return known;
    const index = this.#kernels.push(spec) - 1;
    this.#kernelIndices.set(key, index);
    return index;
  }

  /** Adds a command; `work` is what a step of it reads and multiplies. */
  command(
    node: { readonly label: string; readonly op: string },
    rows: RowCount,
    variants: readonly CommandVariant[],
    work: { weightBytes?: number; macsPerRow?: number } = {},
  ): void {
    const { weightBytes = 0, macsPerRow = 0 } = work;
    this.#commands.push({
      label: node.label,
      op: node.op,
      rows,
      variants,
      weightBytes,
      macsPerRow,
    });
  }

  /** A kernel with its params, for steps of minRows..maxRows rows. */
  variant(
    spec: KernelSpec,
    params: Params,
    chunks: ChunkRule,
    [minRows, maxRows]: readonly [number, number] = [0, ANY_ROWS],
  ): CommandVariant {
    return { minRows, maxRows, kernel: this.#kernel(spec), params, chunks };
  }

  /** Params of kernels over whole rows, which take ROWS_PER_CHUNK at a time. */
  rowParams(rows: RowCount): Params {
    return {
      numRows: { kind: 'rows', rows },
      rowsPerChunk: { kind: 'value', value: ROWS_PER_CHUNK },
    };
  }

  /** Their chunks. */
  rowChunks(rows: RowCount): ChunkRule {
    return { kind: 'rows', rows, rowsPerChunk: ROWS_PER_CHUNK, perGroup: 1 };
  }
}

/** Bytes of a row of a value, a multiple of 64. */
function alignedRowBytes(node: GraphNode): number {
  const width = widthOf(node);
  return node.type === 'q8' ? Math.ceil(q8RowBytes(width) / 64) * 64 : 4 * paddedRows(width);
}

/** Columns of a value. */
export function widthOf(node: GraphNode): number {
  const width = node.shape.at(-1);
  if (typeof width !== 'number') throw new InternalError(`${node.label}: the width must be known`);
  return width;
}

/** Rows of a value, which are a count of the step. */
export function rowsOf(node: GraphNode): RowCount {
  const rows = node.shape[0];
  if (typeof rows !== 'string')
    throw new PlanError(`${node.label}: expected rows T, R or L, not ${rows}`);
  return rows;
}

function weightOf(node: GraphNode): NodeWithOp<'weight'> {
  if (node.op !== 'weight') {
    throw new PlanError(
      `${node.label}: ${node.op} of weights is left in the graph; it must be folded first`,
    );
  }
  return node;
}
