/**
 * What the readers of other toolkits' files have in common: the matrices that they find, the format that holds the values of one, and tensors read as what
 * they hold. Knows no toolkit.
 */
import type { CodebookTensor } from '../../tensor/codebook.ts';
import { ColumnOrder, orderByGroup } from '../../tensor/column-order.ts';
import type { DType } from '../../tensor/dtype.ts';
import { F16_TO_F32, f16Bits } from '../../tensor/half.ts';
import type { WeightSource } from '../contract.ts';
import { WeightFileError } from '../errors.ts';
import type { IndexedMatrix } from '../hf-packed.ts';

/** `quantization_config` of a config.json, as it was parsed. */
export type QuantizationConfig = Readonly<Record<string, unknown>>;

/** A matrix of another toolkit's making: its shape, and how to get its codes or values. */
export interface ForeignMatrix {
  readonly rows: number;
  readonly columns: number;
  /** The format that holds its values; f32 where none does. */
  readonly dtype: DType;
  /** In which its columns are stored in that format; `read` has them in their natural order. */
  readonly columnOrder?: ColumnOrder;
  readonly read: () => IndexedMatrix | CodebookTensor | Float32Array;
}

/** Largest |code - zero| that a format of blocks of 32 holds, and its zero code. */
export const HOLDERS = [
  { dtype: 'q4_0', least: -8, most: 7, zero: 8 },
  { dtype: 'q5_0', least: -16, most: 15, zero: 16 },
  { dtype: 'q8_0', least: -128, most: 127, zero: 0 },
] as const;

export interface FoundMatrices {
  readonly matrices: ReadonlyMap<string, ForeignMatrix>;
  /** Names of the tensors that they are made of. */
  readonly parts: ReadonlySet<string>;
}

/** Says what is not supported; the file is named by who gives it. */
export type Refuse = (message: string) => never;

/** @throws {WeightFileError} if it is no tensor of 32-bit integers */
export function ints(source: WeightSource, name: string): Int32Array {
  const dtype = source.tensors.get(name)?.dtype;
  if (dtype !== 'i32' && dtype !== 'u32') {
    const message = dtype === undefined ? 'is missing' : `is ${dtype}; expected i32`;
    throw new WeightFileError(message, { fault: 'corrupt', file: source.path, tensor: name });
  }
  return new Int32Array(source.readRows(name).slice().buffer);
}

/** The tensor's shape `[a, b]`. */
export function shapeOf(
  source: WeightSource,
  name: string,
  refuse: Refuse,
): readonly [number, number] {
  const shape = source.tensors.get(name)?.shape;
  if (shape?.length !== 2) return refuse(`tensor "${name}" is missing or no matrix`);
  return [shape[0]!, shape[1]!];
}

/** Prefixes `X.` of tensors `X.suffix`. */
export function prefixesOf(source: WeightSource, suffix: string): string[] {
  return [...source.tensors.keys()]
    .filter((name) => name.endsWith(`.${suffix}`))
    .map((name) => name.slice(0, -suffix.length));
}

/** Groups of inputs of a matrix: where they are no runs, an order of its columns may make them runs. */
export interface GroupRuns {
  readonly groupSize: number;
  readonly hasRuns: boolean;
  readonly order: Int32Array | null;
}

/**
 * @param groupOf group of each input, `numGroups` in all; null: runs
 * @param groupSize of all groups but the last
 */
export function groupRuns(
  groupOf: Int32Array | null,
  numGroups: number,
  groupSize: number,
): GroupRuns {
  const isRun = groupOf?.every((group, k) => group === Math.floor(k / groupSize)) ?? true;
  const order = isRun ? null : orderByGroup(groupOf!, numGroups);
  return { groupSize, hasRuns: isRun || order !== null, order };
}

/**
 * The group of each input as the tensor `name` has it; null where there is no such tensor, or one that was never filled (-1 throughout, compressed-tensors).
 *
 * @throws what `refuse` throws, if it does not name one of `numGroups` for each of `columns`
 */
export function groupOfInputs(
  source: WeightSource,
  name: string,
  { columns, numGroups }: { readonly columns: number; readonly numGroups: number },
  refuse: Refuse,
): Int32Array | null {
  if (!source.tensors.has(name)) return null;
  const groupOf = ints(source, name);
  if (groupOf.length === columns && groupOf.every((group) => group === -1)) return null;
  if (groupOf.length !== columns || groupOf.some((group) => !(group >= 0 && group < numGroups))) {
    refuse(`tensor "${name}" does not name a group of ${numGroups} for each of ${columns} inputs`);
  }
  return groupOf;
}

/** Whether f16 has every scale of a tensor: bf16 and f32 have others. */
export function areHalves(source: WeightSource, name: string): boolean {
  return (
    source.tensors.get(name)?.dtype === 'f16' ||
    source.readF32(name).every((scale) => F16_TO_F32[f16Bits(scale)] === scale)
  );
}

/** What decides which format holds a matrix. */
interface HeldCodes {
  readonly bits: number;
  readonly isSymmetric: boolean;
  /** Whether f16 has all scales. */
  readonly hasHalves: boolean;
}

/** The first format that holds all values of the codes, and the order of columns that it takes; f32 where there is none. */
export function holderOf(
  { bits, isSymmetric, hasHalves }: HeldCodes,
  { groupSize, hasRuns, order }: GroupRuns,
): Pick<ForeignMatrix, 'dtype' | 'columnOrder'> {
  const most = isSymmetric ? 2 ** (bits - 1) - 1 : 2 ** bits - 1;
  const least = isSymmetric ? -(2 ** (bits - 1)) : -(2 ** bits - 1);
  const holder = HOLDERS.find((each) => least >= each.least && most <= each.most);
  if (!hasRuns || groupSize % 32 !== 0 || holder === undefined) return { dtype: 'f32' };
  // All that fit 8 bits with a zero code of 0; its scales are f32.
  const dtype = hasHalves ? holder.dtype : 'q8_f32';
  return order === null ? { dtype } : { dtype, columnOrder: new ColumnOrder(order) };
}

/** Signed 8-bit codes as they are stored, `scales` of equal numbers of inputs of each row. */
export function int8Matrix(
  source: WeightSource,
  name: string,
  matrix: {
    readonly rows: number;
    readonly columns: number;
    /** f32 [rows, groups] */
    readonly scales: Float32Array;
    /** Signed, [rows, groups]; null where all are 0. */
    readonly zeroPoints: Float32Array | null;
  },
): IndexedMatrix {
  const { rows, columns, scales, zeroPoints } = matrix;
  const codes = source.readRows(name).map((byte) => byte ^ 128);
  const zeros = Uint8Array.from(scales, (_, i) => 128 + (zeroPoints?.[i] ?? 0));
  const groupSize = (rows * columns) / scales.length;
  const isSymmetric = zeroPoints === null;
  return { rows, columns, bits: 8, groupSize, codes, scales, zeros, isSymmetric, groupOf: null };
}

export function int8Dtype(groupSize: number): DType {
  return groupSize % 32 === 0 ? 'q8_f32' : 'f32';
}
