import { goldenModelSuite } from '../../../test/golden-models.ts';
import { lowerGraph } from '../../graph/lower-graph.ts';
import { stepGraphOf } from '../../models/step-graph.ts';
import { ReferenceRunner } from './reference-runner.ts';

goldenModelSuite('reference, graph as the model states it', (model, limits) => {
  return new ReferenceRunner({ graph: stepGraphOf(model), weights: model.weights, limits });
});

goldenModelSuite('reference, lowered graph', (model, limits) => {
  const { weights } = model;
  const { graph } = lowerGraph(stepGraphOf(model), { directory: weights.tensors });
  return new ReferenceRunner({ graph, weights, limits });
});
