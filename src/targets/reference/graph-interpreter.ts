/**
 * Runs a graph, at any stage of lowering, node by node on plain typed arrays. Buffers are allocated once; a step allocates no tensor.
 *
 * `attention` of an unlowered graph means here what it is lowered to: the step's keys and values go into the cache, and queries see the whole
 * sequence.
 */
import type { Dim, Graph, GraphNode, NodeWithOp, RopeSpec } from '../../graph/ir.ts';
import { isWeightOp } from '../../graph/op-rules.ts';
import { hasOpenGroups, type KvType } from '../../kernels/kv-layout.ts';
import { InternalError } from '../../platform/errors.ts';
import type { RunnerLimits, StepBatch } from '../model-runner.ts';
import { maxStepGroups, numOwnGroups, OpenGroups } from '../open-groups.ts';
import { pagedAttentionRow } from './attention.ts';
import { ownerOf, planBuffers } from './buffer-plan.ts';
import {
  ACTIVATIONS,
  addRows,
  addVector,
  embedRows,
  gatedActivationRows,
  mapRows,
  mulRows,
  permuteColumns,
  selectRows,
} from './elementwise.ts';
import { linearF32 } from './linear.ts';
import { linearQ8 } from './linear-q8.ts';
import { layerNormRow, rmsNormRow } from './norms.ts';
import { type KvLayout, PagedKvCache } from './paged-kv-cache.ts';
import { quantizeRows, splitRows } from './quantize.ts';
import { RopeTable, ropeRow } from './rope.ts';
import {
  columnRange,
  createF32Rows,
  createQ8Rows,
  type F32Rows,
  type Q8Rows,
} from './value-rows.ts';
import type { WeightValues } from './weight-values.ts';

type ElementwiseNode = NodeWithOp<
  | 'add'
  | 'mul'
  | 'scale'
  | 'softcap'
  | 'activation'
  | 'gatedActivation'
  | 'permuteColumns'
  | 'quantize'
  | 'selectRows'
>;

export class GraphInterpreter {
  readonly kvCache: PagedKvCache;
  /** Logits of the last step, f32 [L, vocabSize]. */
  readonly output: F32Rows;
  /** Final hidden states of the last step, f32 [R, hiddenSize]. */
  readonly hidden: F32Rows;
  readonly #graph: Graph;
  readonly #weights: WeightValues;
  readonly #f32 = new Map<GraphNode, F32Rows>();
  readonly #q8 = new Map<GraphNode, Q8Rows>();
  readonly #ropeTables = new Map<RopeSpec, RopeTable>();
  /** Where norms and gated activations with q8 output put their f32 values, [maxTokens, width]; and rotated keys. */
  readonly #scratch: Float32Array;
  readonly #scores: Float64Array;
  readonly #maxModelLen: number;
  readonly #openGroups: OpenGroups | null;

  constructor(graph: Graph, weights: WeightValues, limits: RunnerLimits, kvType: KvType) {
    this.#graph = graph;
    this.#weights = weights;
    this.#maxModelLen = limits.maxModelLen;
    this.#scores = new Float64Array(limits.maxModelLen);
    this.#scratch = new Float32Array(scratchElements(graph, limits));
    this.#openGroups = hasOpenGroups(kvType) ? new OpenGroups(limits) : null;
    const numOpenGroups = numOwnGroups(limits) + maxStepGroups(limits);
    this.kvCache = new PagedKvCache(kvLayouts(graph), { ...limits, kvType, numOpenGroups });
    this.#placeValues(limits);
    this.output = this.#rowsOf(graph.output);
    const head = graph.nodes.find((node) => node.op === 'firstRows');
    if (head === undefined) throw new InternalError(`graph ${graph.name} has no firstRows`);
    this.hidden = this.#rowsOf(head);
    for (const node of graph.nodes) this.#loadWeights(node);
  }

