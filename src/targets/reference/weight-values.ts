/**
 * Values of weight nodes: read, decoded, joined and mapped once, then kept; several runners of one model may share them. Knows no op but those on
 * weights.
 */
import type { GraphNode, NodeWithOp, WeightPart } from '../../graph/ir.ts';
import { countRows } from '../../graph/weight-ref.ts';
import { InternalError } from '../../platform/errors.ts';
import { rowBytes } from '../../tensor/dtype.ts';
import { createUnpackedRow, decodeRow, unpackBlocks } from '../../tensor/rows.ts';
import type { WeightTensor } from '../../weights/contract.ts';
import type { QuantizedMatrix } from './linear-q8.ts';

type StoredTensor = Pick<WeightTensor, 'dtype' | 'shape' | 'columnOrder'>;

/** What is needed of a model's weights; `WeightSource` has it. */
export interface WeightReader {
  readonly tensors: {
    get(name: string): StoredTensor | undefined;
  };
  /** Stored bytes of rows [rowStart, rowEnd); a vector is one row. */
  readRows(name: string, rowStart?: number, rowEnd?: number, into?: Uint8Array): Uint8Array;
}

/** Stored bytes that are read at once. */
const CHUNK_BYTES = 4 * 1024 * 1024;

export class WeightValues {
  readonly #reader: WeightReader;
  readonly #f32 = new Cache<Float32Array>();
  readonly #quantized = new Cache<QuantizedMatrix>();

  constructor(reader: WeightReader) {
    this.#reader = reader;
  }

  /** f32, row-major in the node's shape. */
  f32(node: GraphNode): Float32Array {
    return this.#f32.get(node, () => this.#computeF32(node));
  }

  /** Integer codes; all parts must be stored in one quantized format and used as they are. */
  quantized(node: GraphNode): QuantizedMatrix {
    return this.#quantized.get(node, () => {
      const parts = plainParts(node).map((part) => this.#readQuantized(part));
      return joinQuantized(parts, node);
    });
  }

  #computeF32(node: GraphNode): Float32Array {
    switch (node.op) {
      case 'weight':
        return this.#readWeight(node);
      case 'concatRows':
        return concat(node.inputs.map((input) => this.f32(input)));
      case 'affineWeight': {
        const { scale, offset } = node.attrs;
        return this.f32(node.inputs[0]!).map((value) => value * scale + offset);
      }
      default:
        throw new InternalError(`${node.op} "${node.label}" is not a weight`);
    }
  }

  #readWeight(node: NodeWithOp<'weight'>): Float32Array {
    const { parts, scale, offset } = node.attrs.ref;
    const rowElements = node.shape.length === 1 ? 1 : (node.shape[1] as number);
    const values = new Float32Array(countRows(node.attrs.ref) * rowElements);
    let at = 0;
    for (const part of parts) {
      const length = (part.rowEnd - part.rowStart) * rowElements;
      this.#decodePart(part, values.subarray(at, at + length));
      at += length;
    }
    if (scale === 1 && offset === 0) return values;
    return values.map((value) => value * scale + offset);
  }

  #decodePart(part: WeightPart, out: Float32Array): void {
    const { dtype, shape } = this.#tensor(part.tensor);
    if (shape.length === 1) {
      const whole = new Float32Array(shape[0]!);
      decodeRow(dtype, this.#reader.readRows(part.tensor), 0, whole, whole.length);
      out.set(whole.subarray(part.rowStart, part.rowEnd));
      return;
    }
    const rowElements = shape[1]!;
    const rowsAtOnce = Math.max(1, Math.floor(CHUNK_BYTES / rowBytes(dtype, rowElements)));
    const numRows = part.rowEnd - part.rowStart;
    const order = this.#rowOrder(part);
    for (let row = 0; row < numRows; ) {
      const count = order ? 1 : Math.min(rowsAtOnce, numRows - row);
      const stored = part.rowStart + (order?.[row] ?? row);
      const bytes = this.#reader.readRows(part.tensor, stored, stored + count);
      decodeRow(dtype, bytes, 0, out, count * rowElements, row * rowElements);
      row += count;
    }
  }

  #readQuantized(part: WeightPart): QuantizedMatrix {
    const { dtype, shape } = this.#tensor(part.tensor);
    const numColumns = shape[1]!;
    const numRows = part.rowEnd - part.rowStart;
    const unpacked = createUnpackedRow(dtype, numColumns);
    const { groupSize, zero } = unpacked;
    const numGroups = numColumns / groupSize;
    const codes = new Int8Array(numRows * numColumns);
    const scales = new Float32Array(numRows * numGroups);
    const mins = unpacked.mins === null ? null : new Float32Array(numRows * numGroups);
    const order = this.#rowOrder(part);
    for (let row = 0; row < numRows; row++) {
      const stored = part.rowStart + (order?.[row] ?? row);
      const bytes = this.#reader.readRows(part.tensor, stored, stored + 1);
      unpackBlocks(dtype, bytes, 0, numColumns, unpacked);
      for (let i = 0; i < numColumns; i++) {
        codes[row * numColumns + i] = unpacked.codes[i]! - zero;
      }
      scales.set(unpacked.scales.subarray(0, numGroups), row * numGroups);
      if (mins !== null) mins.set(unpacked.mins!.subarray(0, numGroups), row * numGroups);
    }
    return { numRows, numColumns, groupSize, codes, scales, mins };
  }

  /** Null where rows stand as they are stored. */
  #rowOrder({ rowOrderOf }: WeightPart): Int32Array | null {
    if (rowOrderOf === undefined) return null;
    const { columnOrder } = this.#tensor(rowOrderOf);
    if (columnOrder === undefined) throw new InternalError(`"${rowOrderOf}" has no order`);
    return columnOrder.columns;
  }

  #tensor(name: string): StoredTensor {
    const tensor = this.#reader.tensors.get(name);
    if (tensor === undefined)
      throw new InternalError(`the graph refers to "${name}", which is not among the weights`);
    return tensor;
  }
}

