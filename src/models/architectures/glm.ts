/** GLM-4-9b and GLM-Edge: interleaved rotation of a part of each head, gate and up in one stored matrix. GGUF calls it `chatglm`. */
import type { Architecture } from '../architecture.ts';
import { preNormLayer } from '../decoder-layer.ts';

/** Class defaults that glm and glm4 share. */
export const GLM_DEFAULTS = {
  rms_norm_eps: 1.5625e-7,
  max_position_embeddings: 131_072,
  hidden_act: 'silu',
  head_dim: 128,
  partial_rotary_factor: 0.5,
};

/** The model ends its turn by opening the next speaker's. */
export const GLM_END_TEXTS = ['<|user|>', '<|observation|>'];

export const glm: Architecture = {
  name: 'glm',
  hf: {
    GlmForCausalLM: {
      defaults: GLM_DEFAULTS,
      ropeStyle: 'interleaved',
      biases: (fields) => ({
        qkv: fields.boolean('attention_bias', false),
        output: false,
        mlp: false,
      }),
    },
  },
  gguf: {
    chatglm: {
      ropeStyle: () => 'interleaved',
      activation: 'silu',
      tensorParts: { ffn_up: 'mlp.gate_up_proj' },
      endTexts: GLM_END_TEXTS,
    },
  },
  decoderLayer: preNormLayer,
};
