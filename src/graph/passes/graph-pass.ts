/** What a pass is and what it may look at. */
import type { Graph } from '../ir.ts';
import type { WeightDirectory } from '../weight-ref.ts';

export interface PassContext {
  readonly directory: WeightDirectory;
  /** Stored dtypes whose linears take q8 activations; empty keeps every activation f32. */
  readonly q8Dtypes: ReadonlySet<string>;
}

/** Graph to graph, pure; correct by itself, whichever other passes run. */
export interface GraphPass<Name extends string = string> {
  readonly name: Name;
  /** One line for `hasten explain`. */
  readonly summary: string;
  run(graph: Graph, context: PassContext): Graph;
}
