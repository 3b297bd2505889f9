/** The one fault of this folder: a graph that breaks its grammar. Knows nothing of models, files or machines. */
import { HastenError } from '../platform/errors.ts';

/** What identifies a node to a person, without holding on to the graph. */
export interface NodeIdentity {
  readonly id: number;
  readonly op: string;
  readonly label: string;
}

/** A node whose inputs, attributes or place in the graph are not allowed. */
export class GraphError extends HastenError {
  /** The node at fault; null when the graph as a whole is. */
  readonly node: NodeIdentity | null;

  constructor(message: string, node: NodeIdentity | null = null, options?: ErrorOptions) {
    super(
      'invalid_graph',
      node === null ? message : `${node.op} "${node.label}": ${message}`,
      options,
    );
    this.node = node === null ? null : { id: node.id, op: node.op, label: node.label };
  }
}
