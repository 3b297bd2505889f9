/**
 * Arithmetic on weight references: what stored rows a weight is made of, without reading one of them.
 * Knows nothing of files, formats or packing.
 */
import type { ColumnOrder } from '../tensor/column-order.ts';
import type { WeightPart, WeightRef } from './ir.ts';

/** What a pass may ask about a stored tensor: its dtype (`'q4_1'`, `'bf16'`, ...) and row-major shape. */
export interface WeightInfo {
  readonly dtype: string;
  readonly shape: readonly number[];
  /** Of a matrix whose stored columns stand in an order of their own. */
  readonly columnOrder?: ColumnOrder;
  readonly outliers?: OutlierColumns;
}

/** Input columns of a matrix whose activations are too large to be rounded with the others (LLM.int8, arXiv:2208.07339). */
export interface OutlierColumns {
  /** Ascending. */
  readonly columns: readonly number[];
  /** The stored tensor `[rows, columns.length]` that has the weights of these columns in floats. */
  readonly tensor: string;
}

/** Stored tensors by name; a `ReadonlyMap` of them will do. */
export interface WeightDirectory {
  get(name: string): WeightInfo | undefined;
}

/** Rows [rowStart, rowEnd) of one stored tensor, as they are. */
export function weightRows(tensor: string, rowStart: number, rowEnd: number): WeightRef {
  return { parts: [{ tensor, rowStart, rowEnd }], scale: 1, offset: 0 };
}

export function countRows(ref: WeightRef): number {
  let numRows = 0;
  for (const part of ref.parts) numRows += part.rowEnd - part.rowStart;
  return numRows;
}

/** Whether `concatRefs` can join them: the affine map after reading must be the same for all. */
export function canConcatRefs(refs: readonly WeightRef[]): boolean {
  const first = refs[0];
  return (
    first !== undefined &&
    refs.every((ref) => ref.scale === first.scale && ref.offset === first.offset)
  );
}

/** The rows of all, one below the other; row ranges that continue each other become one. Call only if `canConcatRefs`. */
export function concatRefs(refs: readonly WeightRef[]): WeightRef {
  const parts: WeightPart[] = [];
  for (const part of refs.flatMap((ref) => ref.parts)) {
    const last = parts.at(-1);
    const isPlain = last?.rowOrderOf === undefined && part.rowOrderOf === undefined;
    if (isPlain && last?.tensor === part.tensor && last.rowEnd === part.rowStart) {
      parts[parts.length - 1] = { ...last, rowEnd: part.rowEnd };
    } else {
      parts.push(part);
    }
  }
  return { parts, scale: refs[0]!.scale, offset: refs[0]!.offset };
}

/** Whether the rows of `ref` are one part, as it is stored. */
export function canOrderRows({ parts }: WeightRef): boolean {
  return parts.length === 1 && parts[0]!.rowOrderOf === undefined;
}

/** The rows of `ref` in the order that `tensor` has its columns in. Call only if `canOrderRows`. */
export function orderedRows(ref: WeightRef, tensor: string): WeightRef {
  return { ...ref, parts: [{ ...ref.parts[0]!, rowOrderOf: tensor }] };
}

/** `ref * scale + offset`. */
export function affineRef(ref: WeightRef, scale: number, offset: number): WeightRef {
  return { parts: ref.parts, scale: ref.scale * scale, offset: ref.offset * scale + offset };
}

/** What the parts of `ref` have in outlier columns, and these columns of `ref`; null if there are none, or the parts differ. */
export function outliersOf(
  ref: WeightRef,
  directory: WeightDirectory,
): { readonly columns: readonly number[]; readonly ref: WeightRef } | null {
  const parts: WeightPart[] = [];
  let columns: readonly number[] | null = null;
  for (const part of ref.parts) {
    const outliers = directory.get(part.tensor)?.outliers;
    if (outliers === undefined || outliers.columns.length === 0) return null;
    if (columns !== null && columns.join() !== outliers.columns.join()) return null;
    columns = outliers.columns;
    parts.push({ ...part, tensor: outliers.tensor });
  }
  return columns && { columns, ref: { ...ref, parts } };
}

/** The dtype that all parts are stored in; null if they differ, are unknown, or the values are not used as stored. */
export function storedDtype(ref: WeightRef, directory: WeightDirectory): string | null {
  if (ref.scale !== 1 || ref.offset !== 0) return null;
  const dtypes = new Set(ref.parts.map((part) => directory.get(part.tensor)?.dtype));
  const [dtype] = dtypes;
  return dtypes.size === 1 && dtype !== undefined ? dtype : null;
}
