/**
 * The spellings of dtypes in safetensors, both ways. Knows nothing of reading or writing.
 * https://github.com/huggingface/safetensors/blob/main/safetensors/src/tensor.rs
 */
import type { DType } from '../tensor/dtype.ts';

const SAFETENSORS_DTYPES = {
  F64: 'f64',
  F32: 'f32',
  F16: 'f16',
  BF16: 'bf16',
  I64: 'i64',
  I32: 'i32',
  I16: 'i16',
  I8: 'i8',
  U64: 'u64',
  U32: 'u32',
  U16: 'u16',
  U8: 'u8',
  BOOL: 'bool',
  F8_E4M3: 'f8_e4m3',
  F8_E5M2: 'f8_e5m2',
  F8_E8M0: 'f8_e8m0',
  F6_E2M3: 'f6_e2m3',
  F6_E3M2: 'f6_e3m2',
  F4: 'f4',
  C64: 'c64',
} as const satisfies Record<string, DType>;

/** Every spelling that a file may use. */
export const SAFETENSORS_DTYPE_NAMES: readonly string[] = Object.keys(SAFETENSORS_DTYPES);

export function dtypeOfSafetensors(name: string): DType | null {
  if (!Object.hasOwn(SAFETENSORS_DTYPES, name)) return null;
  return SAFETENSORS_DTYPES[name as keyof typeof SAFETENSORS_DTYPES];
}

export function safetensorsOfDtype(dtype: DType): string | null {
  return SAFETENSORS_DTYPE_NAMES.find((name) => dtypeOfSafetensors(name) === dtype) ?? null;
}
