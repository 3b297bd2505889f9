/**
 * The graph: what a model computes for one ragged step, as immutable nodes.
 *
 * A step sees T tokens of S sequences, gives the final hidden state of R of those tokens, and logits of the first L of these. Every activation
 * is two-dimensional, `[T, R or L, width]`, row-major; heads are laid side by side inside a row (head h at columns `h * headDim`), so that merging q, k and v into
 * one matrix, or taking one of them out again, is a column range and never a copy. Ops are pure; the one exception is the store into the
 * KV cache (`ropeKvStore`), whose result value is what attention takes as its query, so that the order follows from the data.
 *
 * Knows nothing of machines, packed weight layouts, files, or requests.
 */

import type { ColumnOrder } from '../tensor/column-order.ts';

/** What only a step knows: its tokens, those whose hidden state is wanted, and those whose logits are. */
export type StepRows = 'T' | 'R' | 'L';

/** A dimension: a fixed size, or one that only a step knows. */
export type Dim = number | StepRows;

export type Shape = readonly Dim[];

/**
 * Element types of activations. `q8`: rows of blocks of 32 values, each block int8 codes with one f32 scale and the sum of its codes
 *; what `linear` takes for quantized weights in fast mode.
 */
export type ElementType = 'f32' | 'i32' | 'q8';

/** Rows [rowStart, rowEnd) of a stored tensor. */
export interface WeightPart {
  readonly tensor: string;
  readonly rowStart: number;
  readonly rowEnd: number;
  /** Row i of the part is row `rowStart + columns[i]`, in the order that this other tensor has its columns in. */
  readonly rowOrderOf?: string;
}

/**
 * A weight by name, before packing: the rows of its parts one below the other, each value then `value * scale + offset`.
 * A vector (norm weight, bias) has one row per element. `dtype` is the stored dtype when all parts agree.
 */
export interface WeightRef {
  readonly parts: readonly WeightPart[];
  readonly scale: number;
  readonly offset: number;
}

export type ActivationKind = 'silu' | 'gelu' | 'geluTanh' | 'relu' | 'tanh';

/** Rotary embedding of the first `rotaryDim` values of every head. */
export interface RopeSpec {
  /** `half`: pairs (j, j + rotaryDim/2). `interleaved`: pairs (2j, 2j+1). */
  readonly style: 'half' | 'interleaved';
  readonly rotaryDim: number;
  /** Angle per position of each pair, f64 `[rotaryDim / 2]`; every kind of scaling is folded in. */
  readonly frequencies: readonly number[];
  /** Factor on cos and sin (YaRN-like scalings); 1 for most. */
  readonly magnitude: number;
}

export interface HeadLayout {
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
}

/** Which earlier positions a query at position i sees: all j <= i, or i - window < j <= i. */
export interface CausalMask {
  readonly window: number | null;
}

