/** Llama 1 to 3, SmolLM2, and Mistral, which is Llama with a sliding window. */
import { type Architecture, NO_BIASES } from '../architecture.ts';
import { preNormLayer } from '../decoder-layer.ts';

export const llama: Architecture = {
  name: 'llama',
  hf: {
    LlamaForCausalLM: {
      defaults: { rms_norm_eps: 1e-6, max_position_embeddings: 2048, hidden_act: 'silu' },
      ropeStyle: 'half',
      biases: (fields) => {
        const attention = fields.boolean('attention_bias', false);
        return { qkv: attention, output: attention, mlp: fields.boolean('mlp_bias', false) };
      },
    },
    MistralForCausalLM: {
      defaults: {
        rms_norm_eps: 1e-6,
        max_position_embeddings: 131072,
        hidden_act: 'silu',
        num_key_value_heads: 8,
      },
      ropeStyle: 'half',
      biases: () => NO_BIASES,
      layerType: (fields) =>
        fields.has('sliding_window') ? 'sliding_attention' : 'full_attention',
    },
  },
  gguf: {
    llama: {
      // converters permute the rows of q and k from half-split to interleaved pairs
      ropeStyle: () => 'interleaved',
      activation: 'silu',
      layerType: (fields) =>
        fields.has('attention.sliding_window') ? 'sliding_attention' : 'full_attention',
    },
  },
  decoderLayer: preNormLayer,
};
