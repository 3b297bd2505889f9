/**
 * Hugging Face folders whose linears were rounded without looking at a text, in the layouts of bitsandbytes (NF4 and FP4 with double quantization, int8) and
 * compressed-tensors (int-quantized, W8A8). Streamed: one matrix is in memory at a time.
 *
 *     nf4, fp4   X u8 [n / 2, 1], X.absmax u8 [n / 64], X.quant_map f32 [16], X.nested_absmax f32 [n / 64 / 256], X.nested_quant_map f32 [256],
 *                X.quant_state.bitsandbytes__nf4 u8: JSON
 *     int8       X i8 [rows, columns], SCB f32 [rows] (largest of each row, value = code * SCB / 127), weight_format u8 [] = 0;
 *                outlier columns once more in 16 bits in a file of their own, weights/quantized/outlier-file.ts
 *     w8a8       X i8 [rows, columns], weight_scale f32 [rows, 1]; activations are rounded per token while running
 */
import { canonicalFromHf } from '../models/tensor-names.ts';
import { viewBytes } from '../platform/view-bytes.ts';
import { type CodebookName, codebookOf, encodeCodebook } from '../tensor/codebook.ts';
import { rowBytes } from '../tensor/dtype.ts';
import { encodeRow } from '../tensor/rows.ts';
import type { WeightSource, WeightTensor } from '../weights/contract.ts';
import { f16BytesOf } from '../weights/hf-packed.ts';
import {
  OUTLIER_FILE,
  outlierColumnsName,
  outliersName,
} from '../weights/quantized/outlier-file.ts';
import type { TensorToWrite } from '../weights/tensor-data.ts';
import { roundHalfEven } from './group-quantizer.ts';
import { jsonFloat } from './json-numbers.ts';
import { readMatrix } from './matrix-rows.ts';
import { dynamicMap, roundNested } from './nested-scales.ts';
import { writeHfFolder } from './write-hf.ts';

export const ROUNDED_LAYOUTS = ['nf4', 'fp4', 'int8', 'w8a8'] as const;
export type RoundedLayout = (typeof ROUNDED_LAYOUTS)[number];

const BLOCK = 64;
/** JSON is filled up with blanks, so that its size is known before the weights are read. */
const STATE_BYTES = 320;

export interface RoundOptions {
  /** Values that take the place of stored ones, f32, by canonical name; vectors among them are written as f32, for bitsandbytes' int8 in their own type. */
  readonly replaced?: ReadonlyMap<string, Float32Array>;
  /** Of int8 alone: the threshold that was taken, and ascending columns by canonical name. */
  readonly outliers?: {
    readonly threshold: number;
    readonly columns: ReadonlyMap<string, readonly number[]>;
  };
  readonly signal?: AbortSignal;
  onProgress?(doneBytes: number, totalBytes: number): void;
}

/** Linears of layers, by the names of transformers. */
function isLinear({ name, shape }: WeightTensor): boolean {
  return shape.length === 2 && /(^|\.)layers\.\d+\..*\.weight$/.test(name);
}

/**
 * @returns size of the weights in bytes
 * @throws {CompressError} if the model is no Hugging Face folder, or `outputFolder` is there already
 * @throws {NonFiniteWeightError}
 */
