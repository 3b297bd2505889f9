/**
 * A Hugging Face model as the GGUF file that llama.cpp's converter would make of it: tensors by GGUF's names, rows of q and k in the order that its rotation
 * wants, and the metadata. Of Llama, Qwen2 and Qwen3; others are refused by name.
 */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import type { WeightSource, WeightTensor } from '../weights/contract.ts';
import { UnsupportedModelError } from './errors.ts';
import type { ModelConfig } from './model-config.ts';
import { ggufTensorName } from './registry.ts';

/** Metadata as a GGUF writer takes them. */
export type ModelMetadata = Map<string, string | number | { type: 'f32'; value: number }>;

const ROPE_FACTORS = 'rope_freqs.weight';
const CONVERTIBLE = ['llama', 'qwen2', 'qwen3'];

interface Viewed {
  /** Canonical name. */
  readonly canonical: string;
  /** Heads whose rows are brought from halves to pairs; 0 for rows that stay in order. */
  readonly numHeads: number;
}

export class GgufView implements WeightSource {
  readonly format = 'gguf';
  readonly path: string;
  readonly files: readonly string[];
  readonly sizeBytes: number;
  readonly tensors: ReadonlyMap<string, WeightTensor>;
  readonly metadata: WeightSource['metadata'] = new Map();
  /** What describes the model; a tokenizer's metadata are the caller's. */
  readonly entries: ModelMetadata;
  readonly #source: WeightSource;
  readonly #viewed = new Map<string, Viewed>();
  /** Frequencies of rotation: plain ones divided by these; null where they are plain. */
  readonly #ropeFactors: Float32Array | null;

  /**
   * Does not take `weights` over.
   *
   * @param model a Hugging Face model: its folder, numbers and tensors by canonical names
   * @throws {UnsupportedModelError} for what GGUF files of these architectures cannot say
   */
  constructor(model: {
    readonly path: string;
    readonly config: ModelConfig;
    readonly weights: WeightSource;
  }) {
    const { config, weights } = model;
    this.path = model.path;
    this.files = weights.files;
    this.sizeBytes = weights.sizeBytes;
    this.#source = weights;
    const theta = ropeTheta(model.path);
    this.#ropeFactors = ropeFactors(config, theta, model.path);
    refuseUnsupported(config, model.path, this.#ropeFactors !== null);
    this.entries = entriesOf(config, theta, path.basename(path.resolve(model.path)));
    const tensors = new Map<string, WeightTensor>();
    for (const tensor of weights.tensors.values()) {
      if (tensor.name === 'lm_head.weight' && config.tiedEmbeddings) continue;
      const name = ggufTensorName(config.architecture, tensor.name);
      if (name === null) {
        throw new UnsupportedModelError(
          `${model.path}: tensor "${tensor.name}" has no place in a GGUF file of a ${config.architecture} model`,
        );
      }
      const isVector = tensor.shape.length === 1;
      // llama.cpp wants vectors in f32.
      const stored = isVector ? { dtype: 'f32' as const, sizeBytes: 4 * tensor.shape[0]! } : {};
      tensors.set(name, { ...tensor, ...stored, name });
      const part = /\.self_attn\.([qk])_proj\./.exec(tensor.name)?.[1];
      const heads = part === 'q' ? config.numHeads : part === 'k' ? config.numKvHeads : 0;
      const numHeads = config.architecture === 'llama' ? heads : 0;
      this.#viewed.set(name, { canonical: tensor.name, numHeads });
    }
    if (this.#ropeFactors !== null) {
      const { length } = this.#ropeFactors;
      tensors.set(ROPE_FACTORS, {
        ...{ name: ROPE_FACTORS, dtype: 'f32', shape: [length], sizeBytes: 4 * length },
      });
    }
    this.tensors = tensors;
  }

  readRows(name: string, rowStart = 0, rowEnd?: number, into?: Uint8Array): Uint8Array {
    const tensor = this.tensors.get(name);
    if (tensor?.shape.length === 1) {
      const values = this.readF32(name);
      return taken(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), into);
    }
    const { canonical, numHeads } = this.#viewedAs(name);
    if (tensor === undefined || numHeads === 0) {
      return this.#source.readRows(canonical, rowStart, rowEnd, into);
    }
    const rows = tensor.shape[0]!;
    const end = rowEnd ?? rows;
    const bytesPerRow = tensor.sizeBytes / rows;
    const out = into ?? new Uint8Array((end - rowStart) * bytesPerRow);
    for (let row = rowStart; row < end; row++) {
      const from = pairedRow(row, rows / numHeads);
      const at = (row - rowStart) * bytesPerRow;
      this.#source.readRows(canonical, from, from + 1, out.subarray(at, at + bytesPerRow));
    }
    return out.subarray(0, (end - rowStart) * bytesPerRow);
  }

