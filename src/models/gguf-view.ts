/**
 * A Hugging Face model as the GGUF file that llama.cpp's converter would make of it: tensors by GGUF's names, rows of q and k in the order that its rotation
 * wants, norms as what is multiplied, and the metadata. Of Llama, Qwen2, Qwen3, Gemma 3, GLM and GLM-4; others are refused by name.
 */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import type { RopeSpec } from '../graph/ir.ts';
import { viewBytes } from '../platform/view-bytes.ts';
import type { WeightSource, WeightTensor } from '../weights/contract.ts';
import { inNaturalOrder } from '../weights/natural-order.ts';
import { UnsupportedModelError } from './errors.ts';
import type { ModelConfig } from './model-config.ts';
import { ggufArchitectureName, ggufTensorName } from './registry.ts';

/** Metadata as a GGUF writer takes them. */
export type ModelMetadata = Map<
  string,
  string | number | readonly boolean[] | { type: 'f32'; value: number }
>;

const ROPE_FACTORS = 'rope_freqs.weight';
const CONVERTIBLE = ['llama', 'qwen2', 'qwen3', 'gemma3', 'glm', 'glm4'];
/** Of these, whose q, k and v may have biases. */
const BIASED = ['qwen2', 'glm', 'glm4'];

interface Viewed {
  /** Canonical name. */
  readonly canonical: string;
  /** Heads whose rows are brought from halves to pairs; 0 for rows that stay in order. */
  readonly numHeads: number;
  /** Added to every value: a norm that multiplies by 1 + w is stored as that in GGUF. */
  readonly offset: number;
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
   * @param rowOrder `stored` leaves the rows of q and k as they are, for who compares matrices with the model's own
   * @throws {UnsupportedModelError} for what GGUF files of these architectures cannot say
   */
  constructor(
    model: {
      readonly path: string;
      readonly config: ModelConfig;
      readonly weights: WeightSource;
    },
    rowOrder: 'gguf' | 'stored' = 'gguf',
  ) {
    const { config } = model;
    const weights = inNaturalOrder(model.weights);
    this.path = model.path;
    this.files = weights.files;
    this.sizeBytes = weights.sizeBytes;
    this.#source = weights;
    refuseUnsupported(config, model.path);
    const rope = config.architecture === 'gemma3' ? gemmaRope(model) : plainRope(model);
    this.#ropeFactors = rope.factors;
    this.entries = new Map([
      ...entriesOf(config, path.basename(path.resolve(model.path))),
      ...rope.entries,
    ]);
    const tensors = new Map<string, WeightTensor>();
    for (const { outliers: _, ...tensor } of weights.tensors.values()) {
      if (tensor.isOutliers) continue;
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
      const numHeads = config.architecture === 'llama' && rowOrder === 'gguf' ? heads : 0;
      const offset = isVector && /norm\.weight$/.test(name) ? config.normWeightOffset : 0;
      this.#viewed.set(name, { canonical: tensor.name, numHeads, offset });
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
      return taken(viewBytes(values), into);
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
    const { canonical, numHeads, offset } = this.#viewedAs(name);
    const values = this.#source.readF32(canonical);
    if (offset !== 0) return values.map((value) => value + offset);
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
    return this.#viewed.get(name) ?? { canonical: name, numHeads: 0, offset: 0 };
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

interface RopeMetadata {
  /** Of `rope_freqs.weight`; null where there is none. */
  readonly factors: Float32Array | null;
  readonly entries: ModelMetadata;
}

interface RopeFields {
  readonly rope_theta?: number;
  readonly rope_local_base_freq?: number;
  readonly rope_parameters?: {
    readonly rope_theta?: number;
    readonly full_attention?: { readonly rope_theta?: number };
    readonly sliding_attention?: { readonly rope_theta?: number };
  };
}

function ropeFields(folder: string): RopeFields {
  const json = JSON.parse(readFileSync(path.join(folder, 'config.json'), 'utf8')) as RopeFields & {
    text_config?: RopeFields;
  };
  return json.text_config ?? json;
}

interface ViewedModel {
  readonly path: string;
  readonly config: ModelConfig;
}

/** Frequencies of plain rotation, divided by what a model has: one factor for each pair. */
function factorsOf({ rotaryDim, frequencies }: RopeSpec, theta: number): Float32Array {
  return Float32Array.from(
    frequencies,
    (frequency, j) => theta ** ((-2 * j) / rotaryDim) / frequency,
  );
}

const areAll = (factors: Float32Array, value: number): boolean =>
  factors.every((factor) => Math.abs(factor / value - 1) < 1e-6);

function plainRope({ path: source, config }: ViewedModel): RopeMetadata {
  const fields = ropeFields(source);
  const theta = fields.rope_parameters?.rope_theta ?? fields.rope_theta ?? 10_000;
  const { rope } = config.layers[0]!;
  const factors = factorsOf(rope, theta);
  const isPlain = areAll(factors, 1);
  if (rope.magnitude !== 1 || (!isPlain && config.architecture !== 'llama')) {
    throw new UnsupportedModelError(
      `${source}: its scaling of rotations cannot be converted to GGUF`,
    );
  }
  return { factors: isPlain ? null : factors, entries: freqBase(config, theta) };
}

/** Layers that see everything have a theta and a linear scaling, those that slide a theta of their own. */
function gemmaRope({ path: source, config }: ViewedModel): RopeMetadata {
  const { rope_parameters: parameters, ...fields } = ropeFields(source);
  const theta = parameters?.full_attention?.rope_theta ?? fields.rope_theta ?? 1_000_000;
  const slidingTheta =
    parameters?.sliding_attention?.rope_theta ?? fields.rope_local_base_freq ?? 10_000;
  const full = config.layers.find(({ window }) => window === null);
  const scaling = full === undefined ? 1 : factorsOf(full.rope, theta)[0]!;
  const isSaid = config.layers.every(({ window, rope }) =>
    window === null
      ? areAll(factorsOf(rope, theta), scaling)
      : areAll(factorsOf(rope, slidingTheta), 1),
  );
  if (!isSaid) {
    throw new UnsupportedModelError(
      `${source}: its scaling of rotations cannot be converted to GGUF`,
    );
  }
  const { architecture, layers } = config;
  const entries = freqBase(config, theta);
  entries.set(`${architecture}.rope.freq_base_swa`, { type: 'f32', value: slidingTheta });
  if (scaling !== 1) {
    entries.set(`${architecture}.rope.scaling.type`, 'linear');
    entries.set(`${architecture}.rope.scaling.factor`, { type: 'f32', value: scaling });
  }
  const window = layers.find((layer) => layer.window !== null)?.window;
  if (window != null) entries.set(`${architecture}.attention.sliding_window`, window);
  const isUsual = layers.every((layer, i) => (layer.window === null) === ((i + 1) % 6 === 0));
  if (!isUsual) {
    const slides = layers.map((layer) => layer.window !== null);
    entries.set(`${architecture}.attention.sliding_window_pattern`, slides);
  }
  return { factors: null, entries };
}

function freqBase({ architecture }: ModelConfig, theta: number): ModelMetadata {
  const key = `${ggufArchitectureName(architecture)}.rope.freq_base`;
  return new Map([[key, { type: 'f32', value: theta }]]);
}

function refuseUnsupported(config: ModelConfig, source: string): void {
  const { architecture, biases, layers } = config;
  const refuse = (what: string): never => {
    throw new UnsupportedModelError(`${source}: ${what} cannot be converted to GGUF`);
  };
  if (!CONVERTIBLE.includes(architecture)) {
    refuse(`architecture ${architecture} (${CONVERTIBLE.join(', ')} can)`);
  }
  if (biases.output || biases.mlp || (biases.qkv && !BIASED.includes(architecture))) {
    refuse(`a ${architecture} model with these biases`);
  }
  const isGemma = architecture === 'gemma3';
  if (!isGemma && layers.some(({ window }) => window !== null)) {
    refuse('a model with sliding windows');
  }
  if (isGemma && Math.abs(config.attentionScale * Math.sqrt(config.headDim) - 1) > 1e-6) {
    refuse(`an attention scale of ${config.attentionScale} at head dimension ${config.headDim}`);
  }
  if (config.logitSoftcap !== null) refuse('a model with a cap on its logits');
}

function entriesOf(config: ModelConfig, name: string): ModelMetadata {
  const { headDim } = config;
  const architecture = ggufArchitectureName(config.architecture);
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
    vocab_size: config.vocabSize,
  };
  for (const [key, value] of Object.entries(own)) entries.set(`${architecture}.${key}`, value);
  return entries;
}
