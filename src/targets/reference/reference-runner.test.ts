import { goldenModelSuite } from '../../../test/golden-models.ts';
import { lowerGraph } from '../../graph/lower-graph.ts';
import { ReferenceRunner } from './reference-runner.ts';

goldenModelSuite('reference, graph as the model states it', (model, limits) => {
  return new ReferenceRunner({ graph: model.stepGraph, weights: model.weights, limits });
});

goldenModelSuite('reference, lowered graph', ({ stepGraph, weights }, limits) => {
  const { graph } = lowerGraph(stepGraph, { directory: weights.tensors });
  return new ReferenceRunner({ graph, weights, limits });
});
