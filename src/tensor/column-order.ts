/**
 * Matrices whose columns are stored in another order than that of the inputs, so that the columns of a group stand side by side (act-order of GPTQ).
 * Knows no file and no format.
 */
import { hash } from 'node:crypto';
import { viewBytes } from '../platform/view-bytes.ts';

/** An order of columns. As JSON, and so in keys and messages, it is its digest alone. */
export class ColumnOrder {
  /** Equal for equal orders. */
  readonly digest: string;
  readonly #columns: Int32Array;

  /** @param columns which column of the matrix stands at each place, each once; not copied */
  constructor(columns: Int32Array) {
    this.digest = hash('sha256', viewBytes(columns), 'hex');
    this.#columns = columns;
  }

  get columns(): Int32Array {
    return this.#columns;
  }

  /** Rows as they are stored → with their columns where the matrix has them. */
  toNatural(stored: Float32Array): Float32Array {
    const columns = this.#columns;
    const out = new Float32Array(stored.length);
    for (let start = 0; start < stored.length; start += columns.length) {
      for (let i = 0; i < columns.length; i++) out[start + columns[i]!] = stored[start + i]!;
    }
    return out;
  }
}

/**
 * The order that puts the columns of each group side by side, groups ascending, columns within one as they come.
 *
 * @param groupOf group of each column, from 0 to numGroups - 1
 * @returns null if the groups are not all of one size
 */
export function orderByGroup(groupOf: Int32Array, numGroups: number): Int32Array | null {
  const groupSize = groupOf.length / numGroups;
  if (!Number.isInteger(groupSize)) return null;
  const taken = new Int32Array(numGroups);
  const columns = new Int32Array(groupOf.length);
  for (let column = 0; column < groupOf.length; column++) {
    const group = groupOf[column]!;
    if (taken[group]! >= groupSize) return null;
    columns[group * groupSize + taken[group]!++] = column;
  }
  return columns;
}