/** Attributes per op. Inputs are listed behind each op; `?` marks an input that a pass adds. */
export interface OpAttributes {
  /** () → i32 [T] or [R]: token ids, positions, or the rows whose results are wanted, those with logits first. */
  input: { readonly name: 'tokenIds' | 'positions' | 'logitRows' };
  /** () → f32, a matrix [out, in] or a vector [n] */
  weight: { readonly ref: WeightRef };
  /** (weight, weight, ...) → rows of all, one below the other; folded into one `weight` before compiling. */
  concatRows: Record<never, never>;
  /** (weight) → weight * scale + offset; folded likewise. */
  affineWeight: { readonly scale: number; readonly offset: number };
  /** (table [V, H], tokenIds) → f32 [T, H], times `scale` */
  embed: { readonly scale: number };
  /** (x [T, K], weight [N, K], bias? [N], residual? [T, N]) → x · weightᵀ + bias + residual, f32 [T, N] */
  linear: { readonly bias: boolean; readonly residual: boolean };
  /**
   * (x [T, W], weight [groupSize], residual? [T, W]) → every group of `groupSize` columns divided by its root mean square, times weight, plus residual.
   * groupSize = W for a model norm, headDim for q/k norms. `output` q8 after fusion with `quantize`.
   */
  rmsNorm: {
    readonly eps: number;
    readonly groupSize: number;
    readonly residual: boolean;
    readonly output: 'f32' | 'q8';
  };
  /** (x [T, W], weight [W], bias [W]) */
  layerNorm: { readonly eps: number; readonly output: 'f32' | 'q8' };
  /** (x [T, W]) → columns [start, start + length): a view, never a copy. */
  slice: { readonly start: number; readonly length: number };
  /** (x, positions) */
  rope: { readonly rope: RopeSpec; readonly numHeads: number; readonly headDim: number };
  /** (q [T, numHeads * headDim], k [T, numKvHeads * headDim], v alike) → [T, numHeads * headDim]; pure, each sequence by itself. */
  attention: HeadLayout & {
    readonly scale: number;
    readonly mask: CausalMask;
    readonly layer: number;
  };
  /**
   * (q, k, v, positions) → rotated q. Also rotates k and stores k and v of layer `layer` into the KV cache slots of the step.
   * `rope` null: no rotation, only the store.
   */
  ropeKvStore: HeadLayout & { readonly rope: RopeSpec | null; readonly layer: number };
  /** (rotated q) → attention over the paged KV cache of `layer`. `output` q8 after fusion with `quantize`: heads of whole blocks of 32 only. */
  pagedAttention: HeadLayout & {
    readonly scale: number;
    readonly mask: CausalMask;
    readonly layer: number;
    readonly output: 'f32' | 'q8';
  };
  add: Record<never, never>;
  mul: Record<never, never>;
  scale: { readonly factor: number };
  /** (x) → cap * tanh(x / cap) */
  softcap: { readonly cap: number };
  activation: { readonly kind: ActivationKind };
  /** (gate [T, I], up [T, I]) → activation(gate) * up */
  gatedActivation: { readonly kind: ActivationKind; readonly output: 'f32' | 'q8' };
  /** (x [T, W]) → column i is column `order.columns[i]` of x: what a linear takes whose weight has its columns so. `output` q8 after fusion with `quantize`. */
  permuteColumns: { readonly order: ColumnOrder; readonly output: 'f32' | 'q8' };
  /** (x) → q8. The columns `outliers`, ascending, are 0 in it and kept beside it as they are: see `outliers`. */
  quantize: { readonly outliers: readonly number[] };
  /** (q8 of a `quantize` with outliers) → f32 [T, outliers]: the columns that it left out; a view, never a copy. */
  outliers: Record<never, never>;
  /** (x [T, W], logitRows [R]) → [R, W] */
  selectRows: Record<never, never>;
  /**
   * (x [R, W]) → [L, W]: the rows that get logits, a view. Its input is the final hidden state, which the runner shows; nothing is fused across.
   */
  firstRows: Record<never, never>;
}

export type OpName = keyof OpAttributes;

interface NodeOf<Op extends OpName> {
  readonly id: number;
  readonly op: Op;
  readonly inputs: readonly GraphNode[];
  readonly attrs: OpAttributes[Op];
  readonly shape: Shape;
  readonly type: ElementType;
  /** Where it stands in the model, for people: `layers.3.mlp.down_proj`. */
  readonly label: string;
}

/** A value of the graph: a union over all ops, so that `switch (node.op)` narrows `attrs`. */
export type GraphNode = { [Op in OpName]: NodeOf<Op> }[OpName];

export type NodeWithOp<Op extends OpName> = Extract<GraphNode, { op: Op }>;

/** One program of a model, such as `step`. `output` is the logits, f32 `[L, vocabSize]`. */
export interface Graph {
  readonly name: string;
  readonly output: GraphNode;
  /** Every node that `output` needs, inputs before users. */
  readonly nodes: readonly GraphNode[];
}
