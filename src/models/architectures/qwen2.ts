/** Qwen2 and Qwen2.5: Llama with biases on q, k and v. */
import type { Architecture } from '../architecture.ts';
import { preNormLayer } from '../decoder-layer.ts';
import { qwenLayerType } from './qwen-layer-type.ts';

export const qwen2: Architecture = {
  name: 'qwen2',
  hf: {
    Qwen2ForCausalLM: {
      defaults: { rms_norm_eps: 1e-6, max_position_embeddings: 32768, hidden_act: 'silu' },
      ropeStyle: 'half',
      biases: () => ({ qkv: true, output: false, mlp: false }),
      layerType: qwenLayerType,
    },
  },
  gguf: { qwen2: { ropeStyle: () => 'half', activation: 'silu' } },
  decoderLayer: preNormLayer,
};
