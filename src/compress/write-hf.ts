/**
 * A compressed model as a Hugging Face folder in another toolkit's layout: GPTQ (v2 where a zero point is 0, else v1), AWQ (gemm) or compressed-tensors.
 * The rest of the model's folder (tokenizer, generation defaults) is copied; config.json gets its `quantization_config`.
 */
import { copyFileSync, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeFolderAtomic } from '../platform/atomic-file.ts';
import { viewBytes } from '../platform/view-bytes.ts';
import type { DType } from '../tensor/dtype.ts';
import type { WeightSource, WeightTensor } from '../weights/contract.ts';
import { f16BytesOf, packAwq, packCompressedTensors, packGptq } from '../weights/hf-packed.ts';
import { writeSafetensors } from '../weights/safetensors-writer.ts';
import type { TensorToWrite } from '../weights/tensor-data.ts';
import { openWeights } from '../weights/weight-source.ts';
import type { CompressedModel } from './calibrated.ts';
import { CompressError } from './errors.ts';
import type { QuantizedMatrix } from './group-quantizer.ts';
import { parseKeepingNumbers } from './json-numbers.ts';

export const HF_LAYOUTS = ['gptq', 'awq', 'compressed-tensors'] as const;
export type HfLayout = (typeof HF_LAYOUTS)[number];

/**
 * @param modelFolder the model that was compressed, with config.json
 * @param compressed matrices by the names of the folder's own tensors
 * @param outputFolder must not exist; appears only when it is complete
 * @returns size of the new weights in bytes
 * @throws {CompressError} if the layout has no place for a matrix, or the folder is there already
 */
export async function writeHfModel(
  modelFolder: string,
  compressed: Pick<CompressedModel, 'matrices' | 'vectors'>,
  layout: HfLayout,
  outputFolder: string,
): Promise<number> {
  const { matrices, vectors } = compressed;
  const all = [...matrices.values()];
  const version = all.some(({ zeros }) => zeros.includes(0)) ? 2 : 1;
  return await writeHfFolder(modelFolder, outputFolder, {
    layout,
    quantization: () => quantizationConfig(all, layout, version),
    tensorsOf(tensor) {
      const { name, shape } = tensor;
      const matrix = matrices.get(name);
      if (matrix !== undefined) return packedTensors(name, matrix, layout, version);
      const vector = vectors.get(name);
      if (vector === undefined) return null;
      const data = viewBytes(vector);
      return [{ name, dtype: 'f32', shape, data }];
    },
  });
}

const WEIGHTS = 'model.safetensors';
const METADATA = { format: 'pt' };

/** What becomes of a model's folder. */
export interface HfFolderContent {
  /** For messages. */
  readonly layout: string;
  /** What stands for a tensor; null: it is copied. */
  tensorsOf(tensor: WeightTensor, source: WeightSource): TensorToWrite[] | null;
  /** Goes to config.json. */
  quantization(): Record<string, unknown>;
  /** Tensors of a file of that name beside the model's, which an index keeps from readers that take all files of a folder. */
  readonly besides?: {
    readonly name: string;
    tensorsOf(tensor: WeightTensor, source: WeightSource): TensorToWrite[];
  };
}

/**
 * The folder with other tensors: its tokenizer and defaults are copied, config.json gets its `quantization_config`.
 *
 * @returns size of the weights in bytes
 * @throws {CompressError} if the model is no folder, or `outputFolder` is there already
 */
export async function writeHfFolder(
  modelFolder: string,
  outputFolder: string,
  { layout, tensorsOf, quantization, besides }: HfFolderContent,
): Promise<number> {
  const configFile = join(modelFolder, 'config.json');
  if (!existsSync(configFile)) {
    throw new CompressError(
      `${modelFolder}: has no config.json; the ${layout} layout is written for models that are Hugging Face folders`,
    );
  }
  if (existsSync(outputFolder)) throw new CompressError(`${outputFolder}: is there already`);
  return await writeFolderAtomic(outputFolder, async (folder) => {
    using source = openWeights(modelFolder);
    const tensors = [...source.tensors.values()].flatMap((tensor): readonly TensorToWrite[] => {
      const { name, dtype, shape } = tensor;
      const data = () => [source.readRows(name)];
      return tensorsOf(tensor, source) ?? [{ name, dtype, shape, data }];
    });
    const others = [...source.tensors.values()].flatMap(
      (tensor) => besides?.tensorsOf(tensor, source) ?? [],
    );
    let sizeBytes = await writeSafetensors(join(folder, WEIGHTS), { tensors, metadata: METADATA });
    if (besides && others.length > 0) {
      writeIndex(folder, tensors, sizeBytes);
      const file = join(folder, besides.name);
      sizeBytes += await writeSafetensors(file, { tensors: others, metadata: METADATA });
    }
    const config = parseKeepingNumbers(readFileSync(configFile, 'utf8')) as Record<string, unknown>;
    config.quantization_config = quantization();
    writeFileSync(join(folder, 'config.json'), `${JSON.stringify(config, null, 2)}\n`);
    for (const name of readdirSync(modelFolder)) {
      const isOther =
        !/\.(safetensors|gguf|bin|pth)$|^(config|model\.safetensors\.index)\.json$/.test(name);
      if (isOther && /\.(json|txt|model|jinja)$/.test(name)) {
        copyFileSync(join(modelFolder, name), join(folder, name));
      }
    }
    return sizeBytes;
  });
}

