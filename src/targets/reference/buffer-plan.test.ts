import assert from 'node:assert/strict';
import { it } from 'node:test';
import type { GraphNode } from '../../graph/ir.ts';
import { lowerGraph } from '../../graph/lower-graph.ts';
import { tinyGraph } from '../../graph/testing/tiny-graph.ts';
import { ownerOf, planBuffers } from './buffer-plan.ts';

const { graph: model, directory } = tinyGraph();
const lowered = lowerGraph(model, { directory, q8Dtypes: ['q4_0'] }).graph;

for (const [name, graph] of Object.entries({ model, lowered })) {
  it(`never lets an op write over a value that is still needed (${name} graph)`, () => {
    const { bufferOf } = planBuffers(graph);
    /** Which value each buffer holds as the graph runs. */
    const holds = new Map<number, GraphNode>();
    for (const node of graph.nodes) {
      for (const input of node.inputs.map(ownerOf)) {
        const buffer = bufferOf.get(input);
        if (buffer !== undefined) assert.equal(holds.get(buffer), input, `input of ${node.label}`);
      }
      const own = bufferOf.get(node);
      if (own === undefined) continue;
      assert.ok(!node.inputs.some((input) => bufferOf.get(ownerOf(input)) === own));
      holds.set(own, node);
    }
    assert.equal(holds.get(bufferOf.get(ownerOf(graph.output))!), graph.output);
  });
}

it('uses buffers again for the second layer', () => {
  const { buffers, bufferOf } = planBuffers(model);
  assert.ok(buffers.length < bufferOf.size / 2, `${buffers.length} for ${bufferOf.size} values`);
});
