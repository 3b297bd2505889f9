/**
 * The numbers that GGUF uses for value types and tensor types, both ways. Knows nothing of reading or writing.
 */
import type { DType } from '../tensor/dtype.ts';

/** Metadata value types in the order of their numbers. */
export const GGUF_VALUE_TYPES = [
  'u8',
  'i8',
  'u16',
  'i16',
  'u32',
  'i32',
  'f32',
  'bool',
  'string',
  'array',
  'u64',
  'i64',
  'f64',
] as const;

export type GgufValueType = (typeof GGUF_VALUE_TYPES)[number];

/** ggml's number of each tensor type that a GGUF file can hold. */
const GGML_TYPE_IDS = {
  f32: 0,
  f16: 1,
  q4_0: 2,
  q4_1: 3,
  q5_0: 6,
  q5_1: 7,
  q8_0: 8,
  q8_1: 9,
  q2_k: 10,
  q3_k: 11,
  q4_k: 12,
  q5_k: 13,
  q6_k: 14,
  q8_k: 15,
  iq2_xxs: 16,
  iq2_xs: 17,
  iq3_xxs: 18,
  iq1_s: 19,
  iq4_nl: 20,
  iq3_s: 21,
  iq2_s: 22,
  iq4_xs: 23,
  i8: 24,
  i16: 25,
  i32: 26,
  i64: 27,
  f64: 28,
  iq1_m: 29,
  bf16: 30,
  tq1_0: 34,
  tq2_0: 35,
  mxfp4: 39,
  nvfp4: 40,
  q1_0: 41,
} as const satisfies Partial<Record<DType, number>>;

/** Numbers that ggml gave up; files with them are old. */
const REMOVED_GGML_TYPES: ReadonlyMap<number, string> = new Map([
  [4, 'Q4_2'],
  [5, 'Q4_3'],
  [31, 'Q4_0_4_4'],
  [32, 'Q4_0_4_8'],
  [33, 'Q4_0_8_8'],
  [36, 'IQ4_NL_4_4'],
  [37, 'IQ4_NL_4_8'],
  [38, 'IQ4_NL_8_8'],
]);

const DTYPE_OF_ID: ReadonlyMap<number, DType> = new Map(
  (Object.entries(GGML_TYPE_IDS) as [keyof typeof GGML_TYPE_IDS, number][]).map(([dtype, id]) => [
    id,
    dtype,
  ]),
);

export function dtypeOfGgmlType(id: number): DType | null {
  return DTYPE_OF_ID.get(id) ?? null;
}

export function ggmlTypeOfDtype(dtype: DType): number | null {
  return (GGML_TYPE_IDS as Partial<Record<DType, number>>)[dtype] ?? null;
}

/** Says what an unknown type number is, for messages. */
export function describeUnknownGgmlType(id: number): string {
  const removed = REMOVED_GGML_TYPES.get(id);
  return removed === undefined
    ? `type ${id}, which is no ggml type known here (0 to 41)`
    : `type ${id} (${removed}), which ggml removed; convert the model again`;
}
