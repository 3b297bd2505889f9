/** Qwen3: a norm over each head of q and k, and a head dimension of its own. */
import type { Architecture } from '../architecture.ts';
import { preNormLayer } from '../decoder-layer.ts';
import { qwenLayerType } from './qwen-layer-type.ts';

export const qwen3: Architecture = {
  name: 'qwen3',
  hf: {
    Qwen3ForCausalLM: {
      defaults: {
        rms_norm_eps: 1e-6,
        max_position_embeddings: 32768,
        hidden_act: 'silu',
        head_dim: 128,
      },
      ropeStyle: 'half',
      biases: (fields) => {
        const attention = fields.boolean('attention_bias', false);
        return { qkv: attention, output: attention, mlp: false };
      },
      layerType: qwenLayerType,
    },
  },
  gguf: { qwen3: { ropeStyle: () => 'half', activation: 'silu' } },
  decoderLayer: (layer, x) => preNormLayer(layer, x, { qkNorm: true }),
};
