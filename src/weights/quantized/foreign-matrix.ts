/**
 * What the readers of other toolkits' files have in common: the matrices that they find, the format that holds the values of one, and tensors read as what
 * they hold. Knows no toolkit.
 */
import type { CodebookTensor } from '../../tensor/codebook.ts';
import type { DType } from '../../tensor/dtype.ts';
import type { WeightSource } from '../contract.ts';
import type { IndexedMatrix } from '../hf-packed.ts';

/** `quantization_config` of a config.json, as it was parsed. */
export type QuantizationConfig = Readonly<Record<string, unknown>>;

/** A matrix of another toolkit's making: its shape, and how to get its codes or values. */
export interface ForeignMatrix {
  readonly rows: number;
  readonly columns: number;
  /** The format that holds its values; f32 where none does. */
  readonly dtype: DType;
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

export function ints(source: WeightSource, name: string): Int32Array {
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

/** The first format that holds all values of codes of so many bits. */
export function holderOf(
  bits: number,
  {
    isSymmetric,
    groupSize,
    hasRuns,
  }: { isSymmetric: boolean; groupSize: number; hasRuns: boolean },
): DType {
  if (!hasRuns || groupSize % 32 !== 0) return 'f32';
  const most = isSymmetric ? 2 ** (bits - 1) - 1 : 2 ** bits - 1;
  const least = isSymmetric ? -(2 ** (bits - 1)) : -(2 ** bits - 1);
  return HOLDERS.find((each) => least >= each.least && most <= each.most)?.dtype ?? 'f32';
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
