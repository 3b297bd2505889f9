/**
 * Random models in GGUF, Llama's and GLM-4-0414's, with the tensor types that llama.cpp's own quantizer gives for Q4_0: token_embd and all matrices q4_0, output q6_K.
 * Speed depends on shapes and types alone. Knows names and shapes, not how blocks are filled.
 */
import type { GgufEntry } from '../../src/weights/gguf-header.ts';
import { type TensorToWrite, writeGguf } from '../../src/weights/gguf-writer.ts';
import { plainTokenizer } from './plain-tokenizer.ts';
import { type RandomDType, RandomWords, randomBlocks } from './random-blocks.ts';

export interface ModelShape {
  readonly name: string;
  readonly architecture: 'llama' | 'glm4';
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  /** Values of each head that are rotated. */
  readonly rotaryDim: number;
  readonly vocabSize: number;
  readonly maxPositionEmbeddings: number;
  readonly ropeTheta: number;
  readonly rmsNormEps: number;
}

/** TinyLlama-1.1B's shape. */
export const SHAPE_1B: ModelShape = {
  name: 'random-1.1b',
  architecture: 'llama',
  hiddenSize: 2048,
  intermediateSize: 5632,
  numLayers: 22,
  numHeads: 32,
  numKvHeads: 4,
  headDim: 64,
  rotaryDim: 64,
  vocabSize: 32000,
  maxPositionEmbeddings: 2048,
  ropeTheta: 10000,
  rmsNormEps: 1e-5,
};

/** The shape of GLM-4-9B-0414, and of the text part of GLM-4.1V-9B. */
export const SHAPE_GLM4_9B: ModelShape = {
  name: 'random-glm4-9b',
  architecture: 'glm4',
  hiddenSize: 4096,
  intermediateSize: 13_696,
  numLayers: 40,
  numHeads: 32,
  numKvHeads: 2,
  headDim: 128,
  rotaryDim: 64,
  vocabSize: 151_552,
  maxPositionEmbeddings: 32_768,
  ropeTheta: 10000,
  rmsNormEps: 1e-5,
};

/** Large enough for a quick check of both engines, small enough to be made in a test. */
export const SHAPE_TINY: ModelShape = {
  ...SHAPE_1B,
  name: 'random-tiny',
  hiddenSize: 256,
  intermediateSize: 512,
  numLayers: 2,
  numHeads: 4,
  numKvHeads: 2,
  vocabSize: 1024,
};

/** The same for GLM-4. */
export const SHAPE_GLM4_TINY: ModelShape = {
  ...SHAPE_GLM4_9B,
  name: 'random-glm4-tiny',
  hiddenSize: 256,
  intermediateSize: 512,
  numLayers: 2,
  numHeads: 4,
  vocabSize: 1024,
};

/** Standard deviation of the weights; with unit norms, activations of a 22-layer model stay within a few hundred. */
const DEVIATION = 0.02;
/** llama.cpp's number of the file type "mostly Q4_0". */
const FILE_TYPE_Q4_0 = 2;

/**
 * Writes the model; the same shape and seed give the same file.
 * @returns its size in bytes
 */
export async function writeRandomModel(path: string, shape: ModelShape, seed = 1): Promise<number> {
  return await writeGguf(path, {
    metadata: metadataOf(shape),
    tensors: tensorsOf(shape, new RandomWords(seed)),
  });
}

function metadataOf(shape: ModelShape): [string, GgufEntry][] {
  const u32 = (value: number): GgufEntry => ({ type: 'u32', value });
  const f32 = (value: number): GgufEntry => ({ type: 'f32', value });
  const string = (value: string): GgufEntry => ({ type: 'string', value });
  return [
    ['general.architecture', string(shape.architecture)],
    ['general.name', string(shape.name)],
    ['general.file_type', u32(FILE_TYPE_Q4_0)],
    ['general.quantization_version', u32(2)],
    [`${shape.architecture}.vocab_size`, u32(shape.vocabSize)],
    [`${shape.architecture}.context_length`, u32(shape.maxPositionEmbeddings)],
    [`${shape.architecture}.embedding_length`, u32(shape.hiddenSize)],
    [`${shape.architecture}.block_count`, u32(shape.numLayers)],
    [`${shape.architecture}.feed_forward_length`, u32(shape.intermediateSize)],
    [`${shape.architecture}.attention.head_count`, u32(shape.numHeads)],
    [`${shape.architecture}.attention.head_count_kv`, u32(shape.numKvHeads)],
    [`${shape.architecture}.attention.key_length`, u32(shape.headDim)],
    [`${shape.architecture}.attention.value_length`, u32(shape.headDim)],
    [`${shape.architecture}.attention.layer_norm_rms_epsilon`, f32(shape.rmsNormEps)],
    [`${shape.architecture}.rope.dimension_count`, u32(shape.rotaryDim)],
    [`${shape.architecture}.rope.freq_base`, f32(shape.ropeTheta)],
    ...plainTokenizer(shape.vocabSize),
  ];
}

function tensorsOf(shape: ModelShape, random: RandomWords): TensorToWrite[] {
  const { hiddenSize, intermediateSize, vocabSize } = shape;
  const qSize = shape.numHeads * shape.headDim;
  const kvSize = shape.numKvHeads * shape.headDim;
  const matrix = (name: string, rows: number, columns: number, dtype: RandomDType = 'q4_0') => ({
    name: `${name}.weight`,
    dtype,
    shape: [rows, columns],
    data: () => randomBlocks(dtype, rows * columns, DEVIATION, random),
  });
  const norm = (name: string): TensorToWrite => ({
    name: `${name}.weight`,
    dtype: 'f32',
    shape: [hiddenSize],
    data: new Uint8Array(new Float32Array(hiddenSize).fill(1).buffer),
  });
  const attention = (i: number) => [
    norm(`blk.${i}.attn_norm`),
    matrix(`blk.${i}.attn_q`, qSize, hiddenSize),
    matrix(`blk.${i}.attn_k`, kvSize, hiddenSize),
    matrix(`blk.${i}.attn_v`, kvSize, hiddenSize),
    matrix(`blk.${i}.attn_output`, hiddenSize, qSize),
  ];
  const mlp = {
    llama: (i: number) => [
      norm(`blk.${i}.ffn_norm`),
      matrix(`blk.${i}.ffn_gate`, intermediateSize, hiddenSize),
      matrix(`blk.${i}.ffn_up`, intermediateSize, hiddenSize),
      matrix(`blk.${i}.ffn_down`, hiddenSize, intermediateSize),
    ],
    glm4: (i: number) => [
      norm(`blk.${i}.post_attention_norm`),
      norm(`blk.${i}.ffn_norm`),
      matrix(`blk.${i}.ffn_up`, 2 * intermediateSize, hiddenSize),
      matrix(`blk.${i}.ffn_down`, hiddenSize, intermediateSize),
      norm(`blk.${i}.post_ffw_norm`),
    ],
  }[shape.architecture];
  const layers = Array.from({ length: shape.numLayers }, (_, i) => [...attention(i), ...mlp(i)]);
  return [
    matrix('token_embd', vocabSize, hiddenSize),
    ...layers.flat(),
    norm('output_norm'),
    matrix('output', vocabSize, hiddenSize, 'q6_k'),
  ];
}
