/**
 * Lowered graph → plan: a command per op, kernels per row count, buffers in one arena, weights in one image. Decides everything and runs nothing.
 *
 * Each op has one function that says which kernel serves it and what its params are. Knows kernels and shapes; not encodings, addresses or sequences.
 */

import type { Graph, GraphNode, NodeWithOp, RopeSpec } from '../graph/ir.ts';
import type { WeightDirectory } from '../graph/weight-ref.ts';
import { q8RowBytes } from '../kernels/activation-format.ts';
import { spanStateBytes } from '../kernels/attention-spans.ts';
import type { VectorMachine } from '../kernels/kernel-ir.ts';
import {
  hasOpenGroups,
  KV_GROUP_TOKENS,
  type KvType,
  keyBlockBytes,
  kvBlockSize,
  valueBlockBytes,
} from '../kernels/kv-layout.ts';
import { type MatmulShape, matmulBlockInputs, matmulTile } from '../kernels/matmul.ts';
import { type MatmulQ8Shape, matmulQ8MaxRows, matmulQ8RowsPerBlock } from '../kernels/matmul-q8.ts';
import { type MatvecF32Shape, matvecF32Groups } from '../kernels/matvec-f32.ts';
import { openGroupBytes } from '../kernels/open-group.ts';
import {
  type PackedFormat,
  paddedRows,
  ROW_GROUP,
  rowGroupBytes,
} from '../kernels/packed-format.ts';
import { cosSinRowBytes } from '../kernels/rope-table.ts';
import { segmentsPerRow } from '../kernels/rows.ts';
import { SPAN_TOKENS } from '../kernels/tile-entry.ts';
import { InternalError } from '../platform/errors.ts';
import { maxStepGroups, numOwnGroups } from '../targets/open-groups.ts';
import { evenChunkSize } from './chunk-size.ts';
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
  PlannedKvCache,
  RowCount,
} from './plan.ts';
import { WeightImage } from './weight-image.ts';

/** Rows that one chunk of a row-wise kernel takes: a chunk is a few microseconds of work. */
const ROWS_PER_CHUNK = 4;
/** Least weight bytes of a chunk of a matrix-vector product, so that claiming it costs nothing beside it. */
const MIN_CHUNK_BYTES = 48 * 1024;
const CHUNKS_PER_THREAD = 4;
/** Up to here reading weights is a large part of the time: they are asked for ahead, and chunks are as long as for one row. */
const FEW_ROWS = 64;
/** Row groups per chunk at most for more rows: a chunk is long enough by itself, and many of them share the work evenly. */
const GROUPS_PER_CHUNK = 8;
/** Rows of queries (tokens times heads that share a KV head) that attention works on at a time. */
const TARGET_TILE_ROWS = 18;
const MAX_TILE_TOKENS = 16;
/** The same where keys and values are taken apart once for a tile (kernels/unpack-kv.ts). Tiles do not cross groups, so tokens are a power of two. */
const TARGET_UNPACKED_ROWS = 32;
/** Memory for attention states of split contexts, unless one token over the longest context takes more. */
const MAX_PART_BYTES = 16 << 20;
/** Logits per slice of the statistics that sampling reads. */
export const SLICE_SIZE = 256;
const SLICES_PER_CHUNK = 16;
const ANY_ROWS = Number.MAX_SAFE_INTEGER;

export interface PlanOptions {
  readonly machine: VectorMachine;
  readonly limits: PlanLimits;
  readonly precision: 'fast' | 'f32';
  readonly kvType: KvType;
  readonly directory: WeightDirectory;
}

/**
 * @param graph verified as `lowered`
 * @throws {PlanError} if an op or a weight format has no kernel
 */
