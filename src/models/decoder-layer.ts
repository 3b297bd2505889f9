/**
 * The pieces that decoder layers are put together from: norm, attention block, MLP block. An architecture file says which, and in what order.
 * Tensor names are the canonical ones (transformers' own).
 */
import type { GraphBuilder } from '../graph/builder.ts';
import type { GraphNode } from '../graph/ir.ts';
import { ModelError } from './errors.ts';
import type { ModelConfig } from './model-config.ts';
import type { ModelTensors } from './model-tensors.ts';

export interface AttentionOptions {
  /** RMSNorm over each head of q and k before RoPE, weights `q_norm` and `k_norm`. */
  readonly qkNorm?: boolean;
}

export class DecoderLayer {
  readonly #builder: GraphBuilder;
  readonly #tensors: ModelTensors;
  readonly #config: ModelConfig;
  readonly #index: number;

  constructor(
    builder: GraphBuilder,
    tensors: ModelTensors,
    config: ModelConfig,
    /** Which layer, from 0. */
    index: number,
  ) {
    this.#builder = builder;
    this.#tensors = tensors;
    this.#config = config;
    this.#index = index;
  }

  /** RMSNorm with weight `name`, `[T, hiddenSize]` → the same. */
  norm(x: GraphNode, name: string): GraphNode {
    return this.#groupNorm(x, name, this.#config.hiddenSize);
  }

  add(x: GraphNode, block: GraphNode, name: string): GraphNode {
    return this.#builder.add(x, block, this.#label(name));
  }

  /** Self-attention of `self_attn`, `[T, hiddenSize]` → the same; without norm and residual around it. */
  attention(x: GraphNode, { qkNorm = false }: AttentionOptions = {}): GraphNode {
    const { numHeads, numKvHeads, headDim, hiddenSize, attentionScale, biases } = this.#config;
    const { rope, window } = this.#config.layers[this.#index]!;
    const builder = this.#builder;
    const [q, k, v] = this.#splitLinear(x, {
      fused: 'self_attn.qkv_proj',
      parts: [
        { name: 'self_attn.q_proj', size: numHeads * headDim },
        { name: 'self_attn.k_proj', size: numKvHeads * headDim },
        { name: 'self_attn.v_proj', size: numKvHeads * headDim },
      ],
      bias: biases.qkv,
    }) as [GraphNode, GraphNode, GraphNode];
    const rotated = (value: GraphNode, heads: number, name: 'q' | 'k') => {
      const normed = qkNorm ? this.#groupNorm(value, `self_attn.${name}_norm`, headDim) : value;
      const attrs = { rope, numHeads: heads, headDim };
      const label = this.#label(`self_attn.${name}_rope`);
      return builder.rope(normed, builder.input('positions'), attrs, label);
    };
    const attended = builder.attention(
      { q: rotated(q, numHeads, 'q'), k: rotated(k, numKvHeads, 'k'), v },
      {
        numHeads,
        numKvHeads,
        headDim,
        scale: attentionScale,
        mask: { window },
        layer: this.#index,
      },
      this.#label('self_attn'),
    );
    return this.#linear(attended, 'self_attn.o_proj', hiddenSize, biases.output);
  }

  /** Gated MLP, `down(activation(gate(x)) * up(x))`, `[T, hiddenSize]` → the same. */
  mlp(x: GraphNode): GraphNode {
    const { intermediateSize, hiddenSize, activation, biases } = this.#config;
    const [gate, up] = this.#splitLinear(x, {
      fused: 'mlp.gate_up_proj',
      parts: [
        { name: 'mlp.gate_proj', size: intermediateSize },
        { name: 'mlp.up_proj', size: intermediateSize },
      ],
      bias: biases.mlp,
    }) as [GraphNode, GraphNode];
    const activated = this.#builder.activation(gate, activation, this.#label(`mlp.${activation}`));
    const product = this.#builder.mul(activated, up, this.#label('mlp.gated'));
    return this.#linear(product, 'mlp.down_proj', hiddenSize, biases.mlp);
  }

  /** Several linears of one input, whose weights are stored apart or, one below the other, as the tensor `fused`. */
  #splitLinear(
    x: GraphNode,
    {
      fused,
      parts,
      bias,
    }: { fused: string; parts: readonly { name: string; size: number }[]; bias: boolean },
  ): readonly GraphNode[] {
    if (!this.#tensors.has(`${this.#tensorName(fused)}.weight`)) {
      return parts.map(({ name, size }) => this.#linear(x, name, size, bias));
    }
    const total = parts.reduce((sum, { size }) => sum + size, 0);
    let start = 0;
    return parts.map(({ name, size }) => {
      const range = { start, length: size, total };
      start += size;
      return this.#linear(x, name, range, bias, fused);
    });
  }

  #linear(
    x: GraphNode,
    name: string,
    rows: number | { start: number; length: number; total: number },
    hasBias: boolean,
    tensor: string = name,
  ): GraphNode {
    const tensorName = this.#tensorName(tensor);
    const product = this.#tensors.linear(x, `${tensorName}.weight`, rows, this.#label(name));
    if (hasBias) {
      const bias = this.#tensors.vector(`${tensorName}.bias`, rows);
      return this.#builder.add(product, bias, this.#label(`${name}.bias`));
    }
    if (this.#tensors.has(`${tensorName}.bias`)) {
      throw new ModelError(
        `tensor "${tensorName}.bias" is in the file, but the model's configuration says that this linear has no bias`,
        { tensor: `${tensorName}.bias` },
      );
    }
    return product;
  }

  #groupNorm(x: GraphNode, name: string, groupSize: number): GraphNode {
    const { normEps: eps, normWeightOffset } = this.#config;
    const stored = this.#tensors.vector(`${this.#tensorName(name)}.weight`, groupSize);
    const weight = offsetWeight(this.#builder, stored, normWeightOffset);
    return this.#builder.rmsNorm({ x, weight, eps, groupSize }, this.#label(name));
  }

  #label(name: string): string {
    return `layers.${this.#index}.${name}`;
  }

  #tensorName(name: string): string {
    return `model.layers.${this.#index}.${name}`;
  }
}

