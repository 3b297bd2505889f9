import assert from 'node:assert/strict';
import { it } from 'node:test';
import { GraphError } from './errors.ts';
import type { Graph, GraphNode } from './ir.ts';
import { lowerGraph } from './lower-graph.ts';
import { nodeLabelled, tinyGraph } from './testing/tiny-graph.ts';
import { type GraphStage, verifyGraph } from './verify.ts';

const { graph: model, directory } = tinyGraph();
const lowered = lowerGraph(model, { directory, q8Dtypes: ['q4_0'] }).graph;

function refuses(graph: Graph, stage: GraphStage, message: RegExp, label?: string): void {
  assert.throws(
    () => verifyGraph(graph, stage),
    (error) => {
      assert.ok(error instanceof GraphError);
      assert.match(error.message, message);
      if (label !== undefined) assert.equal(error.node?.label, label);
      return true;
    },
  );
}

/** `graph` with one node replaced in place, in the lists and in its users' inputs. */
function withNode(graph: Graph, label: string, change: Partial<GraphNode>): Graph {
  const target = nodeLabelled(graph, label);
  const replaced = new Map<GraphNode, GraphNode>();
  const nodes = graph.nodes.map((node) => {
    const changed = node === target ? { ...node, ...change } : node;
    const inputs = changed.inputs.map((input) => replaced.get(input) ?? input);
    const made = { ...changed, inputs } as GraphNode;
    replaced.set(node, made);
    return made;
  });
  return { ...graph, nodes, output: replaced.get(graph.output)! };
}

it('accepts a model graph and its lowering, each at its own stage', () => {
  verifyGraph(model, 'model');
  verifyGraph(lowered, 'lowered');
});

it('refuses each at the other stage, naming the op', () => {
  refuses(model, 'lowered', /may not stand in a lowered graph/);
  refuses(lowered, 'model', /may not stand in a model graph|come from passes/);
});

it('refuses a shape that its inputs do not give', () => {
  const graph = withNode(model, 'l0.down', { shape: ['T', 65] });
  refuses(graph, 'model', /states f32 \[T, 65\], but its inputs give f32 \[T, 64\]/, 'l0.down');
});

it('refuses a node before its inputs', () => {
  refuses({ ...model, nodes: model.nodes.toReversed() }, 'model', /does not come before it/);
});

it('refuses a node that is listed twice', () => {
  refuses({ ...model, nodes: [...model.nodes, model.nodes[0]!] }, 'model', /is listed twice/);
});

it('refuses a node that nothing needs', () => {
  const output = nodeLabelled(model, 'norm');
  refuses({ ...model, output }, 'model', /nothing needs this node/);
});

it('refuses an output that is not among the nodes', () => {
  refuses({ ...model, output: tinyGraph().graph.output }, 'model', /not among the nodes/);
});

it('refuses an output of tokens instead of logit rows', () => {
  const output = nodeLabelled(model, 'l1.sum2');
  const nodes = model.nodes.slice(0, model.nodes.indexOf(output) + 1);
  refuses({ ...model, output, nodes }, 'model', /must be f32 \[L, vocabSize\], got f32 \[T, 64\]/);
});

it('refuses two stores of one layer', () => {
  const second = nodeLabelled(lowered, 'l1.attention.store');
  const graph = withNode(lowered, second.label, {
    attrs: { ...second.attrs, layer: 0 },
  } as Partial<GraphNode>);
  refuses(graph, 'lowered', /layer 0 has its keys and values from "l0.attention.store" already/);
});

it('refuses a read whose store has other heads', () => {
  const read = nodeLabelled(lowered, 'l0.attention');
  const graph = withNode(lowered, read.label, {
    attrs: { ...read.attrs, numKvHeads: 4 },
  } as Partial<GraphNode>);
  refuses(graph, 'lowered', /numKvHeads is 4, but the store .* has 2/, 'l0.attention');
});

it('refuses fused attributes in a model graph', () => {
  const output = nodeLabelled(model, 'l0.o');
  const graph = withNode(model, output.label, {
    attrs: { bias: false, residual: true },
    inputs: [...output.inputs, nodeLabelled(model, 'embed')],
  } as Partial<GraphNode>);
  refuses(graph, 'model', /bias, residual and q8 come from passes, not from models/, 'l0.o');
});
