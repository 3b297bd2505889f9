/**
 * A Hugging Face model that another toolkit quantized, seen as an ordinary one: `X.qweight` and its companions become one tensor `X.weight` in a block
 * format that has fast kernels and holds the same values, exactly:
 *
 *     4-bit symmetric, 2 and 3 bits            q4_0    scale * (code - zero) with |code - zero| <= 8
 *     4-bit with zero points, 5-bit symmetric  q5_0    up to 16
 *     8-bit symmetric, 6 and 7 bits            q8_0
 *     8 bits per row (bnb, int-quantized)      q8_f32  the scale as f32
 *     NF4 and FP4                              nf4, fp4
 *     groups that are no multiples of 32, act-order, and scales of other bits that no f16 holds: f32
 *
 * A group's scale is repeated for each block of 32. Knows the files of GPTQ (v1, v2), AWQ (gemm), compressed-tensors (pack-quantized, int-quantized) and bitsandbytes.
 */
import { putF32 } from '../tensor/block-formats/scaled-codes.ts';
import { type CodebookName, type CodebookTensor, decodeCodebook } from '../tensor/codebook.ts';
import type { DType } from '../tensor/dtype.ts';
import { rowBytes } from '../tensor/dtype.ts';
import { F16_TO_F32, f16Bits } from '../tensor/half.ts';
import type { GgufValue, WeightSource, WeightTensor } from './contract.ts';
import { WeightFileError } from './errors.ts';
import {
  dequantizeIndexed,
  type IndexedMatrix,
  unpackAwq,
  unpackCompressedTensors,
  unpackGptq,
} from './hf-packed.ts';

/** `quantization_config` of a config.json, as it was parsed. */
export type QuantizationConfig = Readonly<Record<string, unknown>>;

/** A matrix of another toolkit's making: its shape, and how to get its codes or values. */
interface ForeignMatrix {
  readonly rows: number;
  readonly columns: number;
  /** The format that holds its values; f32 where none does. */
  readonly dtype: DType;
  readonly read: () => IndexedMatrix | CodebookTensor | Float32Array;
}

/** Largest |code - zero| that a format of blocks of 32 holds, and its zero code. */
const HOLDERS = [
  { dtype: 'q4_0', least: -8, most: 7, zero: 8 },
  { dtype: 'q5_0', least: -16, most: 15, zero: 16 },
  { dtype: 'q8_0', least: -128, most: 127, zero: 0 },
] as const;

export class HfQuantizedWeights implements WeightSource {
  readonly format = 'safetensors';
  readonly path: string;
  readonly files: readonly string[];
  readonly sizeBytes: number;
  readonly tensors: ReadonlyMap<string, WeightTensor>;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly #source: WeightSource;
  readonly #matrices: ReadonlyMap<string, ForeignMatrix>;
  /** The matrix read last, in its format: rows are asked for one after another. */
  #encoded: { readonly name: string; readonly bytes: Uint8Array } | null = null;

  /**
   * Takes over `source`: it is closed with this.
   *
   * @throws {WeightFileError} if the method or one of its variants is not known, naming it
   */
  constructor(source: WeightSource, config: QuantizationConfig) {
    this.#source = source;
    this.path = source.path;
    this.files = source.files;
    this.sizeBytes = source.sizeBytes;
    this.metadata = source.metadata;
    const found = findMatrices(source, config);
    this.#matrices = found.matrices;
    const tensors = new Map<string, WeightTensor>();
    for (const tensor of source.tensors.values()) {
      if (!found.parts.has(tensor.name)) tensors.set(tensor.name, tensor);
    }
    for (const [name, { rows, columns, dtype }] of this.#matrices) {
      const sizeBytes = rows * rowBytes(dtype, columns);
      tensors.set(name, { name, dtype, shape: [rows, columns], sizeBytes });
    }
    this.tensors = tensors;
  }

