/**
 * Random models as Hugging Face folders, Llama's, in f16, with a tokenizer of bytes: what quantizing costs, and what other toolkits read, depends on shapes alone.
 * Knows names and shapes. Same shape, same bytes.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeFolderAtomic } from '../../src/platform/atomic-file.ts';
import { writeSafetensors } from '../../src/weights/safetensors-writer.ts';
import type { TensorToWrite } from '../../src/weights/tensor-data.ts';
import { RandomWords } from './random-blocks.ts';
import type { ModelShape } from './random-model.ts';

const CHUNK_WORDS = 1 << 20;
/** Of two f16 numbers in a word: sign, mantissa and the two lowest bits of the exponent are random, so that magnitudes are 2^-7 to 2^-3. */
const RANDOM_BITS = 0x8fff_8fff;
const EXPONENTS = 0x2000_2000;
/** 1 as f16. */
const ONE = 0x3c00;

/** @param folder must not exist */
export async function writeRandomHfModel(folder: string, shape: ModelShape): Promise<void> {
  const tensors = tensorsOf(shape, new RandomWords(1));
  await writeFolderAtomic(folder, async (path) => {
    await writeSafetensors(join(path, 'model.safetensors'), { tensors });
    const json = (name: string, content: object) =>
      writeFileSync(join(path, name), `${JSON.stringify(content, null, 2)}\n`);
    json('config.json', configOf(shape));
    json('hasten.json', { tokenizer: 'bytes' });
  });
}

function configOf(shape: ModelShape): object {
  return {
    ...{ architectures: ['LlamaForCausalLM'], model_type: 'llama', dtype: 'float16' },
    ...{ hidden_size: shape.hiddenSize, intermediate_size: shape.intermediateSize },
    ...{ num_hidden_layers: shape.numLayers, num_attention_heads: shape.numHeads },
    ...{ num_key_value_heads: shape.numKvHeads, head_dim: shape.headDim },
    ...{ vocab_size: shape.vocabSize, max_position_embeddings: shape.maxPositionEmbeddings },
    ...{ rms_norm_eps: shape.rmsNormEps, rope_theta: shape.ropeTheta, hidden_act: 'silu' },
    ...{ tie_word_embeddings: false, bos_token_id: 1, eos_token_id: 2 },
  };
}

function tensorsOf(shape: ModelShape, random: RandomWords): TensorToWrite[] {
  const { hiddenSize, intermediateSize, vocabSize, headDim } = shape;
  const queries = shape.numHeads * headDim;
  const keys = shape.numKvHeads * headDim;
  const matrix = (name: string, rows: number, columns: number): TensorToWrite => ({
    ...{ name: `${name}.weight`, dtype: 'f16', shape: [rows, columns] },
    data: () => randomHalves(rows * columns, random),
  });
  const norm = (name: string): TensorToWrite => {
    const data = new Uint8Array(new Uint16Array(hiddenSize).fill(ONE).buffer);
    return { name: `${name}.weight`, dtype: 'f16', shape: [hiddenSize], data };
  };
  const layers = Array.from({ length: shape.numLayers }, (_, i) => {
    const at = (name: string): string => `model.layers.${i}.${name}`;
    return [
      norm(at('input_layernorm')),
      matrix(at('self_attn.q_proj'), queries, hiddenSize),
      matrix(at('self_attn.k_proj'), keys, hiddenSize),
      matrix(at('self_attn.v_proj'), keys, hiddenSize),
      matrix(at('self_attn.o_proj'), hiddenSize, queries),
      norm(at('post_attention_layernorm')),
      matrix(at('mlp.gate_proj'), intermediateSize, hiddenSize),
      matrix(at('mlp.up_proj'), intermediateSize, hiddenSize),
      matrix(at('mlp.down_proj'), hiddenSize, intermediateSize),
    ];
  });
  return [
    matrix('model.embed_tokens', vocabSize, hiddenSize),
    ...layers.flat(),
    norm('model.norm'),
    matrix('lm_head', vocabSize, hiddenSize),
  ];
}

/** @param count of f16 numbers, even */
function* randomHalves(count: number, random: RandomWords): Generator<Uint8Array> {
  for (let left = count / 2; left > 0; left -= CHUNK_WORDS) {
    const words = new Uint32Array(Math.min(left, CHUNK_WORDS));
    random.fill(words);
    for (let i = 0; i < words.length; i++) words[i] = (words[i]! & RANDOM_BITS) | EXPONENTS;
    yield new Uint8Array(words.buffer);
  }
}