  /** @throws {StepError} if a sequence goes on where it was not left */
  run(batch: StepBatch): void {
    this.#openGroups?.make(batch);
    for (const node of this.#graph.nodes) this.#runNode(node, batch);
  }

  #placeValues(limits: RunnerLimits): void {
    const plan = planBuffers(this.#graph);
    const buffers = plan.buffers.map(({ type, rows, width, numOutliers }) => {
      const maxRows = rows === 'L' ? limits.maxLogitRows : limits.maxTokens;
      return type === 'q8'
        ? createQ8Rows(maxRows, width, numOutliers)
        : createF32Rows(maxRows, width);
    });
    for (const node of this.#graph.nodes) {
      const index = plan.bufferOf.get(ownerOf(node));
      if (index === undefined) continue;
      const buffer = buffers[index]!;
      if ('codes' in buffer) {
        if (node.op === 'outliers') this.#f32.set(node, buffer.outliers);
        else this.#q8.set(node, buffer);
      } else if (node.op === 'firstRows') this.#f32.set(node, this.#rowsOf(node.inputs[0]!));
      else if (node.op !== 'slice') this.#f32.set(node, buffer);
      else {
        const { start, length } = node.attrs;
        this.#f32.set(node, columnRange(this.#rowsOf(node.inputs[0]!), start, length));
      }
    }
  }

  /** Decodes what the node will need, so that no step has to. */
  #loadWeights(node: GraphNode): void {
    if (isWeightOp(node.op)) return;
    for (const [index, input] of node.inputs.entries()) {
      if (!isWeightOp(input.op)) continue;
      const takesCodes = node.op === 'linear' && index === 1 && node.inputs[0]!.type === 'q8';
      if (takesCodes) this.#weights.quantized(input);
      else this.#weights.f32(input);
    }
  }

