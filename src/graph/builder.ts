/**
 * Makes graph nodes: each is checked by its op's rule and interned, so that equal nodes are one node (common subexpressions vanish on the way
 * in). Knows nothing of stages; `verify.ts` does.
 */
import type { ColumnOrder } from '../tensor/column-order.ts';
import { GraphError } from './errors.ts';
import type {
  ActivationKind,
  CausalMask,
  Graph,
  GraphNode,
  HeadLayout,
  NodeWithOp,
  OpAttributes,
  OpName,
  RopeSpec,
  Shape,
  WeightRef,
} from './ir.ts';
import { inferValueType } from './op-rules.ts';

export interface LinearInputs {
  /** f32 or q8 `[T or R, K]` */
  readonly x: GraphNode;
  /** `[N, K]` */
  readonly weight: GraphNode;
  /** `[N]` */
  readonly bias?: GraphNode | null;
  /** f32 `[T or R, N]` */
  readonly residual?: GraphNode | null;
}

export interface RmsNormInputs {
  readonly x: GraphNode;
  /** `[groupSize]` */
  readonly weight: GraphNode;
  readonly eps: number;
  readonly groupSize: number;
  readonly residual?: GraphNode | null;
  readonly output?: 'f32' | 'q8';
}

export interface AttentionInputs {
  readonly q: GraphNode;
  readonly k: GraphNode;
  readonly v: GraphNode;
}

export class GraphBuilder {
  readonly #nodes: GraphNode[] = [];
  readonly #interned = new Map<string, GraphNode>();

  input(name: OpAttributes['input']['name']): GraphNode {
    return this.node('input', [], { name }, name);
  }

  /** @param shape `[rows]` or `[rows, columns]`; rows must be what the parts of `ref` add up to */
  weight(ref: WeightRef, shape: Shape, label: string): GraphNode {
    return this.node('weight', [], { ref }, label, shape);
  }

  concatRows(weights: readonly GraphNode[], label: string): GraphNode {
    return this.node('concatRows', weights, {}, label);
  }

  affineWeight(weight: GraphNode, scale: number, offset: number, label: string): GraphNode {
    return this.node('affineWeight', [weight], { scale, offset }, label);
  }

  embed(table: GraphNode, tokenIds: GraphNode, scale: number, label: string): GraphNode {
    return this.node('embed', [table, tokenIds], { scale }, label);
  }

  linear({ x, weight, bias, residual }: LinearInputs, label: string): GraphNode {
    const inputs = [x, weight, ...(bias ? [bias] : []), ...(residual ? [residual] : [])];
    return this.node('linear', inputs, { bias: !!bias, residual: !!residual }, label);
  }

  rmsNorm(
    { x, weight, eps, groupSize, residual, output = 'f32' }: RmsNormInputs,
    label: string,
  ): GraphNode {
    const inputs = [x, weight, ...(residual ? [residual] : [])];
    return this.node('rmsNorm', inputs, { eps, groupSize, residual: !!residual, output }, label);
  }

  layerNorm(
    { x, weight, bias, eps }: { x: GraphNode; weight: GraphNode; bias: GraphNode; eps: number },
    label: string,
  ): GraphNode {
    return this.node('layerNorm', [x, weight, bias], { eps, output: 'f32' }, label);
  }

  slice(x: GraphNode, start: number, length: number, label: string): GraphNode {
    return this.node('slice', [x], { start, length }, label);
  }

  rope(
    x: GraphNode,
    positions: GraphNode,
    attrs: { rope: RopeSpec; numHeads: number; headDim: number },
    label: string,
  ): GraphNode {
    return this.node('rope', [x, positions], attrs, label);
  }

  attention(
    { q, k, v }: AttentionInputs,
    attrs: HeadLayout & { scale: number; mask: CausalMask; layer: number },
    label: string,
  ): GraphNode {
    return this.node('attention', [q, k, v], attrs, label);
  }

