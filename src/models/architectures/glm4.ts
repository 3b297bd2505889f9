/**
 * GLM-4-0414, and the text part of GLM-4.1V: GLM with a norm after each block as well. The image model turns positions on three axes; in text
 * they are equal, which is plain rotation.
 */
import type { Architecture } from '../architecture.ts';
import { sandwichNormLayer } from '../decoder-layer.ts';
import { defaultHeadDim } from '../model-config.ts';
import { GLM_DEFAULTS, GLM_END_TEXTS } from './glm.ts';

export const glm4: Architecture = {
  name: 'glm4',
  hf: {
    Glm4ForCausalLM: {
      defaults: GLM_DEFAULTS,
      ropeStyle: 'interleaved',
      biases: (fields) => ({
        qkv: fields.boolean('attention_bias', false),
        output: false,
        mlp: false,
      }),
    },
    Glm4vForConditionalGeneration: {
      defaults: {
        rms_norm_eps: 1e-5,
        max_position_embeddings: 32_768,
        hidden_act: 'silu',
        partial_rotary_factor: 0.5,
      },
      ropeStyle: 'interleaved',
      headDim: (fields) =>
        defaultHeadDim(
          fields.source,
          fields.size('hidden_size'),
          fields.size('num_attention_heads'),
        ),
      biases: () => ({ qkv: true, output: false, mlp: false }),
    },
  },
  gguf: {
    glm4: {
      // converters that write the sections also reorder the rotated rows of each head: evens, then odds
      ropeStyle: (fields) => (fields.has('rope.dimension_sections') ? 'half' : 'interleaved'),
      activation: 'silu',
      // agents of GLM-4.1V end with it, and what would come after breaks their clients
      endTexts: [...GLM_END_TEXTS, '</answer>'],
      tensorParts: {
        ffn_up: 'mlp.gate_up_proj',
        post_attention_norm: 'post_self_attn_layernorm',
        post_ffw_norm: 'post_mlp_layernorm',
      },
    },
  },
  decoderLayer: (layer, x) =>
    sandwichNormLayer(layer, x, {
      beforeAttention: 'input_layernorm',
      afterAttention: 'post_self_attn_layernorm',
      beforeMlp: 'post_attention_layernorm',
      afterMlp: 'post_mlp_layernorm',
    }),
};
