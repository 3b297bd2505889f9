/**
 * A model's tensors as graph nodes: each is looked up in the directory and its shape checked before it may stand in a graph.
 * Knows nothing of layers or architectures.
 */
import type { GraphBuilder } from '../graph/builder.ts';
import type { GraphNode } from '../graph/ir.ts';
import { type WeightDirectory, weightRows } from '../graph/weight-ref.ts';
import { ModelError } from './errors.ts';

/** Some rows of a tensor that holds several matrices, one below the other. */
export interface RowRange {
  readonly start: number;
  readonly length: number;
  /** Rows that the whole tensor must have. */
  readonly total: number;
}

export class ModelTensors {
  readonly #builder: GraphBuilder;
  readonly #directory: WeightDirectory;

  constructor(builder: GraphBuilder, directory: WeightDirectory) {
    this.#builder = builder;
    this.#directory = directory;
  }

  has(name: string): boolean {
    return this.#directory.get(name) !== undefined;
  }

  /**
   * Rows `range` of the matrix `name`, `[range.length, columns]`; all of them where `range` is a number.
   *
   * @throws {ModelError} also if its columns are stored in an order of their own, which only linears take
   */
  matrix(name: string, range: RowRange | number, columns: number): GraphNode {
    if (this.#directory.get(name)?.columnOrder !== undefined) {
      throw new ModelError(
        `tensor "${name}": columns in an order of their own (act-order) are supported in linears only`,
        { tensor: name },
      );
    }
    return this.#matrixAsStored(name, range, columns);
  }

  /** x [T, columns] times rows `range` of the matrix `name`, f32 [T, range.length]. */
  linear(x: GraphNode, name: string, range: RowRange | number, label: string): GraphNode {
    const weight = this.#matrixAsStored(name, range, x.shape[1] as number);
    const order = this.#directory.get(name)?.columnOrder;
    const input = order ? this.#builder.permuteColumns(x, order, `${x.label}.ordered`) : x;
    return this.#builder.linear({ x: input, weight }, label);
  }

  #matrixAsStored(name: string, range: RowRange | number, columns: number): GraphNode {
    const { start, length, total } = wholeRange(range);
    this.#checkShape(name, [total, columns]);
    const ref = weightRows(name, start, start + length);
    return this.#builder.weight(ref, [length, columns], name);
  }

  /** Elements `range` of the vector `name`, `[range.length]`. */
  vector(name: string, range: RowRange | number): GraphNode {
    const { start, length, total } = wholeRange(range);
    this.#checkShape(name, [total]);
    return this.#builder.weight(weightRows(name, start, start + length), [length], name);
  }

  #checkShape(name: string, expected: readonly number[]): void {
    const info = this.#directory.get(name);
    const expectedText = `[${expected.join(', ')}]`;
    if (info === undefined) {
      throw new ModelError(`tensor "${name}" is missing; expected one of shape ${expectedText}`, {
        tensor: name,
        expected: expectedText,
      });
    }
    if (info.shape.length !== expected.length || info.shape.some((dim, i) => dim !== expected[i])) {
      const seen = `[${info.shape.join(', ')}]`;
      throw new ModelError(
        `tensor "${name}" has shape ${seen}; the model's configuration needs ${expectedText}`,
        { tensor: name, seen, expected: expectedText },
      );
    }
  }
}

function wholeRange(range: RowRange | number): RowRange {
  return typeof range === 'number' ? { start: 0, length: range, total: range } : range;
}