  readF32(name: string): Float32Array {
    if (name === ROPE_FACTORS && this.#ropeFactors !== null) return this.#ropeFactors.slice();
    const { canonical, numHeads } = this.#viewedAs(name);
    const values = this.#source.readF32(canonical);
    if (numHeads === 0) return values;
    const rows = this.tensors.get(name)!.shape[0]!;
    const width = values.length / rows;
    const out = new Float32Array(values.length);
    for (let row = 0; row < rows; row++) {
      const from = pairedRow(row, rows / numHeads) * width;
      out.set(values.subarray(from, from + width), row * width);
    }
    return out;
  }

  /** A name that is not here is passed on as it is: the source's error names it. */
  #viewedAs(name: string): Viewed {
    return this.#viewed.get(name) ?? { canonical: name, numHeads: 0 };
  }

  close(): void {}

  [Symbol.dispose](): void {}
}

function taken(bytes: Uint8Array, into: Uint8Array | undefined): Uint8Array {
  if (into === undefined) return bytes;
  into.set(bytes);
  return into.subarray(0, bytes.length);
}

/** Row of the halves order (j, j + headDim/2 rotate together) that stands at `row` of the pairs order (2j, 2j + 1). */
function pairedRow(row: number, headDim: number): number {
  const head = Math.floor(row / headDim);
  const inHead = row % headDim;
  return head * headDim + (inHead % 2) * (headDim / 2) + Math.floor(inHead / 2);
}

function ropeTheta(folder: string): number {
  const json = JSON.parse(readFileSync(path.join(folder, 'config.json'), 'utf8')) as {
    rope_theta?: number;
    rope_parameters?: { rope_theta?: number };
  };
  return json.rope_parameters?.rope_theta ?? json.rope_theta ?? 10_000;
}

function ropeFactors(config: ModelConfig, theta: number, source: string): Float32Array | null {
  const { rotaryDim, frequencies, magnitude } = config.layers[0]!.rope;
  const factors = Float32Array.from(
    frequencies,
    (frequency, j) => theta ** ((-2 * j) / rotaryDim) / frequency,
  );
  const isPlain = factors.every((factor) => Math.abs(factor - 1) < 1e-6);
  if (magnitude !== 1) {
    throw new UnsupportedModelError(
      `${source}: its scaling of rotations cannot be written to GGUF`,
    );
  }
  return isPlain ? null : factors;
}

function refuseUnsupported(config: ModelConfig, source: string, hasFactors: boolean): void {
  const { architecture, biases, layers } = config;
  const refuse = (what: string): never => {
    throw new UnsupportedModelError(`${source}: ${what} cannot be converted to GGUF`);
  };
  if (!CONVERTIBLE.includes(architecture)) {
    refuse(`architecture ${architecture} (${CONVERTIBLE.join(', ')} can)`);
  }
  if (biases.output || biases.mlp || (architecture !== 'qwen2' && biases.qkv)) {
    refuse(`a ${architecture} model with these biases`);
  }
  if (layers.some(({ window }) => window !== null)) refuse('a model with sliding windows');
  if (hasFactors && architecture !== 'llama') refuse(`scaled rotations of ${architecture}`);
}

function entriesOf(config: ModelConfig, theta: number, name: string): ModelMetadata {
  const { architecture, headDim } = config;
  const entries: ModelMetadata = new Map<string, never>();
  entries.set('general.architecture', architecture);
  entries.set('general.type', 'model');
  entries.set('general.name', name);
  const own = {
    block_count: config.numLayers,
    context_length: config.maxPositionEmbeddings,
    embedding_length: config.hiddenSize,
    feed_forward_length: config.intermediateSize,
    'attention.head_count': config.numHeads,
    'attention.head_count_kv': config.numKvHeads,
    'attention.key_length': headDim,
    'attention.value_length': headDim,
    'attention.layer_norm_rms_epsilon': { type: 'f32' as const, value: config.normEps },
    'rope.dimension_count': config.layers[0]!.rope.rotaryDim,
    'rope.freq_base': { type: 'f32' as const, value: theta },
    vocab_size: config.vocabSize,
  };
  for (const [key, value] of Object.entries(own)) entries.set(`${architecture}.${key}`, value);
  return entries;
}
