/**
 * Tensor names of files → canonical names (those of transformers' text models: `model.layers.3.mlp.down_proj.weight`).
 * Knows names only; shapes and values are checked where they are used.
 */

/** Whole GGUF names that are not part of a layer. */
const GGUF_TOP: Readonly<Record<string, string>> = {
  'token_embd.weight': 'model.embed_tokens.weight',
  'output_norm.weight': 'model.norm.weight',
  'output.weight': 'lm_head.weight',
};

/** Parts of `blk.N.PART.weight`, common to all architectures; each may state others. */
const GGUF_PARTS: Readonly<Record<string, string>> = {
  attn_norm: 'input_layernorm',
  attn_q: 'self_attn.q_proj',
  attn_k: 'self_attn.k_proj',
  attn_v: 'self_attn.v_proj',
  attn_qkv: 'self_attn.qkv_proj',
  attn_output: 'self_attn.o_proj',
  attn_q_norm: 'self_attn.q_norm',
  attn_k_norm: 'self_attn.k_norm',
  ffn_norm: 'post_attention_layernorm',
  ffn_gate: 'mlp.gate_proj',
  ffn_up: 'mlp.up_proj',
  ffn_down: 'mlp.down_proj',
};

/**
 * @param ownParts parts that this architecture names differently
 * @returns null for tensors that are no part of the text model (`rope_freqs.weight`, ...)
 */
export function canonicalFromGguf(
  name: string,
  ownParts: Readonly<Record<string, string>> = {},
): string | null {
  if (Object.hasOwn(GGUF_TOP, name)) return GGUF_TOP[name]!;
  const match = /^blk\.(\d+)\.(\w+)\.(weight|bias)$/.exec(name);
  if (match === null) return null;
  const [, layer, part, kind] = match as unknown as [string, string, string, string];
  const parts = { ...GGUF_PARTS, ...ownParts };
  return Object.hasOwn(parts, part) ? `model.layers.${layer}.${parts[part]}.${kind}` : null;
}

/** The other way round. @returns null for a name that GGUF has no place for */
export function ggufFromCanonical(
  name: string,
  ownParts: Readonly<Record<string, string>> = {},
): string | null {
  for (const [gguf, canonical] of Object.entries(GGUF_TOP)) if (canonical === name) return gguf;
  const match = /^model\.layers\.(\d+)\.(.+)\.(weight|bias)$/.exec(name);
  if (match === null) return null;
  const [, layer, module, kind] = match as unknown as [string, string, string, string];
  const parts = Object.entries({ ...GGUF_PARTS, ...ownParts });
  const part = parts.find(([, canonical]) => canonical === module)?.[0];
  return part === undefined ? null : `blk.${layer}.${part}.${kind}`;
}

/** Where the text model of a model with further parts hangs; first match wins. */
const HF_PREFIXES: readonly (readonly [from: string, to: string])[] = [
  ['model.language_model.lm_head.', 'lm_head.'],
  ['model.language_model.', 'model.'],
  ['language_model.lm_head.', 'lm_head.'],
  ['language_model.model.', 'model.'],
];

/** Parts of models that are no text model, and tables that older files carry along. */
const HF_FOREIGN =
  /^(model\.)?(visual|vision_tower|vision_model|multi_modal_projector|audio_tower)\.|rotary_emb\.inv_freq$/;

/** @returns null for tensors that are no part of the text model */
export function canonicalFromHf(name: string): string | null {
  if (HF_FOREIGN.test(name)) return null;
  for (const [from, to] of HF_PREFIXES) {
    if (name.startsWith(from)) return to + name.slice(from.length);
  }
  return name;
}
