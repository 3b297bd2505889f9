/**
 * Which weights a plan needs, in which packed form and where: the weight image that is packed once and then only read.
 *
 * Equal references share one entry, so tied embeddings are stored once. Matrices stand in the order of their first use, so that a step walks straight through.
 */
import type { WeightRef } from '../graph/ir.ts';
import { countRows, storedDtype, type WeightDirectory } from '../graph/weight-ref.ts';
import { packedBytes, packedFormatOf, paddedRows } from '../kernels/packed-format.ts';
import { PlanError } from './errors.ts';
import type { PlannedWeight } from './plan.ts';

const ALIGNMENT = 4096;
const VECTOR_ALIGNMENT = 64;

const NO_ROWS: WeightRef = { parts: [], scale: 1, offset: 0 };

export class WeightImage {
  readonly #directory: WeightDirectory;
  readonly #rounds: boolean;
  readonly #indices = new Map<string, number>();
  readonly weights: PlannedWeight[] = [];
  #sizeBytes = 0;

  /** @param options.rounds whether linears take int8 activations, and weights may be rounded for them */
  constructor(directory: WeightDirectory, { rounds }: { readonly rounds: boolean }) {
    this.#directory = directory;
    this.#rounds = rounds;
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** @throws {PlanError} if the matrix is stored in a format without a kernel, or its parts in several */
  matrix(ref: WeightRef, columns: number, label: string): number {
    return this.#entry(`matrix ${JSON.stringify(ref)}`, () => {
      const dtype = storedDtype(ref, this.#directory);
      if (dtype === null) {
        throw new PlanError(
          `${label}: the parts of one matrix must be stored in one format, as they are`,
        );
      }
      const format = packedFormatOf(dtype, { rounds: this.#rounds });
      if (format === null)
        throw new PlanError(`${label}: there is no kernel for weights stored as ${dtype}`);
      const rows = countRows(ref);
      const sizeBytes = packedBytes(format, rows, columns);
      return {
        kind: 'matrix',
        ref,
        dtype,
        format,
        rows,
        columns,
        ...this.#place(sizeBytes, ALIGNMENT),
      };
    });
  }

  vector(ref: WeightRef): number {
    return this.#entry(`vector ${JSON.stringify(ref)}`, () => {
      const rows = countRows(ref);
      return { kind: 'vector', ref, rows, ...this.#place(4 * paddedRows(rows), VECTOR_ALIGNMENT) };
    });
  }

  columns(given: Iterable<number>): number {
    const columns = [...given];
    return this.#entry(`columns ${columns}`, () => ({
      ...{ kind: 'columns', ref: NO_ROWS, rows: columns.length, columns },
      ...this.#place(4 * columns.length, VECTOR_ALIGNMENT),
    }));
  }

  #place(sizeBytes: number, alignment: number): { offsetBytes: number; sizeBytes: number } {
    const offsetBytes = Math.ceil(this.#sizeBytes / alignment) * alignment;
    this.#sizeBytes = offsetBytes + sizeBytes;
    return { offsetBytes, sizeBytes };
  }

  #entry(key: string, make: () => PlannedWeight): number {
    const known = this.#indices.get(key);
    if (known !== undefined) return known;
    const index = this.weights.push(make()) - 1;
    this.#indices.set(key, index);
    return index;
  }
}
