/** Phi-3 and Phi-4-mini: q, k and v in one stored matrix, gate and up in another; some rotate a part of each head only. */
import { type Architecture, NO_BIASES } from '../architecture.ts';
import { preNormLayer } from '../decoder-layer.ts';

export const phi3: Architecture = {
  name: 'phi3',
  hf: {
    Phi3ForCausalLM: {
      defaults: { rms_norm_eps: 1e-5, max_position_embeddings: 4096, hidden_act: 'silu' },
      ropeStyle: 'half',
      biases: () => NO_BIASES,
      layerType: (fields) =>
        fields.has('sliding_window') ? 'sliding_attention' : 'full_attention',
    },
  },
  gguf: {
    phi3: {
      ropeStyle: () => 'half',
      activation: 'silu',
      tensorParts: { ffn_up: 'mlp.gate_up_proj' },
      layerType: (fields) =>
        fields.has('attention.sliding_window') ? 'sliding_attention' : 'full_attention',
    },
  },
  decoderLayer: preNormLayer,
};
