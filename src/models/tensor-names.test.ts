import assert from 'node:assert/strict';
import { it } from 'node:test';
import { canonicalFromGguf, canonicalFromHf } from './tensor-names.ts';

it('names GGUF tensors as transformers does', () => {
  const names = {
    'token_embd.weight': 'model.embed_tokens.weight',
    'output.weight': 'lm_head.weight',
    'blk.12.attn_q.bias': 'model.layers.12.self_attn.q_proj.bias',
    'blk.0.ffn_norm.weight': 'model.layers.0.post_attention_layernorm.weight',
  };
  for (const [gguf, canonical] of Object.entries(names)) {
    assert.equal(canonicalFromGguf(gguf), canonical);
  }
});

it("prefers an architecture's own names", () => {
  const own = { ffn_up: 'mlp.gate_up_proj', post_ffw_norm: 'post_mlp_layernorm' };
  assert.equal(
    canonicalFromGguf('blk.1.ffn_up.weight', own),
    'model.layers.1.mlp.gate_up_proj.weight',
  );
  assert.equal(
    canonicalFromGguf('blk.1.post_ffw_norm.weight', own),
    'model.layers.1.post_mlp_layernorm.weight',
  );
});

it('leaves out what is no part of the text model', () => {
  assert.equal(canonicalFromGguf('rope_freqs.weight'), null);
  assert.equal(canonicalFromGguf('blk.1.constructor.weight'), null);
  assert.equal(canonicalFromHf('model.visual.blocks.0.norm1.weight'), null);
  assert.equal(canonicalFromHf('vision_tower.vision_model.embeddings.weight'), null);
  assert.equal(canonicalFromHf('model.layers.0.self_attn.rotary_emb.inv_freq'), null);
});

it('finds the text model inside one with further parts', () => {
  const inner = 'model.layers.0.mlp.down_proj.weight';
  assert.equal(canonicalFromHf('model.language_model.layers.0.mlp.down_proj.weight'), inner);
  assert.equal(canonicalFromHf('language_model.model.layers.0.mlp.down_proj.weight'), inner);
  assert.equal(canonicalFromHf('language_model.lm_head.weight'), 'lm_head.weight');
  assert.equal(canonicalFromHf(inner), inner);
});
