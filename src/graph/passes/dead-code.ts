/** Leaves out what the output does not need, and makes equal nodes one. Both are what rebuilding a graph does. */
import { rewriteGraph } from '../rewrite.ts';
import type { GraphPass } from './graph-pass.ts';

export const deadCode: GraphPass<'dead-code'> = {
  name: 'dead-code',
  summary: 'unused nodes dropped, equal nodes made one',
  run: (graph) => rewriteGraph(graph, () => null),
};