  readRows(name: string, rowStart = 0, rowEnd?: number, into?: Uint8Array): Uint8Array {
    const matrix = this.#matrices.get(name);
    if (matrix === undefined) return this.#source.readRows(name, rowStart, rowEnd, into);
    if (this.#encoded?.name !== name) this.#encoded = { name, bytes: encoded(matrix) };
    const { rows, columns, dtype } = matrix;
    const end = rowEnd ?? rows;
    const bytesPerRow = rowBytes(dtype, columns);
    if (!(rowStart >= 0 && rowStart <= end && end <= rows)) {
      throw this.#usage(name, `rows ${rowStart} to ${end} of ${rows}`);
    }
    const bytes = this.#encoded.bytes.subarray(rowStart * bytesPerRow, end * bytesPerRow);
    if (into === undefined) return bytes.slice();
    if (into.length < bytes.length) {
      throw this.#usage(name, `${bytes.length} bytes do not fit a buffer of ${into.length}`);
    }
    into.set(bytes);
    return into.subarray(0, bytes.length);
  }

  readF32(name: string): Float32Array {
    const matrix = this.#matrices.get(name);
    if (matrix === undefined) return this.#source.readF32(name);
    return valuesOf(matrix.read());
  }

  close(): void {
    this.#encoded = null;
    this.#source.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #usage(tensor: string, message: string): WeightFileError {
    return new WeightFileError(message, { fault: 'usage', file: this.path, tensor });
  }
}

function valuesOf(content: IndexedMatrix | CodebookTensor | Float32Array): Float32Array {
  if (content instanceof Float32Array) return content;
  return 'absmax' in content ? decodeCodebook(content) : dequantizeIndexed(content);
}

/** Blocks of 32 with the scale of the block of bitsandbytes that they are in. */
function codebookRows({ numElements, blockSize, packed, absmax }: CodebookTensor): Uint8Array {
  const blockBytes = rowBytes('nf4', 32);
  const out = new Uint8Array((numElements / 32) * blockBytes);
  for (let start = 0, at = 0; start < numElements; start += 32, at += blockBytes) {
    putF32(absmax[Math.floor(start / blockSize)]!, out, at);
    out.set(packed.subarray(start / 2, start / 2 + 16), at + 4);
  }
  return out;
}

/** The matrix in its block format. */
function encoded({ rows, columns, dtype, read }: ForeignMatrix): Uint8Array {
  const content = read();
  if (content instanceof Float32Array || dtype === 'f32') {
    const values = valuesOf(content);
    return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  }
  if ('absmax' in content) return codebookRows(content);
  if (dtype === 'q8_f32') return scaledRows(content);
  const holder = HOLDERS.find((each) => each.dtype === dtype)!;
  const { codes, scales, zeros, groupSize } = content;
  const numGroups = columns / groupSize;
  const blockBytes = rowBytes(dtype, 32);
  const out = new Uint8Array((rows * columns * blockBytes) / 32);
  const block = new Int16Array(32);
  let at = 0;
  for (let row = 0; row < rows; row++) {
    for (let start = 0; start < columns; start += 32, at += blockBytes) {
      const group = row * numGroups + Math.floor(start / groupSize);
      const bits = f16Bits(scales[group]!);
      out[at] = bits & 255;
      out[at + 1] = bits >> 8;
      const shift = holder.zero - zeros[group]!;
      for (let i = 0; i < 32; i++) block[i] = codes[row * columns + start + i]! + shift;
      if (dtype === 'q8_0') {
        for (let i = 0; i < 32; i++) out[at + 2 + i] = block[i]!;
        continue;
      }
      const nibbles = dtype === 'q5_0' ? at + 6 : at + 2;
      for (let i = 0; i < 16; i++) {
        out[nibbles + i] = (block[i]! & 15) | ((block[i + 16]! & 15) << 4);
      }
      if (dtype !== 'q5_0') continue;
      for (let i = 0; i < 32; i++) out[at + 2 + (i >> 3)]! |= (block[i]! >> 4) << (i & 7);
    }
  }
  return out;
}

/** 8-bit codes with the f32 scale of their group before each 32. */
function scaledRows({ rows, columns, codes, scales, zeros, groupSize }: IndexedMatrix): Uint8Array {
  const blockBytes = rowBytes('q8_f32', 32);
  const out = new Uint8Array((rows * columns * blockBytes) / 32);
  for (let start = 0, at = 0; start < rows * columns; start += 32, at += blockBytes) {
    const group = Math.floor(start / groupSize);
    putF32(scales[group]!, out, at);
    for (let i = 0; i < 32; i++) out[at + 4 + i] = codes[start + i]! - zeros[group]!;
  }
  return out;
}

/** The first format that holds all values of codes of so many bits. */
function holderOf(
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

interface Found {
  readonly matrices: ReadonlyMap<string, ForeignMatrix>;
  /** Names of the tensors that they are made of. */
  readonly parts: ReadonlySet<string>;
}

function findMatrices(source: WeightSource, config: QuantizationConfig): Found {
  const refuse = (message: string): never => {
    throw new WeightFileError(message, { fault: 'unsupported', file: source.path });
  };
  const method = String(config.quant_method ?? '');
  switch (method) {
    case 'gptq':
      return gptqMatrices(source, config, refuse);
    case 'awq':
      return awqMatrices(source, config, refuse);
    case 'compressed-tensors':
      return compressedMatrices(source, config, refuse);
    case 'bitsandbytes':
      return bitsandbytesMatrices(source, refuse);
    default:
      return refuse(
        `weights quantized by "${method}"; accepted: gptq, awq, compressed-tensors, bitsandbytes`,
      );
  }
}

type Refuse = (message: string) => never;

function ints(source: WeightSource, name: string): Int32Array {
  return new Int32Array(source.readRows(name).slice().buffer);
}

/** The tensor's shape `[a, b]`. */
function shapeOf(source: WeightSource, name: string, refuse: Refuse): readonly [number, number] {
  const shape = source.tensors.get(name)?.shape;
  if (shape?.length !== 2) return refuse(`tensor "${name}" is missing or no matrix`);
  return [shape[0]!, shape[1]!];
}

/** Prefixes `X.` of tensors `X.suffix`. */
function prefixesOf(source: WeightSource, suffix: string): string[] {
  return [...source.tensors.keys()]
    .filter((name) => name.endsWith(`.${suffix}`))
    .map((name) => name.slice(0, -suffix.length));
}

function gptqMatrices(source: WeightSource, config: QuantizationConfig, refuse: Refuse): Found {
  const bits = Number(config.bits);
  if (![2, 3, 4, 5, 6, 7, 8].includes(bits))
    refuse(`GPTQ of ${config.bits} bits; accepted: 2 to 8`);
  const stated = String(config.checkpoint_format ?? 'gptq');
  if (stated !== 'gptq' && stated !== 'gptq_v2') {
    refuse(`GPTQ checkpoint format "${stated}"; accepted: gptq, gptq_v2`);
  }
  const version = stated === 'gptq_v2' ? 2 : 1;
  const matrices = new Map<string, ForeignMatrix>();
  const parts = new Set<string>();
  for (const prefix of prefixesOf(source, 'qweight')) {
    for (const part of ['qweight', 'qzeros', 'scales', 'g_idx']) parts.add(prefix + part);
    const [words, rows] = shapeOf(source, `${prefix}qweight`, refuse);
    const columns = (words * 32) / bits;
    const [numGroups, scaleRows] = shapeOf(source, `${prefix}scales`, refuse);
    const groupSize = Math.ceil(columns / numGroups);
    const [zeroGroups, zeroWords] = shapeOf(source, `${prefix}qzeros`, refuse);
    const isSound =
      Number.isInteger(columns) &&
      scaleRows === rows &&
      zeroGroups === numGroups &&
      zeroWords === Math.ceil((rows * bits) / 32);
    if (!isSound) refuse(`tensors "${prefix}qweight", "qzeros" and "scales" do not fit each other`);
    const gIdx = source.tensors.has(`${prefix}g_idx`) ? ints(source, `${prefix}g_idx`) : null;
    if (
      gIdx !== null &&
      (gIdx.length !== columns || gIdx.some((g) => !(g >= 0 && g < numGroups)))
    ) {
      refuse(
        `tensor "${prefix}g_idx" does not name a group of ${numGroups} for each of ${columns} inputs`,
      );
    }
    const hasRuns = gIdx === null || gIdx.every((g, k) => g === Math.floor(k / groupSize));
    // Zero points of symmetric files are all in the middle; where the file says otherwise, they are looked at.
    const isSymmetric = config.sym !== false;
    const read = (): IndexedMatrix =>
      unpackGptq(
        {
          qweight: ints(source, `${prefix}qweight`),
          qzeros: ints(source, `${prefix}qzeros`),
          scales: source.readF32(`${prefix}scales`),
          gIdx,
        },
        { rows, columns, bits, groupSize },
        version,
        isSymmetric,
      );
    const middle = 2 ** (bits - 1);
    const isMiddle = isSymmetric && allZerosAre(read, middle);
    const dtype = holderOf(bits, { isSymmetric: isMiddle, groupSize, hasRuns });
    matrices.set(`${prefix}weight`, { rows, columns, dtype, read });
  }
  return { matrices, parts };
}

function allZerosAre(read: () => IndexedMatrix, zero: number): boolean {
  return read().zeros.every((each) => each === zero);
}

function awqMatrices(source: WeightSource, config: QuantizationConfig, refuse: Refuse): Found {
  const version = String(config.version ?? 'gemm').toLowerCase();
  if (version !== 'gemm') refuse(`AWQ version "${version}"; accepted: gemm`);
  const bits = Number(config.bits ?? config.w_bit);
  if (bits !== 4) refuse(`AWQ of ${bits} bits; accepted: 4`);
  const matrices = new Map<string, ForeignMatrix>();
  const parts = new Set<string>();
  for (const prefix of prefixesOf(source, 'qweight')) {
    for (const part of ['qweight', 'qzeros', 'scales']) parts.add(prefix + part);
    const [columns, words] = shapeOf(source, `${prefix}qweight`, refuse);
    const rows = 8 * words;
    const [numGroups, scaleRows] = shapeOf(source, `${prefix}scales`, refuse);
    const [zeroGroups, zeroWords] = shapeOf(source, `${prefix}qzeros`, refuse);
    if (
      scaleRows !== rows ||
      zeroGroups !== numGroups ||
      zeroWords !== words ||
      columns % numGroups !== 0
    ) {
      refuse(`tensors "${prefix}qweight", "qzeros" and "scales" do not fit each other`);
    }
    const groupSize = columns / numGroups;
    const read = (): IndexedMatrix => ({
      ...unpackAwq(
        {
          qweight: ints(source, `${prefix}qweight`),
          qzeros: ints(source, `${prefix}qzeros`),
          scales: source.readF32(`${prefix}scales`),
        },
        { rows, columns, groupSize },
      ),
      groupOf: null,
    });
    const dtype = holderOf(4, { isSymmetric: false, groupSize, hasRuns: true });
    matrices.set(`${prefix}weight`, { rows, columns, dtype, read });
  }
  return { matrices, parts };
}

function compressedMatrices(
  source: WeightSource,
  config: QuantizationConfig,
  refuse: Refuse,
): Found {
  if (config.format === 'int-quantized') return int8Matrices(source, refuse);
  if (config.format !== 'pack-quantized') {
    refuse(`compressed-tensors format "${config.format}"; accepted: pack-quantized, int-quantized`);
  }
  const groups = Object.values((config.config_groups ?? {}) as Record<string, unknown>);
  const scheme = (groups[0] as { weights?: Record<string, unknown> } | undefined)?.weights;
  const bits = Number(scheme?.num_bits);
  if (groups.length !== 1 || !(bits >= 2 && bits <= 8)) {
    refuse(`${groups.length} config_groups, ${bits} bits; accepted: one group, 2 to 8 bits`);
  }
  const matrices = new Map<string, ForeignMatrix>();
  const parts = new Set<string>();
  for (const prefix of prefixesOf(source, 'weight_packed')) {
    const own = [
      'weight_packed',
      'weight_scale',
      'weight_shape',
      'weight_zero_point',
      'weight_g_idx',
    ];
    for (const part of own) parts.add(prefix + part);
    if (source.tensors.has(`${prefix}weight_g_idx`)) {
      refuse(
        `tensor "${prefix}weight_g_idx": act-order by group of compressed-tensors is not supported`,
      );
    }
    const [rows, words] = shapeOf(source, `${prefix}weight_packed`, refuse);
    const [, columns] = [...source.readF32(`${prefix}weight_shape`)];
    const [scaleRows, numGroups] = shapeOf(source, `${prefix}weight_scale`, refuse);
    const isSound =
      columns !== undefined &&
      words === Math.ceil((columns * bits) / 32) &&
      scaleRows === rows &&
      columns % numGroups === 0;
    if (!isSound)
      refuse(`tensors "${prefix}weight_packed" and "weight_scale" do not fit each other`);
    const width = columns!;
    const groupSize = width / numGroups;
    const hasZeros = source.tensors.has(`${prefix}weight_zero_point`);
    const scales = source.readF32(`${prefix}weight_scale`);
    const read = (): IndexedMatrix => ({
      ...unpackCompressedTensors(
        {
          packed: ints(source, `${prefix}weight_packed`),
          scales,
          zeroPoints: hasZeros ? ints(source, `${prefix}weight_zero_point`) : null,
        },
        { rows, columns: width, bits, groupSize },
      ),
      groupOf: null,
    });
    // Scales may be bf16 or f32.
    const areHalves = scales.every((scale) => F16_TO_F32[f16Bits(scale)] === scale);
    const held = holderOf(bits, { isSymmetric: !hasZeros, groupSize, hasRuns: true });
    const dtype: DType = areHalves ? held : 'f32';
    matrices.set(`${prefix}weight`, { rows, columns: width, dtype, read });
  }
  return { matrices, parts };
}

/** Bytes of JSON beside the weights. */
interface QuantState {
  readonly quant_type: string;
  readonly blocksize: number;
  readonly shape: readonly number[];
  readonly nested_blocksize?: number;
  readonly nested_offset?: number;
}

function bitsandbytesMatrices(source: WeightSource, refuse: Refuse): Found {
  const matrices = new Map<string, ForeignMatrix>();
  const parts = new Set<string>();
  for (const name of source.tensors.keys()) {
    const match = /^(.*\.weight)\.quant_state\.bitsandbytes__(\w+)$/.exec(name);
    if (match === null) continue;
    const [, weight, type] = match as unknown as [string, string, string];
    if (type !== 'nf4' && type !== 'fp4')
      refuse(`bitsandbytes type "${type}"; accepted: nf4, fp4, int8`);
    for (const part of ['', '.absmax', '.quant_map', '.nested_absmax', '.nested_quant_map']) {
      parts.add(weight + part);
    }
    parts.add(name);
    const state = JSON.parse(new TextDecoder().decode(source.readRows(name))) as QuantState;
    const [rows, columns] = state.shape;
    if (state.shape.length !== 2 || rows === undefined || columns === undefined) {
      refuse(`tensor "${weight}" has shape [${state.shape.join(', ')}]; expected a matrix`);
    }
    const [numRows, width] = [rows!, columns!];
    const read = (): CodebookTensor => ({
      ...{ name: type as CodebookName, numElements: numRows * width, blockSize: state.blocksize },
      ...{ packed: source.readRows(weight), absmax: absmaxOf(source, weight, state) },
    });
    const hasWholeBlocks = width % 32 === 0 && state.blocksize % 32 === 0;
    const dtype = hasWholeBlocks ? (type as CodebookName) : 'f32';
    matrices.set(weight, { rows: numRows, columns: width, dtype, read });
  }
  for (const name of source.tensors.keys()) {
    if (!name.endsWith('.SCB')) continue;
    const weight = `${name.slice(0, -'.SCB'.length)}.weight`;
    const [rows, columns] = shapeOf(source, weight, refuse);
    for (const part of [name, weight, `${weight}_format`]) parts.add(part);
    const read = (): IndexedMatrix => {
      const scales = source.readF32(name).map((largest) => largest / 127);
      return int8Matrix(source, weight, { rows, columns, scales, zeroPoints: null });
    };
    matrices.set(weight, { rows, columns, dtype: int8Dtype(columns), read });
  }
  return { matrices, parts };
}

/** Signed 8-bit codes as they are stored, `scales` of equal numbers of inputs of each row. */
function int8Matrix(
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

function int8Dtype(groupSize: number): DType {
  return groupSize % 32 === 0 ? 'q8_f32' : 'f32';
}

/** compressed-tensors int-quantized: `weight` i8 as it is, `weight_scale` of each row or group, `weight_zero_point` i8 where asymmetric. */
function int8Matrices(source: WeightSource, refuse: Refuse): Found {
  const matrices = new Map<string, ForeignMatrix>();
  const parts = new Set<string>();
  for (const prefix of prefixesOf(source, 'weight_scale')) {
    const weight = `${prefix}weight`;
    const own = ['weight', 'weight_scale', 'weight_zero_point', 'input_scale', 'input_zero_point'];
    for (const part of own) parts.add(prefix + part);
    if (source.tensors.has(`${prefix}input_scale`)) {
      refuse(
        `tensor "${prefix}input_scale": static scales of activations are not supported; accepted: dynamic ones`,
      );
    }
    const [rows, columns] = shapeOf(source, weight, refuse);
    const scaleShape = source.tensors.get(`${prefix}weight_scale`)!.shape;
    const numScales = scaleShape.reduce((product, dim) => product * dim, 1);
    const { dtype } = source.tensors.get(weight)!;
    if (dtype !== 'i8' || numScales % rows !== 0 || (rows * columns) % numScales !== 0) {
      refuse(
        `tensor "${weight}" is ${dtype} [${rows}, ${columns}] with scales [${scaleShape.join(', ')}]; expected i8 with scales of rows or groups`,
      );
    }
    const zeroName = `${prefix}weight_zero_point`;
    const hasZeros = source.tensors.has(zeroName);
    const read = (): IndexedMatrix => {
      const scales = source.readF32(`${prefix}weight_scale`);
      const zeroPoints = hasZeros ? source.readF32(zeroName) : null;
      if (zeroPoints !== null && zeroPoints.length !== scales.length) {
        refuse(`tensors "${zeroName}" and "weight_scale" do not fit each other`);
      }
      return int8Matrix(source, weight, { rows, columns, scales, zeroPoints });
    };
    // With a zero point, code - zero may need nine bits.
    const dtypeOf = hasZeros ? 'f32' : int8Dtype((rows * columns) / numScales);
    matrices.set(weight, { rows, columns, dtype: dtypeOf, read });
  }
  return { matrices, parts };
}

/** The scales of blocks; with double quantization they are 8-bit indices into a map themselves. */
function absmaxOf(source: WeightSource, weight: string, state: QuantState): Float32Array {
  const nested = `${weight}.nested_absmax`;
  if (!source.tensors.has(nested)) return source.readF32(`${weight}.absmax`);
  const indices = source.readRows(`${weight}.absmax`);
  const map = source.readF32(`${weight}.nested_quant_map`);
  const outer = source.readF32(nested);
  const size = state.nested_blocksize ?? 256;
  const offset = state.nested_offset ?? 0;
  return Float32Array.from(
    indices,
    (index, i) => map[index]! * outer[Math.floor(i / size)]! + offset,
  );
}
