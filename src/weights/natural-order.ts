/**
 * A model whose matrices have their columns in the order of the inputs, whatever order they are stored in: what all see who look at weights for themselves
 * instead of running the model. Knows nothing of why they are stored otherwise.
 */
import { decodeRow } from '../tensor/rows.ts';
import type { GgufValue, WeightSource, WeightTensor } from './contract.ts';

/** `source` with tensors of a `columnOrder` decoded to f32 in their natural order; `source` itself where it has none. Not taken over: closing is left to its owner. */
export function inNaturalOrder(source: WeightSource): WeightSource {
  const isOrdered = [...source.tensors.values()].some(({ columnOrder }) => columnOrder);
  return isOrdered ? new NaturalOrder(source) : source;
}

class NaturalOrder implements WeightSource {
  readonly format: WeightSource['format'];
  readonly path: string;
  readonly files: readonly string[];
  readonly sizeBytes: number;
  readonly tensors: ReadonlyMap<string, WeightTensor>;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly #source: WeightSource;

  constructor(source: WeightSource) {
    this.#source = source;
    this.format = source.format;
    this.path = source.path;
    this.files = source.files;
    this.sizeBytes = source.sizeBytes;
    this.metadata = source.metadata;
    const tensors = new Map<string, WeightTensor>();
    for (const { columnOrder, ...tensor } of source.tensors.values()) {
      const [rows, columns] = tensor.shape as readonly [number, number];
      const decoded = { dtype: 'f32' as const, sizeBytes: 4 * rows * columns };
      tensors.set(tensor.name, columnOrder ? { ...tensor, ...decoded } : tensor);
    }
    this.tensors = tensors;
  }

  readRows(name: string, rowStart = 0, rowEnd?: number, into?: Uint8Array): Uint8Array {
    const stored = this.#source.tensors.get(name);
    const bytes = this.#source.readRows(
      name,
      rowStart,
      rowEnd,
      stored?.columnOrder ? undefined : into,
    );
    if (stored?.columnOrder === undefined) return bytes;
    const [rows, columns] = stored.shape as readonly [number, number];
    const values = new Float32Array(((rowEnd ?? rows) - rowStart) * columns);
    decodeRow(stored.dtype, bytes, 0, values, values.length);
    const natural = new Uint8Array(stored.columnOrder.toNatural(values).buffer);
    if (into === undefined) return natural;
    into.set(natural);
    return into.subarray(0, natural.length);
  }

  readF32(name: string): Float32Array {
    return this.#source.readF32(name);
  }

  close(): void {}

  [Symbol.dispose](): void {}
}