export async function writeRoundedModel(
  modelFolder: string,
  layout: RoundedLayout,
  outputFolder: string,
  { replaced = new Map(), outliers, signal, onProgress }: RoundOptions = {},
): Promise<number> {
  let totalBytes = 0;
  let doneBytes = 0;
  const report = (bytes: number): void => {
    doneBytes += bytes;
    onProgress?.(doneBytes, totalBytes);
    signal?.throwIfAborted();
  };
  const valuesOf = ({ name }: WeightTensor) => replaced.get(canonicalFromHf(name) ?? name);
  return await writeHfFolder(modelFolder, outputFolder, {
    layout,
    quantization: () => ({
      ...CONFIGS[layout](),
      ...(outliers && { llm_int8_threshold: jsonFloat(outliers.threshold) }),
    }),
    besides: {
      name: OUTLIER_FILE,
      tensorsOf(tensor, source) {
        const columns = outliers?.columns.get(canonicalFromHf(tensor.name) ?? tensor.name);
        if (columns === undefined) return [];
        const values = () => valuesOf(tensor) ?? readMatrix(source, tensor.name);
        return outlierTensors(tensor, columns, values);
      },
    },
    tensorsOf(tensor, source) {
      const values = valuesOf(tensor);
      if (isLinear(tensor)) {
        totalBytes += tensor.sizeBytes;
        const matrix = new RoundedMatrix(source, tensor, values, () => report(tensor.sizeBytes));
        return matrix.tensors(layout);
      }
      if (values === undefined) return null;
      // transformers leaves bitsandbytes' folders in the types that they have, and takes one type for all that is not rounded.
      const dtype = layout === 'int8' ? tensor.dtype : 'f32';
      const data = new Uint8Array(rowBytes(dtype, values.length));
      encodeRow(dtype, values, values.length, data);
      return [{ name: tensor.name, dtype, shape: tensor.shape, data }];
    },
  });
}

/** The tensors that stand for one matrix; it is read when the first of them is written and forgotten with the last. */
class RoundedMatrix {
  readonly #source: WeightSource;
  readonly #tensor: WeightTensor;
  readonly #given: Float32Array | undefined;
  readonly #onDone: () => void;

  constructor(
    source: WeightSource,
    tensor: WeightTensor,
    given: Float32Array | undefined,
    onDone: () => void,
  ) {
    this.#source = source;
    this.#tensor = tensor;
    this.#given = given;
    this.#onDone = onDone;
  }

  tensors(layout: RoundedLayout): TensorToWrite[] {
    return layout === 'nf4' || layout === 'fp4' ? this.#codebook(layout) : this.#int8(layout);
  }

  #values(): Float32Array {
    return this.#given ?? readMatrix(this.#source, this.#tensor.name);
  }

  #codebook(book: CodebookName): TensorToWrite[] {
    const { name, shape, dtype } = this.#tensor;
    const numElements = shape[0]! * shape[1]!;
    const numBlocks = Math.ceil(numElements / BLOCK);
    const made = new Once(() => {
      const tensor = encodeCodebook(this.#values(), book, BLOCK);
      return { packed: tensor.packed, ...roundNested(tensor.absmax) };
    });
    const state = (offset: number): Uint8Array => {
      const json = JSON.stringify({
        ...{ quant_type: book, blocksize: BLOCK, dtype: TORCH_DTYPES[dtype] ?? 'float32', shape },
        ...{ nested_blocksize: 256, nested_dtype: 'float32', nested_offset: offset },
      });
      return new TextEncoder().encode(json.padEnd(STATE_BYTES));
    };
    const map = dynamicMap();
    return [
      tensorOf(name, 'u8', [Math.ceil(numElements / 2), 1], () => made.value.packed),
      tensorOf(`${name}.absmax`, 'u8', [numBlocks], () => made.value.codes),
      tensorOf(`${name}.quant_map`, 'f32', [16], () => codebookOf(book)),
      tensorOf(
        `${name}.nested_absmax`,
        'f32',
        [Math.ceil(numBlocks / 256)],
        () => made.value.absmax,
      ),
      tensorOf(`${name}.nested_quant_map`, 'f32', [256], () => map),
      tensorOf(`${name}.quant_state.bitsandbytes__${book}`, 'u8', [STATE_BYTES], () => {
        const bytes = state(made.value.offset);
        made.forget();
        this.#onDone();
        return bytes;
      }),
    ];
  }

  #int8(layout: 'int8' | 'w8a8'): TensorToWrite[] {
    const { name, shape } = this.#tensor;
    const [rows, columns] = shape as readonly [number, number];
    const prefix = name.slice(0, -'weight'.length);
    const made = new Once(() => roundRows(this.#values(), rows, columns));
    const scales = (factor: number): Float32Array => {
      const largest = made.value.largest.map((each) => each * factor);
      made.forget();
      this.#onDone();
      return largest;
    };
    const codes = tensorOf(name, 'i8', shape, () => made.value.codes);
    return layout === 'int8'
      ? [
          codes,
          tensorOf(`${prefix}weight_format`, 'u8', [], () => Uint8Array.of(0)),
          tensorOf(`${prefix}SCB`, 'f32', [rows], () => scales(1)),
        ]
      : [codes, tensorOf(`${prefix}weight_scale`, 'f32', [rows, 1], () => scales(1 / 127))];
  }
}