/** Values by node, found again for an equal node of another graph. */
class Cache<Value> {
  readonly #byNode = new WeakMap<GraphNode, Value>();
  readonly #byContent = new Map<string, Value>();

  get(node: GraphNode, compute: () => Value): Value {
    const known = this.#byNode.get(node);
    if (known !== undefined) return known;
    const key = contentKey(node);
    const value = this.#byContent.get(key) ?? compute();
    this.#byContent.set(key, value);
    this.#byNode.set(node, value);
    return value;
  }
}

/** What a weight node's values depend on. */
function contentKey(node: GraphNode): string {
  return `${node.op}${JSON.stringify(node.attrs)}(${node.inputs.map(contentKey).join(',')})`;
}

/** The stored rows that a weight node consists of. */
function plainParts(node: GraphNode): readonly WeightPart[] {
  if (node.op === 'concatRows') return node.inputs.flatMap(plainParts);
  if (node.op === 'weight' && node.attrs.ref.scale === 1 && node.attrs.ref.offset === 0) {
    return node.attrs.ref.parts;
  }
  throw new InternalError(`${node.op} "${node.label}" is not used as it is stored`);
}

function joinQuantized(parts: readonly QuantizedMatrix[], node: GraphNode): QuantizedMatrix {
  const first = parts[0]!;
  for (const part of parts) {
    if (part.groupSize !== first.groupSize || (part.mins === null) !== (first.mins === null)) {
      throw new InternalError(`"${node.label}" joins weights of different formats`);
    }
  }
  return {
    numRows: parts.reduce((sum, part) => sum + part.numRows, 0),
    numColumns: first.numColumns,
    groupSize: first.groupSize,
    codes: concatCodes(parts.map((part) => part.codes)),
    scales: concat(parts.map((part) => part.scales)),
    mins: first.mins === null ? null : concat(parts.map((part) => part.mins!)),
  };
}

function concat(arrays: readonly Float32Array[]): Float32Array {
  if (arrays.length === 1) return arrays[0]!;
  const all = new Float32Array(arrays.reduce((sum, array) => sum + array.length, 0));
  let at = 0;
  for (const array of arrays) {
    all.set(array, at);
    at += array.length;
  }
  return all;
}

function concatCodes(arrays: readonly Int8Array[]): Int8Array {
  if (arrays.length === 1) return arrays[0]!;
  const all = new Int8Array(arrays.reduce((sum, array) => sum + array.length, 0));
  let at = 0;
  for (const array of arrays) {
    all.set(array, at);
    at += array.length;
  }
  return all;
}
