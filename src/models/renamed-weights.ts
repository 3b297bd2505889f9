/** A weight source whose tensors are called by their canonical names. Knows nothing of how the names are made. */
import type { GgufValue, WeightSource, WeightTensor } from '../weights/contract.ts';
import { ModelError } from './errors.ts';

export class RenamedWeights implements WeightSource {
  readonly format: WeightSource['format'];
  readonly path: string;
  readonly files: readonly string[];
  readonly sizeBytes: number;
  readonly tensors: ReadonlyMap<string, WeightTensor>;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly #source: WeightSource;
  readonly #storedNames: ReadonlyMap<string, string>;

  /**
   * Takes over `source`: it is closed with this.
   *
   * @param rename canonical name of a stored one; null leaves the tensor out
   * @throws {ModelError} if two tensors get the same name
   */
  constructor(source: WeightSource, rename: (storedName: string) => string | null) {
    this.#source = source;
    this.format = source.format;
    this.path = source.path;
    this.files = source.files;
    this.sizeBytes = source.sizeBytes;
    this.metadata = source.metadata;
    const tensors = new Map<string, WeightTensor>();
    const storedNames = new Map<string, string>();
    for (const tensor of source.tensors.values()) {
      const name = rename(tensor.name);
      if (name === null) continue;
      const other = storedNames.get(name);
      if (other !== undefined) {
        throw new ModelError(
          `${source.path}: tensors "${other}" and "${tensor.name}" both stand for "${name}"`,
          { tensor: name },
        );
      }
      storedNames.set(name, tensor.name);
      const outliers = tensor.outliers && {
        columns: tensor.outliers.columns,
        tensor: rename(tensor.outliers.tensor) ?? tensor.outliers.tensor,
      };
      tensors.set(name, { ...tensor, name, ...(outliers && { outliers }) });
    }
    this.tensors = tensors;
    this.#storedNames = storedNames;
  }

  readRows(name: string, rowStart?: number, rowEnd?: number, into?: Uint8Array): Uint8Array {
    return this.#source.readRows(this.#storedName(name), rowStart, rowEnd, into);
  }

  readF32(name: string): Float32Array {
    return this.#source.readF32(this.#storedName(name));
  }

  close(): void {
    this.#source.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** A name that is not here is passed on as it is: the source's error names it. */
  #storedName(name: string): string {
    return this.#storedNames.get(name) ?? name;
  }
}