/** A norm weight as the model means it: the stored one, or 1 + it. */
export function offsetWeight(builder: GraphBuilder, stored: GraphNode, offset: number): GraphNode {
  return offset === 0 ? stored : builder.affineWeight(stored, 1, offset, stored.label);
}

/**
 * The layer of most models: x + attention(norm(x)), then x + mlp(norm(x)).
 */
export function preNormLayer(
  layer: DecoderLayer,
  x: GraphNode,
  options?: AttentionOptions,
): GraphNode {
  const attention = layer.attention(layer.norm(x, 'input_layernorm'), options);
  const attended = layer.add(x, attention, 'self_attn.residual');
  const mlp = layer.mlp(layer.norm(attended, 'post_attention_layernorm'));
  return layer.add(attended, mlp, 'mlp.residual');
}

/** Names of the four norms of a layer that has one before and one after each block. */
export interface SandwichNorms {
  readonly beforeAttention: string;
  readonly afterAttention: string;
  readonly beforeMlp: string;
  readonly afterMlp: string;
}

/** x + norm(attention(norm(x))), then x + norm(mlp(norm(x))). */
export function sandwichNormLayer(
  layer: DecoderLayer,
  x: GraphNode,
  norms: SandwichNorms,
  options?: AttentionOptions,
): GraphNode {
  const attention = layer.attention(layer.norm(x, norms.beforeAttention), options);
  const attended = layer.add(x, layer.norm(attention, norms.afterAttention), 'self_attn.residual');
  const mlp = layer.mlp(layer.norm(attended, norms.beforeMlp));
  return layer.add(attended, layer.norm(mlp, norms.afterMlp), 'mlp.residual');
}