/** What the file of outliers has of one matrix. */
function outlierTensors(
  { name, shape }: WeightTensor,
  columns: readonly number[],
  values: () => Float32Array,
): TensorToWrite[] {
  const prefix = name.slice(0, -'weight'.length);
  const [rows, width] = shape as readonly [number, number];
  const gathered = (): Uint8Array => {
    const matrix = values();
    const few = new Float32Array(rows * columns.length);
    for (let i = 0; i < few.length; i++) {
      const row = Math.floor(i / columns.length);
      few[i] = matrix[row * width + columns[i % columns.length]!]!;
    }
    return f16BytesOf(few);
  };
  return [
    tensorOf(outlierColumnsName(prefix), 'i32', [columns.length], () => Int32Array.from(columns)),
    tensorOf(outliersName(prefix), 'f16', [rows, columns.length], gathered),
  ];
}

/** A value that is made when it is first asked for. */
class Once<T> {
  readonly #make: () => T;
  #value: T | undefined;

  constructor(make: () => T) {
    this.#make = make;
  }

  get value(): T {
    this.#value ??= this.#make();
    return this.#value;
  }

  forget(): void {
    this.#value = undefined;
  }
}

type Stored = Uint8Array | Int8Array | Int32Array | Float32Array;

function tensorOf(
  name: string,
  dtype: TensorToWrite['dtype'],
  shape: readonly number[],
  values: () => Stored,
): TensorToWrite {
  return { name, dtype, shape, data: () => [viewBytes(values())] };
}

/** Rows as 8-bit codes of their largest magnitude / 127. */
function roundRows(values: Float32Array, rows: number, columns: number) {
  const codes = new Int8Array(values.length);
  const largest = new Float32Array(rows);
  for (let row = 0; row < rows; row++) {
    const start = row * columns;
    let most = 0;
    for (let i = start; i < start + columns; i++) most = Math.max(most, Math.abs(values[i]!));
    largest[row] = most;
    const inverse = most === 0 ? 0 : 127 / most;
    for (let i = start; i < start + columns; i++) codes[i] = roundHalfEven(values[i]! * inverse);
  }
  return { codes, largest };
}

const TORCH_DTYPES: Readonly<Record<string, string>> = { f16: 'float16', bf16: 'bfloat16' };

const bitsandbytes = (is4bit: boolean, type: CodebookName) => ({
  ...{ quant_method: 'bitsandbytes', _load_in_4bit: is4bit, _load_in_8bit: !is4bit },
  ...{ load_in_4bit: is4bit, load_in_8bit: !is4bit, llm_int8_threshold: jsonFloat(6) },
  ...{ bnb_4bit_quant_type: type, bnb_4bit_use_double_quant: is4bit },
  ...{ bnb_4bit_compute_dtype: 'bfloat16', bnb_4bit_quant_storage: 'uint8' },
  ...{ llm_int8_skip_modules: null, llm_int8_has_fp16_weight: false },
  llm_int8_enable_fp32_cpu_offload: false,
});

const CONFIGS: Readonly<Record<RoundedLayout, () => Record<string, unknown>>> = {
  nf4: () => bitsandbytes(true, 'nf4'),
  fp4: () => bitsandbytes(true, 'fp4'),
  int8: () => bitsandbytes(false, 'fp4'),
  w8a8: () => {
    const eightBits = { num_bits: 8, type: 'int', symmetric: true, group_size: null };
    return {
      ...{ quant_method: 'compressed-tensors', format: 'int-quantized' },
      ...{ quantization_status: 'compressed', ignore: ['lm_head'], kv_cache_scheme: null },
      config_groups: {
        group_0: {
          ...{ targets: ['Linear'], output_activations: null },
          weights: { ...eightBits, strategy: 'channel', dynamic: false },
          input_activations: { ...eightBits, strategy: 'token', dynamic: true },
        },
      },
    };
  },
};