  ropeKvStore(
    { q, k, v, positions }: AttentionInputs & { positions: GraphNode },
    attrs: OpAttributes['ropeKvStore'],
    label: string,
  ): GraphNode {
    return this.node('ropeKvStore', [q, k, v, positions], attrs, label);
  }

  pagedAttention(q: GraphNode, attrs: OpAttributes['pagedAttention'], label: string): GraphNode {
    return this.node('pagedAttention', [q], attrs, label);
  }

  /** `b`: an activation of the same shape, or a weight vector added to every row. */
  add(a: GraphNode, b: GraphNode, label: string): GraphNode {
    return this.node('add', [a, b], {}, label);
  }

  mul(a: GraphNode, b: GraphNode, label: string): GraphNode {
    return this.node('mul', [a, b], {}, label);
  }

  scale(x: GraphNode, factor: number, label: string): GraphNode {
    return this.node('scale', [x], { factor }, label);
  }

  softcap(x: GraphNode, cap: number, label: string): GraphNode {
    return this.node('softcap', [x], { cap }, label);
  }

  activation(x: GraphNode, kind: ActivationKind, label: string): GraphNode {
    return this.node('activation', [x], { kind }, label);
  }

  gatedActivation(gate: GraphNode, up: GraphNode, kind: ActivationKind, label: string): GraphNode {
    return this.node('gatedActivation', [gate, up], { kind, output: 'f32' }, label);
  }

  permuteColumns(x: GraphNode, order: ColumnOrder, label: string): GraphNode {
    return this.node('permuteColumns', [x], { order, output: 'f32' }, label);
  }

  /** @param outliers columns that are kept aside, ascending */
  quantize(x: GraphNode, label: string, outliers: readonly number[] = []): GraphNode {
    return this.node('quantize', [x], { outliers }, label);
  }

  outliers(quantized: GraphNode, label: string): GraphNode {
    return this.node('outliers', [quantized], {}, label);
  }

  selectRows(x: GraphNode, logitRows: GraphNode, label: string): GraphNode {
    return this.node('selectRows', [x, logitRows], {}, label);
  }

  firstRows(x: GraphNode, label: string): GraphNode {
    return this.node('firstRows', [x], {}, label);
  }

  /**
   * The node for `op` on `inputs`, made if there is none yet. Of equal nodes the first label stays.
   * The methods above are the readable way in; passes that copy nodes of any op come here.
   *
   * @throws {GraphError} if the op's rule does not allow it, or an input belongs to another builder
   */
  node<Op extends OpName>(
    op: Op,
    inputs: readonly GraphNode[],
    attrs: OpAttributes[Op],
    label: string,
    statedShape?: Shape,
  ): NodeWithOp<Op> {
    const identity = { id: this.#nodes.length, op, label };
    for (const input of inputs) {
      if (this.#nodes[input.id] !== input) {
        throw new GraphError(`input "${input.label}" was made by another builder`, identity);
      }
    }
    const ids = inputs.map((input) => input.id).join(',');
    const key = `${op}(${ids})${JSON.stringify(attrs)}${statedShape?.join(',') ?? ''}`;
    const known = this.#interned.get(key);
    if (known !== undefined) return known as NodeWithOp<Op>;
    const { shape, type } = inferValueType(identity, op, inputs, attrs, statedShape);
    // One object literal cannot be typed as "the member of the union for this Op".
    const node = { ...identity, inputs, attrs, shape, type } as unknown as NodeWithOp<Op>;
    this.#nodes.push(node);
    this.#interned.set(key, node);
    return node;
  }

  /** The graph of everything that `output` needs, in the order it was made. */
  finish(name: string, output: GraphNode): Graph {
    const isNeeded = new Uint8Array(this.#nodes.length);
    isNeeded[output.id] = 1;
    for (let id = output.id; id >= 0; id--) {
      if (isNeeded[id] === 1) for (const input of this.#nodes[id]!.inputs) isNeeded[input.id] = 1;
    }
    return { name, output, nodes: this.#nodes.filter((node) => isNeeded[node.id] === 1) };
  }
}
