/**
 * Which ggml type each tensor of a model gets: llama.cpp's file types and its rule of which tensors are worth more bits (llama-quant.cpp,
 * llama_tensor_get_type_impl, for models without experts), and what is taken where a row is no whole number of blocks. Pure; knows GGUF's tensor names.
 */
import { DTYPES, type DType } from '../tensor/dtype.ts';

/** GGUF's `general.file_type` and the type that tensors have by default. */
const FILE_TYPES = {
  f32: { id: 0, dtype: 'f32' },
  f16: { id: 1, dtype: 'f16' },
  bf16: { id: 32, dtype: 'bf16' },
  q4_0: { id: 2, dtype: 'q4_0' },
  q4_1: { id: 3, dtype: 'q4_1' },
  q5_0: { id: 8, dtype: 'q5_0' },
  q5_1: { id: 9, dtype: 'q5_1' },
  q8_0: { id: 7, dtype: 'q8_0' },
  q2_k: { id: 10, dtype: 'q2_k' },
  q2_k_s: { id: 21, dtype: 'q2_k' },
  q3_k_s: { id: 11, dtype: 'q3_k' },
  q3_k_m: { id: 12, dtype: 'q3_k' },
  q3_k_l: { id: 13, dtype: 'q3_k' },
  q4_k_s: { id: 14, dtype: 'q4_k' },
  q4_k_m: { id: 15, dtype: 'q4_k' },
  q5_k_s: { id: 16, dtype: 'q5_k' },
  q5_k_m: { id: 17, dtype: 'q5_k' },
  q6_k: { id: 18, dtype: 'q6_k' },
  iq4_nl: { id: 25, dtype: 'iq4_nl' },
  iq4_xs: { id: 30, dtype: 'iq4_xs' },
} as const satisfies Record<string, { id: number; dtype: DType }>;

export type FileTypeName = keyof typeof FILE_TYPES;
export const FILE_TYPE_NAMES = Object.keys(FILE_TYPES) as FileTypeName[];

/** The number that goes to `general.file_type`. */
export function fileTypeId(name: FileTypeName): number {
  return FILE_TYPES[name].id;
}

/** Likewise for a file of many types: that of the commonest. */
export function mixedFileTypeId(dtypes: readonly DType[]): number {
  const counts = new Map<DType, number>();
  for (const dtype of dtypes) counts.set(dtype, (counts.get(dtype) ?? 0) + 1);
  const [commonest] = [...counts].toSorted((a, b) => b[1] - a[1])[0] ?? ['f32'];
  const type = Object.values(FILE_TYPES).find(({ dtype }) => dtype === commonest);
  return (type ?? FILE_TYPES.f32).id;
}

/** What of a model decides about its tensors. */
export interface RecipeModel {
  readonly numLayers: number;
  /** Query heads per KV head. */
  readonly queriesPerKv: number;
  readonly tiedEmbeddings: boolean;
  readonly hasImportance: boolean;
}

/** Only matrices that are `…weight` and no norm. */
export function isQuantizable(name: string, shape: readonly number[]): boolean {
  return (
    shape.length >= 2 &&
    name.endsWith('weight') &&
    !name.includes('_norm.weight') &&
    !name.includes('ffn_gate_inp.weight') &&
    !name.includes('rope_f')
  );
}

/** The type of one tensor in a file of type `fileType`; `stored` where it stays as it is. */
export function recipeType(
  fileType: FileTypeName,
  tensor: { readonly name: string; readonly shape: readonly number[]; readonly dtype: DType },
  model: RecipeModel,
): DType {
  if (!isQuantizable(tensor.name, tensor.shape)) return tensor.dtype;
  const { dtype } = FILE_TYPES[fileType];
  if (DTYPES[dtype].kind === 'float') return dtype;
  return fitting(wanted(fileType, dtype, tensor.name, tensor.shape.at(-1)!, model), tensor.shape);
}

