/**
 * Gemma 3, text part: norms before and after each block that multiply by 1 + w, embeddings times sqrt(hiddenSize), and five sliding layers with a
 * theta of their own to each one that sees everything.
 */
import type { Architecture, HfReading } from '../architecture.ts';
import { sandwichNormLayer } from '../decoder-layer.ts';
import type { LayerType } from '../hf-rope.ts';

const DEFAULT_PATTERN = 6;
const SLIDING_THETA = 10_000;

/** Every `pattern`-th layer sees everything, the others slide. */
function layerTypeOf(index: number, pattern: number): LayerType {
  return (index + 1) % pattern === 0 ? 'full_attention' : 'sliding_attention';
}

const textReading: HfReading = {
  // the published files of the larger models leave most of these out
  defaults: {
    vocab_size: 262_208,
    num_attention_heads: 8,
    num_key_value_heads: 4,
    head_dim: 256,
    max_position_embeddings: 131_072,
    rms_norm_eps: 1e-6,
    hidden_activation: 'gelu_pytorch_tanh',
    query_pre_attn_scalar: 256,
    sliding_window: 4096,
    rope_theta: 1_000_000,
    rope_local_base_freq: SLIDING_THETA,
    tie_word_embeddings: true,
  },
  ropeStyle: 'half',
  biases: (fields) => {
    const attention = fields.boolean('attention_bias', false);
    return { qkv: attention, output: attention, mlp: false };
  },
  layerType: (fields, index) =>
    layerTypeOf(
      index,
      fields.size(
        'sliding_window_pattern',
        fields.size('_sliding_window_pattern', DEFAULT_PATTERN),
      ),
    ),
  attentionScale: (fields) => fields.positive('query_pre_attn_scalar') ** -0.5,
  embeddingScale: Math.sqrt,
  normWeightOffset: 1,
};

/** Layers of the 27B model, the only one whose scale is not that of its head dimension; GGUF metadata does not say. */
const NUM_LAYERS_27B = 62;

export const gemma3: Architecture = {
  name: 'gemma3',
  hf: { Gemma3ForCausalLM: textReading, Gemma3ForConditionalGeneration: textReading },
  gguf: {
    gemma3: {
      ropeStyle: () => 'half',
      activation: 'geluTanh',
      tensorParts: {
        post_attention_norm: 'post_attention_layernorm',
        ffn_norm: 'pre_feedforward_layernorm',
        post_ffw_norm: 'post_feedforward_layernorm',
      },
      layerType: (fields, index) => {
        const key = 'attention.sliding_window_pattern';
        // a flag per layer, or every how many layers one sees everything
        const isSliding = fields.flags(key)?.[index];
        if (isSliding !== undefined) return isSliding ? 'sliding_attention' : 'full_attention';
        return layerTypeOf(index, fields.size(key, DEFAULT_PATTERN));
      },
      slidingRopeTheta: SLIDING_THETA,
      attentionScale: ({ numLayers, hiddenSize, numHeads, headDim }) =>
        (numLayers === NUM_LAYERS_27B ? hiddenSize / numHeads : headDim) ** -0.5,
      embeddingScale: Math.sqrt,
    },
  },
  decoderLayer: (layer, x) =>
    sandwichNormLayer(
      layer,
      x,
      {
        beforeAttention: 'input_layernorm',
        afterAttention: 'post_attention_layernorm',
        beforeMlp: 'pre_feedforward_layernorm',
        afterMlp: 'post_feedforward_layernorm',
      },
      { qkNorm: true },
    ),
};