  #runNode(node: GraphNode, batch: StepBatch): void {
    switch (node.op) {
      case 'input':
      case 'weight':
      case 'concatRows':
      case 'affineWeight':
      case 'slice':
      case 'firstRows':
      case 'outliers':
        break;
      case 'embed': {
        const table = this.#weights.f32(node.inputs[0]!);
        const { numTokens, tokenIds } = batch;
        embedRows(table, tokenIds, numTokens, node.attrs.scale, this.#rowsOf(node));
        break;
      }
      case 'linear':
        this.#runLinear(node, rowCount(node.shape[0]!, batch));
        break;
      case 'rmsNorm':
        this.#runRmsNorm(node, rowCount(node.shape[0]!, batch));
        break;
      case 'layerNorm':
        this.#runLayerNorm(node, rowCount(node.shape[0]!, batch));
        break;
      case 'rope': {
        const x = this.#rowsOf(node.inputs[0]!);
        this.#rotate(x, this.#rowsOf(node), node.attrs, node.attrs.rope, batch);
        break;
      }
      case 'attention':
        this.#storeKv(node, null, batch);
        this.#attend(node, this.#rowsOf(node.inputs[0]!), batch);
        break;
      case 'ropeKvStore': {
        const { rope } = node.attrs;
        const q = this.#rowsOf(node.inputs[0]!);
        this.#storeKv(node, rope, batch);
        if (rope === null) mapRows(q, batch.numTokens, this.#rowsOf(node), (value) => value);
        else this.#rotate(q, this.#rowsOf(node), node.attrs, rope, batch);
        break;
      }
      case 'pagedAttention':
        this.#attend(node, this.#rowsOf(node.inputs[0]!), batch);
        break;
      default:
        this.#runElementwise(node, rowCount(node.shape[0]!, batch), batch);
    }
  }

  #runElementwise(node: ElementwiseNode, numRows: number, batch: StepBatch): void {
    const x = this.#rowsOf(node.inputs[0]!);
    switch (node.op) {
      case 'add': {
        const other = node.inputs[1]!;
        const out = this.#rowsOf(node);
        if (isWeightOp(other.op)) addVector(x, this.#weights.f32(other), numRows, out);
        else addRows(x, this.#rowsOf(other), numRows, out);
        break;
      }
      case 'mul':
        mulRows(x, this.#rowsOf(node.inputs[1]!), numRows, this.#rowsOf(node));
        break;
      case 'scale': {
        const { factor } = node.attrs;
        mapRows(x, numRows, this.#rowsOf(node), (value) => value * factor);
        break;
      }
      case 'softcap': {
        const { cap } = node.attrs;
        mapRows(x, numRows, this.#rowsOf(node), (value) => cap * Math.tanh(value / cap));
        break;
      }
      case 'activation':
        mapRows(x, numRows, this.#rowsOf(node), ACTIVATIONS[node.attrs.kind]);
        break;
      case 'gatedActivation': {
        const out = this.#f32Target(node);
        gatedActivationRows(x, this.#rowsOf(node.inputs[1]!), numRows, node.attrs.kind, out);
        this.#quantizeIfWanted(node, out, numRows);
        break;
      }
      case 'permuteColumns': {
        const out = this.#f32Target(node);
        permuteColumns(x, node.attrs.order.columns, numRows, out);
        this.#quantizeIfWanted(node, out, numRows);
        break;
      }
      case 'quantize':
        if (node.attrs.outliers.length === 0) quantizeRows(x, numRows, this.#q8Of(node));
        else splitRows(x, numRows, this.#q8Of(node), node.attrs.outliers);
        break;
      case 'selectRows':
        selectRows(x, batch.logitRows, numRows, this.#rowsOf(node));
        break;
      default:
        node satisfies never;
    }
  }

  #runLinear(node: NodeWithOp<'linear'>, numRows: number): void {
    const [x, weight] = node.inputs as [GraphNode, GraphNode];
    const extras = {
      bias: node.attrs.bias ? this.#weights.f32(node.inputs[2]!) : null,
      residual: node.attrs.residual ? this.#rowsOf(node.inputs.at(-1)!) : null,
    };
    if (x.type === 'q8') {
      linearQ8(this.#q8Of(x), numRows, this.#weights.quantized(weight), this.#rowsOf(node), extras);
    } else {
      linearF32(this.#rowsOf(x), numRows, this.#weights.f32(weight), this.#rowsOf(node), extras);
    }
  }

  #runRmsNorm(node: NodeWithOp<'rmsNorm'>, numRows: number): void {
    const { eps, groupSize } = node.attrs;
    const x = this.#rowsOf(node.inputs[0]!);
    const weight = this.#weights.f32(node.inputs[1]!);
    const residual = node.attrs.residual ? this.#rowsOf(node.inputs[2]!) : null;
    const out = this.#f32Target(node);
    for (let row = 0; row < numRows; row++) {
      for (let column = 0; column < x.width; column += groupSize) {
        const places = {
          x: x.data,
          xOffset: x.offset + row * x.stride + column,
          out: out.data,
          outOffset: out.offset + row * out.stride + column,
        };
        if (residual === null) rmsNormRow(places, weight, eps);
        else {
          const residualOffset = residual.offset + row * residual.stride + column;
          rmsNormRow(places, weight, eps, residual.data, residualOffset);
        }
      }
    }
    this.#quantizeIfWanted(node, out, numRows);
  }

  #runLayerNorm(node: NodeWithOp<'layerNorm'>, numRows: number): void {
    const x = this.#rowsOf(node.inputs[0]!);
    const weight = this.#weights.f32(node.inputs[1]!);
    const bias = this.#weights.f32(node.inputs[2]!);
    const out = this.#f32Target(node);
    for (let row = 0; row < numRows; row++) {
      const places = {
        x: x.data,
        xOffset: x.offset + row * x.stride,
        out: out.data,
        outOffset: out.offset + row * out.stride,
      };
      layerNormRow(places, weight, bias, node.attrs.eps);
    }
    this.#quantizeIfWanted(node, out, numRows);
  }

  #rotate(
    x: F32Rows,
    out: F32Rows,
    heads: { numHeads: number; headDim: number },
    rope: RopeSpec,
    { numTokens, positions }: StepBatch,
  ): void {
    const table = this.#ropeTable(rope);
    for (let token = 0; token < numTokens; token++) {
      const from = { data: x.data, offset: x.offset + token * x.stride };
      const to = { data: out.data, offset: out.offset + token * out.stride };
      ropeRow(from, to, heads, table, positions[token]!);
    }
  }

  /** Keys (rotated by `rope`) and values of the step, inputs 1 and 2, into the cache. */
  #storeKv(
    node: NodeWithOp<'attention'> | NodeWithOp<'ropeKvStore'>,
    rope: RopeSpec | null,
    batch: StepBatch,
  ): void {
    const layer = this.kvCache.layer(node.attrs.layer);
    const { numKvHeads, headDim } = layer;
    const k = this.#rowsOf(node.inputs[1]!);
    const v = this.#rowsOf(node.inputs[2]!);
    const rotated = { data: this.#scratch, offset: 0 };
    const { keys, values } = layer.open ?? layer;
    const slots = this.#openGroups?.openSlots ?? batch.slotMapping;
    for (let token = 0; token < batch.numTokens; token++) {
      const slot = slots[token]!;
      const key = { data: k.data, offset: k.offset + token * k.stride };
      if (rope === null) {
        this.kvCache.store(keys, layer, slot, key.data, key.offset);
      } else {
        const heads = { numHeads: numKvHeads, headDim };
        ropeRow(key, rotated, heads, this.#ropeTable(rope), batch.positions[token]!);
        this.kvCache.store(keys, layer, slot, rotated.data, 0);
      }
      this.kvCache.store(values, layer, slot, v.data, v.offset + token * v.stride);
    }
    if (this.#openGroups === null) return;
    const { seals, numSeals } = this.#openGroups;
    for (let i = 0; i < numSeals; i++) {
      this.kvCache.seal(layer, seals[2 * i]!, seals[2 * i + 1]!);
    }
  }

  #attend(
    node: NodeWithOp<'attention'> | NodeWithOp<'pagedAttention'>,
    q: F32Rows,
    batch: StepBatch,
  ): void {
    const { numHeads, scale, mask } = node.attrs;
    const layer = this.kvCache.layer(node.attrs.layer);
    const out = this.#f32Target(node);
    for (let seq = 0; seq < batch.numSeqs; seq++) {
      for (let token = batch.queryStarts[seq]!; token < batch.queryStarts[seq + 1]!; token++) {
        const query = {
          numHeads,
          scale,
          window: mask.window,
          position: batch.positions[token]!,
          blockTable: batch.blockTables,
          blockTableOffset: seq * batch.maxBlocksPerSeq,
          openGroup: this.#openGroups?.idOf(seq, batch.positions[token]!) ?? 0,
        };
        const from = { data: q.data, offset: q.offset + token * q.stride };
        const to = { data: out.data, offset: out.offset + token * out.stride };
        pagedAttentionRow(from, to, query, this.kvCache, layer, this.#scores);
      }
    }
    this.#quantizeIfWanted(node, out, batch.numTokens);
  }

  #ropeTable(spec: RopeSpec): RopeTable {
    let table = this.#ropeTables.get(spec);
    if (table === undefined) {
      table = new RopeTable(spec, this.#maxModelLen);
      this.#ropeTables.set(spec, table);
    }
    return table;
  }

  /** Where an op with an `output` attribute computes in f32: its own rows, or scratch if they are q8. */
  #f32Target(node: GraphNode): F32Rows {
    if (node.type !== 'q8') return this.#rowsOf(node);
    const width = node.shape[1] as number;
    return { data: this.#scratch, offset: 0, stride: width, width };
  }

  #quantizeIfWanted(node: GraphNode, values: F32Rows, numRows: number): void {
    if (node.type === 'q8') quantizeRows(values, numRows, this.#q8Of(node));
  }

  #rowsOf(node: GraphNode): F32Rows {
    return this.#f32.get(node) ?? missing(node);
  }

  #q8Of(node: GraphNode): Q8Rows {
    return this.#q8.get(node) ?? missing(node);
  }
}

function missing(node: GraphNode): never {
  throw new InternalError(`${node.op} "${node.label}" has no buffer`);
}

function rowCount(rows: Dim, batch: StepBatch): number {
  if (typeof rows === 'number') return rows;
  if (rows === 'T') return batch.numTokens;
  return rows === 'L' ? batch.numLogitRows : batch.numLogitRows + batch.numHiddenRows;
}

function kvLayouts(graph: Graph): ReadonlyMap<number, KvLayout> {
  const layouts = new Map<number, KvLayout>();
  for (const node of graph.nodes) {
    if (node.op === 'attention' || node.op === 'ropeKvStore') {
      const { layer, numKvHeads, headDim } = node.attrs;
      layouts.set(layer, { numKvHeads, headDim });
    }
  }
  return layouts;
}

function scratchElements(graph: Graph, limits: RunnerLimits): number {
  let most = 0;
  for (const node of graph.nodes) {
    if (node.type === 'q8') {
      const maxRows = node.shape[0] === 'L' ? limits.maxLogitRows : limits.maxTokens;
      most = Math.max(most, maxRows * (node.shape[1] as number));
    }
    if (node.op === 'ropeKvStore') {
      most = Math.max(most, node.attrs.numKvHeads * node.attrs.headDim);
    }
  }
  return most;
}