/** With 256 inputs per block where the rows allow, else the type with blocks of 32 that llama.cpp takes instead, else f16. */
function fitting(dtype: DType, shape: readonly number[]): DType {
  const columns = shape.at(-1)!;
  if (columns % DTYPES[dtype].blockElements === 0) return dtype;
  const smaller = SMALLER_BLOCKS[dtype];
  return smaller !== undefined && columns % DTYPES[smaller].blockElements === 0 ? smaller : 'f16';
}

const SMALLER_BLOCKS: Partial<Record<DType, DType>> = {
  q2_k: 'q4_0',
  q3_k: 'q4_0',
  q4_k: 'q5_0',
  q5_k: 'q5_1',
  q6_k: 'q8_0',
  iq4_xs: 'iq4_nl',
};

function wanted(
  fileType: FileTypeName,
  dtype: DType,
  name: string,
  columns: number,
  model: RecipeModel,
): DType {
  const { numLayers, queriesPerKv, tiedEmbeddings, hasImportance } = model;
  if (name === 'output.weight' || (name === 'token_embd.weight' && tiedEmbeddings)) {
    if (columns % DTYPES[dtype].blockElements !== 0) return 'q8_0';
    return dtype === 'q8_0' ? dtype : 'q6_k';
  }
  const match = /^blk\.(\d+)\.(\w+)\.weight$/.exec(name);
  if (match === null) return dtype;
  const layer = Number(match[1]);
  const eighth = Math.floor(numLayers / 8);
  const isEarly = layer < eighth;
  const isSensitive =
    isEarly || layer >= Math.floor((7 * numLayers) / 8) || (layer - eighth) % 3 === 2;
  switch (match[2]) {
    case 'attn_v':
      switch (fileType) {
        case 'q2_k':
          return queriesPerKv >= 4 ? 'q4_k' : 'q3_k';
        case 'q2_k_s':
          return queriesPerKv >= 4 ? 'q4_k' : dtype;
        case 'q3_k_m':
          return layer < 2 ? 'q5_k' : 'q4_k';
        case 'q3_k_l':
          return 'q5_k';
        case 'iq4_nl':
        case 'iq4_xs':
          return queriesPerKv >= 4 ? 'q5_k' : dtype;
        case 'q4_k_m':
        case 'q5_k_m':
          return isSensitive ? 'q6_k' : dtype;
        case 'q4_k_s':
          return layer < 4 ? 'q5_k' : dtype;
        default:
          return dtype;
      }
    case 'ffn_down':
      switch (fileType) {
        case 'q2_k':
          return 'q3_k';
        case 'q2_k_s':
          return isEarly ? 'q4_k' : dtype;
        case 'q3_k_m':
          return layer < Math.floor(numLayers / 16) ? 'q5_k' : 'q4_k';
        case 'q3_k_l':
          return 'q5_k';
        case 'q4_k_m':
        case 'q5_k_m':
          return isSensitive ? 'q6_k' : dtype;
        case 'q4_k_s':
          return isEarly ? 'q5_k' : dtype;
        case 'iq4_nl':
        case 'iq4_xs':
          return isEarly && !hasImportance ? 'q5_k' : dtype;
        case 'q4_0':
          return isEarly && hasImportance ? 'q4_1' : dtype;
        case 'q5_0':
          return isEarly && hasImportance ? 'q5_1' : dtype;
        default:
          return dtype;
      }
    case 'attn_output':
      if (fileType === 'q2_k') return 'q3_k';
      if (fileType === 'q3_k_m') return 'q4_k';
      return fileType === 'q3_k_l' ? 'q5_k' : dtype;
    case 'attn_qkv':
      if (fileType === 'q3_k_m' || fileType === 'q3_k_l') return 'q4_k';
      if (fileType === 'q4_k_m') return 'q5_k';
      return fileType === 'q5_k_m' ? 'q6_k' : dtype;
    default:
      return dtype;
  }
}