/** That all tensors of the model are in the one file. */
function writeIndex(folder: string, tensors: readonly TensorToWrite[], sizeBytes: number): void {
  const index = {
    metadata: { total_size: sizeBytes },
    weight_map: Object.fromEntries(tensors.map(({ name }) => [name, WEIGHTS])),
  };
  writeFileSync(join(folder, `${WEIGHTS}.index.json`), `${JSON.stringify(index, null, 2)}\n`);
}

function packedTensors(
  name: string,
  matrix: QuantizedMatrix,
  layout: HfLayout,
  version: 1 | 2,
): TensorToWrite[] {
  const prefix = name.slice(0, -'weight'.length);
  const { rows, columns, groupSize } = matrix;
  const numGroups = columns / groupSize;
  const i32 = (part: string, values: Int32Array, shape: readonly number[]): TensorToWrite => ({
    ...{ name: prefix + part, dtype: 'i32' as DType, shape },
    data: viewBytes(values),
  });
  const f16 = (part: string, values: Float32Array, shape: readonly number[]): TensorToWrite => ({
    ...{ name: prefix + part, dtype: 'f16' as DType, shape },
    data: f16BytesOf(values),
  });
  switch (layout) {
    case 'gptq': {
      const { qweight, qzeros, scales, gIdx } = packGptq(matrix, version);
      return [
        i32('qweight', qweight, [qweight.length / rows, rows]),
        i32('qzeros', qzeros, [numGroups, qzeros.length / numGroups]),
        f16('scales', scales, [numGroups, rows]),
        i32('g_idx', gIdx, [columns]),
      ];
    }
    case 'awq': {
      const { qweight, qzeros, scales } = packAwq(matrix);
      return [
        i32('qweight', qweight, [columns, rows / 8]),
        i32('qzeros', qzeros, [numGroups, rows / 8]),
        f16('scales', scales, [numGroups, rows]),
      ];
    }
    case 'compressed-tensors': {
      const { packed, scales, zeroPoints } = packCompressedTensors(matrix);
      const shape = new Uint8Array(BigInt64Array.of(BigInt(rows), BigInt(columns)).buffer);
      return [
        i32('weight_packed', packed, [rows, packed.length / rows]),
        f16('weight_scale', scales, [rows, numGroups]),
        ...(zeroPoints === null
          ? []
          : [i32('weight_zero_point', zeroPoints, [zeroPoints.length / numGroups, numGroups])]),
        { name: `${prefix}weight_shape`, dtype: 'i64', shape: [2], data: shape },
      ];
    }
    default:
      return layout satisfies never;
  }
}

function quantizationConfig(
  matrices: readonly QuantizedMatrix[],
  layout: HfLayout,
  version: 1 | 2,
): Record<string, unknown> {
  const schemes = new Set(matrices.map((m) => `${m.bits} ${m.isSymmetric}`));
  const first = matrices[0];
  if (schemes.size !== 1 || first === undefined) {
    throw new CompressError(
      `the ${layout} layout holds one number of bits and one symmetry for all matrices`,
    );
  }
  const { bits, isSymmetric } = first;
  const isRow = matrices.every(({ groupSize, columns }) => groupSize === columns);
  const sizes = new Set(matrices.map(({ groupSize }) => groupSize));
  if (!isRow && sizes.size !== 1) {
    throw new CompressError(`the ${layout} layout holds one group size for all matrices`);
  }
  const groupSize = isRow ? -1 : first.groupSize;
  switch (layout) {
    case 'gptq':
      return {
        ...{ quant_method: 'gptq', bits, group_size: groupSize, desc_act: false, sym: isSymmetric },
        ...{ lm_head: false, true_sequential: true },
        checkpoint_format: version === 2 ? 'gptq_v2' : 'gptq',
      };
    case 'awq':
      return {
        ...{ quant_method: 'awq', bits, group_size: groupSize, zero_point: true },
        ...{ version: 'gemm', modules_to_not_convert: null },
      };
    case 'compressed-tensors':
      return {
        ...{ quant_method: 'compressed-tensors', format: 'pack-quantized' },
        ...{ quantization_status: 'compressed', ignore: ['lm_head'], kv_cache_scheme: null },
        config_groups: {
          group_0: {
            ...{ targets: ['Linear'], input_activations: null, output_activations: null },
            weights: {
              ...{ num_bits: bits, type: 'int', symmetric: isSymmetric, dynamic: false },
              strategy: isRow ? 'channel' : 'group',
              group_size: isRow ? null : groupSize,
            },
          },
        },
      };
    default:
      return layout satisfies never;
  }
}
