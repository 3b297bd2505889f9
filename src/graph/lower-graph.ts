/** The pipeline: which passes there are, and in which order they make a model's graph what compilers accept. */
import type { Graph } from './ir.ts';
import { constantFolding } from './passes/constant-folding.ts';
import { deadCode } from './passes/dead-code.ts';
import { fuseBias } from './passes/fuse-bias.ts';
import { fuseGatedActivation } from './passes/fuse-gated-activation.ts';
import { fuseQuantize } from './passes/fuse-quantize.ts';
import { fuseResidual } from './passes/fuse-residual.ts';
import { insertQuantize } from './passes/insert-quantize.ts';
import { lowerAttention } from './passes/lower-attention.ts';
import { mergeLinears } from './passes/merge-linears.ts';
import { orderRows } from './passes/order-rows.ts';
import { selectRowsEarly } from './passes/select-rows-early.ts';
import { splitOutliers } from './passes/split-outliers.ts';
import type { WeightDirectory } from './weight-ref.ts';

/** Each pass is correct alone; the order is what lets each find most. */
export const GRAPH_PASSES = [
  deadCode,
  orderRows, // before merging: linears that are merged have no rows of their own
  fuseBias, // before merging: the merged linear takes all biases
  mergeLinears,
  constantFolding, // after merging: folds the joined weights
  fuseGatedActivation,
  selectRowsEarly,
  fuseResidual,
  lowerAttention,
  splitOutliers, // before int8 activations without outliers
  insertQuantize, // after all that changes who takes what
  fuseQuantize,
] as const;

export type PassName = (typeof GRAPH_PASSES)[number]['name'];

/** Without these a graph runs on the reference target only. */
export const REQUIRED_PASSES: readonly PassName[] = ['constant-folding', 'lower-attention'];

export interface LowerOptions {
  /** Dtypes and shapes of the stored tensors that the graph refers to. */
  readonly directory: WeightDirectory;
  /** Stored dtypes whose linears shall take int8 activations (fast precision); none by default, which is f32 precision. */
  readonly q8Dtypes?: Iterable<string>;
  /** Passes to leave out, to measure what each is worth. */
  readonly disabledPasses?: readonly PassName[];
}

export interface LoweredGraph {
  readonly graph: Graph;
  /** The graph after each pass that ran, in order; for printing and for verifying. */
  readonly stages: readonly { readonly name: PassName; readonly graph: Graph }[];
}

export function lowerGraph(graph: Graph, options: LowerOptions): LoweredGraph {
  const { directory, q8Dtypes = [], disabledPasses = [] } = options;
  const context = { directory, q8Dtypes: new Set(q8Dtypes) };
  const stages: { name: PassName; graph: Graph }[] = [];
  let current = graph;
  for (const pass of GRAPH_PASSES) {
    if (disabledPasses.includes(pass.name)) continue;
    current = pass.run(current, context);
    stages.push({ name: pass.name, graph: current });
  }
  return { graph: current, stages };
}