export function planModel(graph: Graph, options: PlanOptions): Plan {
  return new Planner(graph, options).plan();
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

type Params = Record<string, ParamSource>;

/** A product with a weight matrix, as its kernels take it. */
interface Linear {
  readonly info: { readonly format: PackedFormat; readonly rows: number; readonly columns: number };
  /** Params that all kernels have. */
  readonly params: Params;
  readonly rows: RowCount;
}

class Planner {
  readonly #graph: Graph;
  readonly #options: PlanOptions;
  readonly #image: WeightImage;
  readonly #kernels: KernelSpec[] = [];
  readonly #kernelIndices = new Map<string, number>();
  readonly #commands: Command[] = [];
  readonly #buffers: BufferRequestState[] = [];
  readonly #places = new Map<number, Place>();
  readonly #ropes: RopeSpec[] = [];
  readonly #ropeIndices = new Map<string, number>();
  #kvCache: PlannedKvCache | null = null;
  /** Buffers of the open groups that a step begins and ends, by layer. */
  readonly #stepGroups = new Map<number, number>();
  #tileTokens = 1;
  #maxParts = 0;

  constructor(graph: Graph, options: PlanOptions) {
    this.#graph = graph;
    this.#options = options;
    this.#image = new WeightImage(options.directory, { rounds: options.precision === 'fast' });
  }

  plan(): Plan {
    for (const node of this.#graph.nodes) this.#node(node);
    const stats = this.#sliceStats();
    const hidden = this.#hidden();
    const { limits } = this.#options;
    const rowsOf = (rows: RowCount | number): number => {
      if (typeof rows === 'number') return rows;
      return rows === 'L' ? limits.maxLogitRows : limits.maxTokens;
    };
    const requests = this.#buffers.map((b) => ({
      // One row more than in use: kernels may read a vector past the end of the last row.
      sizeBytes: b.strideBytes * rowsOf(b.rows) + 64,
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
    if (!this.#kvCache)
      throw new PlanError(`graph ${this.#graph.name} has no attention over a KV cache`);
    return {
      limits,
      precision: this.#options.precision,
      kernels: this.#kernels,
      commands: this.#commands,
      buffers,
      arenaBytes: memory.arenaBytes,
      weights: this.#image.weights,
      weightBytes: this.#image.sizeBytes,
      kvCache: this.#kvCache,
      ropes: this.#ropes,
      tileTokens: this.#tileTokens,
      maxParts: this.#maxParts,
      vocabSize: this.#width(this.#graph.output),
      hiddenSize: this.#width(hidden),
      hidden: { buffer: this.#place(hidden).buffer },
      logits: { buffer: this.#place(this.#graph.output).buffer },
      ...stats,
      sliceSize: SLICE_SIZE,
    };
  }

  #node(node: GraphNode): void {
    switch (node.op) {
      case 'input':
      case 'weight':
        return;
      case 'slice': {
        const of = this.#place(node.inputs[0]!);
        this.#places.set(node.id, {
          buffer: of.buffer,
          offsetBytes: of.offsetBytes + 4 * node.attrs.start,
        });
        return;
      }
      case 'firstRows':
        this.#places.set(node.id, this.#place(node.inputs[0]!));
        return;
      case 'embed':
        this.#embed(node);
        return;
      case 'linear':
        this.#linear(node);
        return;
      case 'rmsNorm': {
        const { eps, groupSize, residual, output } = node.attrs;
        const shape = { width: this.#width(node), groupSize, eps, residual, output };
        this.#rowwise(node, { family: 'rmsNorm', shape }, ['x', 'weight', 'residual']);
        return;
      }
      case 'layerNorm': {
        const { eps, output } = node.attrs;
        const shape = { width: this.#width(node), eps, output };
        this.#rowwise(node, { family: 'layerNorm', shape }, ['x', 'weight', 'bias']);
        return;
      }
      case 'ropeKvStore':
        this.#ropeKvStore(node);
        return;
      case 'pagedAttention':
        this.#attention(node);
        return;
      case 'add':
      case 'mul':
        this.#segmented(node, ['x', 'y'], (segment) => ({
          family: 'elementwise',
          shape: { ...segment, op: node.op },
        }));
        return;
      case 'scale':
        this.#segmented(node, ['x'], (segment) => ({
          family: 'scale',
          shape: { ...segment, factor: node.attrs.factor },
        }));
        return;
      case 'softcap':
        this.#segmented(node, ['x'], (segment) => ({
          family: 'softcap',
          shape: { ...segment, cap: node.attrs.cap },
        }));
        return;
      case 'activation':
        this.#segmented(node, ['x'], (segment) => ({
          family: 'activation',
          shape: { ...segment, kind: node.attrs.kind },
        }));
        return;
      case 'gatedActivation':
        this.#segmented(node, ['gate', 'up'], (segment) => ({
          family: 'gatedActivation',
          shape: { ...segment, kind: node.attrs.kind, output: node.attrs.output },
        }));
        return;
      case 'quantize':
        this.#segmented(node, ['x'], (segment) => ({ family: 'quantize', shape: segment }));
        return;
      case 'selectRows':
        this.#selectRows(node);
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

  // Values

  #width(node: GraphNode): number {
    const width = node.shape.at(-1);
    if (typeof width !== 'number')
      throw new InternalError(`${node.label}: the width must be known`);
    return width;
  }

  #rows(node: GraphNode): RowCount {
    const rows = node.shape[0];
    if (typeof rows !== 'string')
      throw new PlanError(`${node.label}: expected rows T, R or L, not ${rows}`);
    return rows;
  }

  #place(node: GraphNode): Place {
    const place = this.#places.get(node.id);
    if (!place) throw new InternalError(`${node.label} (${node.op}) is used before it is planned`);
    return place;
  }

  #newBuffer(label: string, rows: RowCount | number, strideBytes: number): number {
    const first = this.#commands.length;
    return this.#buffers.push({ label, rows, strideBytes, first, last: first }) - 1;
  }

  /** Memory of a node's result, written by the command that comes next. */
  #result(node: GraphNode): number {
    const width = this.#width(node);
    const strideBytes =
      node.type === 'q8' ? Math.ceil(q8RowBytes(width) / 64) * 64 : 4 * paddedRows(width);
    const buffer = this.#newBuffer(node.label, this.#rows(node), strideBytes);
    this.#places.set(node.id, { buffer, offsetBytes: 0 });
    return buffer;
  }

  /** Address and stride params of a matrix that the next command touches. */
  #matrix(name: string, node: GraphNode): Params {
    const place = this.#place(node);
    const buffer = this.#buffers[place.buffer]!;
    buffer.last = this.#commands.length;
    return {
      [name]: { kind: 'buffer', buffer: place.buffer, offsetBytes: place.offsetBytes },
      [`${name}Stride`]: { kind: 'value', value: buffer.strideBytes },
    };
  }

  #vectorWeight(node: GraphNode): ParamSource {
    return { kind: 'weight', weight: this.#image.vector(weightOf(node).attrs.ref) };
  }

  #matrixWeight(node: GraphNode): number {
    return this.#image.matrix(weightOf(node).attrs.ref, this.#width(node), node.label);
  }

  #matrixInfo(index: number) {
    const weight = this.#image.weights[index]!;
    if (weight.kind !== 'matrix') throw new InternalError('a matrix was asked for');
    return weight;
  }

  #input(node: GraphNode): ParamSource {
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

  #command(
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

  #variant(
    spec: KernelSpec,
    params: Params,
    chunks: ChunkRule,
    [minRows, maxRows]: readonly [number, number] = [0, ANY_ROWS],
  ): CommandVariant {
    return { minRows, maxRows, kernel: this.#kernel(spec), params, chunks };
  }

  #rowParams(rows: RowCount): Params {
    return {
      numRows: { kind: 'rows', rows },
      rowsPerChunk: { kind: 'value', value: ROWS_PER_CHUNK },
    };
  }

  #rowChunks(rows: RowCount, perGroup = 1): ChunkRule {
    return { kind: 'rows', rows, rowsPerChunk: ROWS_PER_CHUNK, perGroup };
  }

  /** A kernel over whole rows; `names` are the params of the inputs: activations by matrix, weights by vector. */
  #rowwise(node: GraphNode, spec: KernelSpec, names: readonly string[]): void {
    const rows = this.#rows(node);
    const params: Params = this.#rowParams(rows);
    node.inputs.forEach((input, i) => {
      if (input.op === 'weight') params[names[i]!] = this.#vectorWeight(input);
      else Object.assign(params, this.#matrix(names[i]!, input));
    });
    this.#result(node);
    Object.assign(params, this.#matrix('out', node));
    this.#command(node, rows, [this.#variant(spec, params, this.#rowChunks(rows))]);
  }

  /** An element-wise kernel: few rows are cut into column segments, so that all threads have work. */
  #segmented(
    node: GraphNode,
    names: readonly string[],
    spec: (segment: { width: number; segmentColumns?: number }) => KernelSpec,
  ): void {
    const rows = this.#rows(node);
    const width = this.#width(node);
    const params: Params = {};
    node.inputs.forEach((input, i) => {
      Object.assign(params, this.#matrix(names[i]!, input));
    });
    this.#result(node);
    Object.assign(params, this.#matrix('out', node), { numRows: { kind: 'rows', rows } });
    const segmentColumns = Math.ceil(width / this.#options.limits.numThreads / 32) * 32;
    const few = { width, segmentColumns };
    const one: ParamSource = { kind: 'value', value: 1 };
    const many: ParamSource = { kind: 'value', value: ROWS_PER_CHUNK };
    this.#command(node, rows, [
      this.#variant(
        spec(few),
        { ...params, rowsPerChunk: one },
        { kind: 'rows', rows, rowsPerChunk: 1, perGroup: segmentsPerRow(few) },
        [0, ROWS_PER_CHUNK],
      ),
      this.#variant(spec({ width }), { ...params, rowsPerChunk: many }, this.#rowChunks(rows), [
        ROWS_PER_CHUNK + 1,
        ANY_ROWS,
      ]),
    ]);
  }

  #embed(node: NodeWithOp<'embed'>): void {
    const [table, ids] = node.inputs;
    const weight = this.#matrixWeight(table!);
    const { format, columns } = this.#matrixInfo(weight);
    this.#result(node);
    const params: Params = {
      ...this.#rowParams('T'),
      ...this.#matrix('out', node),
      table: { kind: 'weight', weight },
      groupStride: { kind: 'value', value: rowGroupBytes(format, columns) },
      tokenIds: this.#input(ids!),
    };
    const shape = { width: columns, scale: node.attrs.scale, format };
    this.#command(node, 'T', [
      this.#variant({ family: 'embed', shape }, params, this.#rowChunks('T')),
    ]);
  }

  #linear(node: NodeWithOp<'linear'>): void {
    const { bias, residual } = node.attrs;
    const [x, matrix, ...rest] = node.inputs;
    const rows = this.#rows(node);
    const weight = this.#matrixWeight(matrix!);
    const info = this.#matrixInfo(weight);
    const activation = x!.type === 'q8' ? 'q8' : 'f32';
    const groupStride = rowGroupBytes(info.format, info.columns);
    const common: Params = {
      ...this.#matrix('x', x!),
      weight: { kind: 'weight', weight },
      groupStride: { kind: 'value', value: groupStride },
    };
    if (bias) common.bias = this.#vectorWeight(rest.shift()!);
    if (residual) Object.assign(common, this.#matrix('residual', rest.shift()!));
    this.#result(node);
    Object.assign(common, this.#matrix('out', node));

    const shape = { format: info.format, bias, residual };
    const { format } = info;
    const variants =
      activation === 'q8' && format.kind === 'quantized'
        ? this.#linearQ8({ info, params: common, rows }, { ...shape, format })
        : this.#linearF32({ info, params: common, rows }, shape);
    this.#command(node, rows, variants, {
      weightBytes: info.sizeBytes,
      macsPerRow: info.rows * info.columns,
    });
  }

  /** Activations as q8 blocks. */
  #linearQ8(linear: Linear, shape: MatmulQ8Shape): CommandVariant[] {
    const { columns, format } = linear.info;
    const numGroups = paddedRows(linear.info.rows) / ROW_GROUP;
    const inRegisters = (
      family: 'matvec' | 'matmulQ8',
      groupsPerChunk: number,
      range: readonly [number, number],
    ): CommandVariant =>
      this.#variant(
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
    const streamed = this.#perChunk(numGroups, rowGroupBytes(format, columns));
    const maxRows = matmulQ8MaxRows(this.#options.machine, shape.format) ?? ANY_ROWS;
    const few = Math.min(FEW_ROWS, maxRows);
    const variants = [
      inRegisters('matvec', streamed, [0, 1]),
      inRegisters('matmulQ8', streamed, [2, few]),
    ];
    if (maxRows > few) {
      const most = Math.min(streamed, GROUPS_PER_CHUNK);
      const { numThreads } = this.#options.limits;
      const perChunk = evenChunkSize(numGroups, numThreads, [most, Math.ceil(most / 2)]);
      variants.push(inRegisters('matmulQ8', perChunk, [few + 1, maxRows]));
    }
    if (maxRows === ANY_ROWS) return variants;
    return [...variants, ...this.#expanded(linear, { ...shape, activation: 'q8' }, maxRows + 1)];
  }

  #linearF32(linear: Linear, shape: MatvecF32Shape): CommandVariant[] {
    return [
      this.#matvecF32(linear, shape),
      ...this.#expanded(linear, { ...shape, activation: 'f32' }, 2),
    ];
  }

  /** Kernels that expand weights into scratch, from `fromRows` rows on. */
  #expanded(
    { info: { format, rows, columns }, params, rows: rowCount }: Linear,
    shape: Omit<MatmulShape, 'prefetch'>,
    fromRows: number,
  ): CommandVariant[] {
    const { activation } = shape;
    const { unitRows } = matmulTile(this.#options.machine, shape);
    const numUnits = paddedRows(rows) / unitRows;
    const variant = (
      unitsPerChunk: number,
      prefetch: boolean,
      range: readonly [number, number],
    ): CommandVariant =>
      this.#variant(
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
    const streamed = this.#perChunk(
      numUnits,
      (unitRows / ROW_GROUP) * rowGroupBytes(format, columns),
    );
    return [
      variant(streamed, activation === 'q8', [fromRows, FEW_ROWS]),
      variant(1, false, [FEW_ROWS + 1, ANY_ROWS]),
    ];
  }

  /** One row of f32 activations. */
  #matvecF32(
    { info: { format, rows, columns }, params, rows: rowCount }: Linear,
    shape: MatvecF32Shape,
  ): CommandVariant {
    const groupsPerUnit = matvecF32Groups(this.#options.machine, format);
    const numUnits = paddedRows(rows) / ROW_GROUP / groupsPerUnit;
    const unitsPerChunk = this.#perChunk(numUnits, groupsPerUnit * rowGroupBytes(format, columns));
    return this.#variant(
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
  #perChunk(numRowGroups: number, groupBytes: number): number {
    const { numThreads } = this.#options.limits;
    const wanted = Math.ceil(numRowGroups / (numThreads * CHUNKS_PER_THREAD));
    const least = Math.max(1, Math.ceil(MIN_CHUNK_BYTES / groupBytes), wanted);
    return evenChunkSize(numRowGroups, numThreads, [least, 2 * least]);
  }

  #ropeKvStore(node: NodeWithOp<'ropeKvStore'>): void {
    const { numHeads, numKvHeads, headDim, rope, layer } = node.attrs;
    const [q, k, v, positions] = node.inputs;
    this.#useKvCache(node.label, node.attrs);
    const { kvType } = this.#options;
    const params: Params = {
      ...this.#rowParams('T'),
      ...this.#matrix('q', q!),
      ...this.#matrix('k', k!),
      ...this.#matrix('v', v!),
      positions: this.#input(positions!),
      slotMapping: { kind: 'input', input: hasOpenGroups(kvType) ? 'openSlots' : 'slotMapping' },
      ...cacheParams(layer),
      ...this.#openGroupParams(node.label, node.attrs),
    };
    if (rope) {
      params.cosSin = { kind: 'cosSin', table: this.#rope(rope) };
      params.cosSinStride = { kind: 'value', value: cosSinRowBytes(rope) };
    }
    this.#result(node);
    Object.assign(params, this.#matrix('out', node));
    const shape = {
      numHeads,
      numKvHeads,
      headDim,
      rope: rope ? { style: rope.style, rotaryDim: rope.rotaryDim } : null,
      kvType,
    };
    this.#command(node, 'T', [
      this.#variant({ family: 'ropeKvStore', shape }, params, this.#rowChunks('T')),
    ]);
    if (hasOpenGroups(kvType)) this.#sealKv(node);
  }

  /** Groups that the step fills become blocks, which later queries of the step read. */
  #sealKv(node: NodeWithOp<'ropeKvStore'>): void {
    const { numKvHeads, headDim, layer } = node.attrs;
    const params: Params = {
      seals: { kind: 'input', input: 'seals' },
      ...cacheParams(layer),
      ...this.#openGroupParams(node.label, node.attrs),
    };
    this.#command({ label: `${node.label}.seal`, op: 'sealKv' }, 'T', [
      this.#variant({ family: 'sealKv', shape: { numKvHeads, headDim } }, params, {
        kind: 'seals',
        perSeal: numKvHeads,
      }),
    ]);
  }

  /** Those of kernels/open-group.ts, of the next command; none for formats without open groups. Groups of the step live until attention has read them. */
  #openGroupParams(
    label: string,
    heads: { numKvHeads: number; headDim: number; layer: number },
  ): Params {
    const { kvType, limits } = this.#options;
    if (!hasOpenGroups(kvType)) return {};
    const { layer } = heads;
    let buffer = this.#stepGroups.get(layer);
    if (buffer === undefined) {
      const count = Math.max(1, maxStepGroups(limits));
      buffer = this.#newBuffer(`${label}.groups`, count, openGroupBytes(heads));
      this.#stepGroups.set(layer, buffer);
    }
    this.#buffers[buffer]!.last = this.#commands.length;
    return {
      ownGroups: { kind: 'ownGroups', layer },
      stepGroups: { kind: 'buffer', buffer, offsetBytes: 0 },
      numOwnGroups: { kind: 'value', value: numOwnGroups(limits) },
    };
  }

  #rope(rope: RopeSpec): number {
    const key = JSON.stringify(rope);
    const known = this.#ropeIndices.get(key);
    if (known !== undefined) return known;
    const index = this.#ropes.push(rope) - 1;
    this.#ropeIndices.set(key, index);
    return index;
  }

  #useKvCache(label: string, heads: { numKvHeads: number; headDim: number; layer: number }): void {
    const { numKvHeads, headDim, layer } = heads;
    const { kvType, limits } = this.#options;
    const known = this.#kvCache;
    if (known && (known.numKvHeads !== numKvHeads || known.headDim !== headDim)) {
      throw new PlanError(
        `${label}: ${numKvHeads} KV heads of ${headDim}; the layers before have ${known.numKvHeads} of ${known.headDim}, and one KV cache serves all`,
      );
    }
    const shape = { numKvHeads, headDim, kvType };
    this.#kvCache = {
      ...shape,
      numLayers: Math.max(known?.numLayers ?? 0, layer + 1),
      blockSize: kvBlockSize(kvType),
      keyBlockBytes: keyBlockBytes(shape),
      valueBlockBytes: valueBlockBytes(shape),
      numOwnGroups: hasOpenGroups(kvType) ? numOwnGroups(limits) : 0,
      openGroupBytes: hasOpenGroups(kvType) ? openGroupBytes(shape) : 0,
    };
  }

  #attention(node: NodeWithOp<'pagedAttention'>): void {
    const { numHeads, numKvHeads, headDim, scale, mask, layer, output } = node.attrs;
    const groupHeads = numHeads / numKvHeads;
    const { kvType } = this.#options;
    const tileTokens = hasOpenGroups(kvType)
      ? Math.min(KV_GROUP_TOKENS, 2 ** Math.floor(Math.log2(TARGET_UNPACKED_ROWS / groupHeads)))
      : Math.min(MAX_TILE_TOKENS, Math.floor(TARGET_TILE_ROWS / groupHeads));
    this.#tileTokens = Math.max(1, tileTokens);
    const partBytes = numHeads * spanStateBytes(headDim);
    this.#maxParts = maxParts(this.#options.limits, this.#tileTokens, partBytes);
    const parts =
      this.#maxParts > 0 ? this.#newBuffer(`${node.label}.parts`, this.#maxParts, partBytes) : null;
    const shared: Params = {
      contextLens: { kind: 'input', input: 'contextLens' },
      queryStarts: { kind: 'input', input: 'queryStarts' },
      parts:
        parts === null
          ? { kind: 'value', value: 0 }
          : { kind: 'buffer', buffer: parts, offsetBytes: 0 },
    };
    const params: Params = {
      ...shared,
      ...this.#matrix('q', node.inputs[0]!),
      ...cacheParams(layer),
      ...this.#openGroupParams(node.label, node.attrs),
      blockTables: { kind: 'input', input: 'blockTables' },
      maxBlocksPerSeq: {
        kind: 'value',
        value: Math.ceil(this.#options.limits.maxModelLen / kvBlockSize(kvType)),
      },
      tiles: { kind: 'input', input: 'tiles' },
    };
    this.#result(node);
    Object.assign(params, this.#matrix('out', node));
    const merged = { numHeads, numKvHeads, headDim, window: mask.window, output, kvType };
    const shape = { ...merged, scale, queryTokens: this.#tileTokens };
    const chunks: ChunkRule = { kind: 'tiles', perTile: numKvHeads };
    this.#command(node, 'T', [this.#variant({ family: 'pagedAttention', shape }, params, chunks)]);
    if (parts === null) return;
    this.#buffers[parts]!.last = this.#commands.length;
    this.#command({ label: `${node.label}.merge`, op: 'mergeAttention' }, 'T', [
      this.#variant(
        { family: 'mergeAttention', shape: merged },
        {
          ...shared,
          ...this.#matrix('out', node),
          merges: { kind: 'input', input: 'merges' },
        },
        { kind: 'merges', perMerge: numKvHeads },
      ),
    ]);
  }

  #selectRows(node: NodeWithOp<'selectRows'>): void {
    const [x, rows] = node.inputs;
    const params: Params = {
      ...this.#rowParams('R'),
      ...this.#matrix('x', x!),
      rows: this.#input(rows!),
    };
    this.#result(node);
    Object.assign(params, this.#matrix('out', node));
    const shape = { width: this.#width(node) };
    this.#command(node, 'R', [
      this.#variant({ family: 'selectRows', shape }, params, this.#rowChunks('R')),
    ]);
  }

  /** The node whose value is what `ModelRunner.hidden` shows; kept to the end of the step. */
  #hidden(): GraphNode {
    const head = this.#graph.nodes.find((node) => node.op === 'firstRows');
    if (!head) throw new PlanError(`graph ${this.#graph.name} has no firstRows before its head`);
    const hidden = head.inputs[0]!;
    this.#buffers[this.#place(hidden).buffer]!.last = this.#commands.length - 1;
    return hidden;
  }

  /** The last command: what sampling reads of the logits. */
  #sliceStats(): Pick<Plan, 'sliceMax' | 'sliceExpSum'> {
    const { output } = this.#graph;
    const vocabSize = this.#width(output);
    const numSlices = Math.ceil(vocabSize / SLICE_SIZE);
    const strideBytes = Math.ceil((4 * numSlices) / 64) * 64;
    const sliceMax = this.#newBuffer('slice_max', 'L', strideBytes);
    const sliceExpSum = this.#newBuffer('slice_exp_sum', 'L', strideBytes);
    const params: Params = {
      ...this.#matrix('logits', output),
      inverseTemperatures: { kind: 'input', input: 'inverseTemperatures' },
      sliceMax: { kind: 'buffer', buffer: sliceMax, offsetBytes: 0 },
      sliceExpSum: { kind: 'buffer', buffer: sliceExpSum, offsetBytes: 0 },
      statsStride: { kind: 'value', value: strideBytes },
      slicesPerChunk: { kind: 'value', value: SLICES_PER_CHUNK },
    };
    const perGroup = Math.ceil(numSlices / SLICES_PER_CHUNK);
    this.#command({ label: 'slice_stats', op: 'sliceStats' }, 'L', [
      this.#variant({ family: 'sliceStats', shape: { vocabSize, sliceSize: SLICE_SIZE } }, params, {
        kind: 'rows',
        rows: 'L',
        rowsPerChunk: 1,
        perGroup,
      }),
    ]);
    return { sliceMax: { buffer: sliceMax }, sliceExpSum: { buffer: sliceExpSum } };
  }
}

function cacheParams(layer: number): Params {
  return {
    keyCache: { kind: 'cache', store: 'key', layer },
    valueCache: { kind: 'cache', store: 'value', layer },
  };
}

function weightOf(node: GraphNode): NodeWithOp<'weight'> {
  if (node.op !== 'weight') {
    throw new PlanError(
      `${node.label}: ${node.op} of weights is left in the graph; it must be folded first`,
    );
  }
  return node;
}

/** Tokens times spans of split contexts in a step: of a tile, or of a sequence for every thread; none where no context has two spans. */
function maxParts({ maxModelLen, numThreads }: PlanLimits, tileTokens: number, bytes: number) {
  const maxSpans = Math.ceil(maxModelLen / SPAN_TOKENS);
  if (maxSpans < 2) return 0;
  const wanted = Math.max(tileTokens, numThreads) * maxSpans;
  return Math.max(maxSpans, Math.min(wanted, Math.floor(MAX_PART_BYTES / bytes)));
}
