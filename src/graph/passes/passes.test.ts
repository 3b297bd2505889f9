/** Each pass by itself: what it finds, and what it must leave alone. That all combinations compute the same is in test/lowering.test.ts. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { ColumnOrder } from '../../tensor/column-order.ts';
import { GraphBuilder } from '../builder.ts';
import { GraphError } from '../errors.ts';
import type { Graph, GraphNode } from '../ir.ts';
import { GRAPH_PASSES, lowerGraph, type PassName } from '../lower-graph.ts';
import { printGraph } from '../print.ts';
import { countOps, nodeLabelled, tinyGraph } from '../testing/tiny-graph.ts';
import { verifyGraph } from '../verify.ts';
import { type WeightDirectory, weightRows } from '../weight-ref.ts';

/** Runs only the named passes. */
function runOnly(
  names: readonly PassName[],
  { graph, directory }: { graph: Graph; directory: WeightDirectory },
  q8Dtypes: readonly string[] = [],
): Graph {
  const disabledPasses = GRAPH_PASSES.map((pass) => pass.name).filter((n) => !names.includes(n));
  return lowerGraph(graph, { directory, q8Dtypes, disabledPasses }).graph;
}

/** A graph over an embedding of width 64, for cases that the tiny model lacks. */
function graphOf(build: (builder: GraphBuilder, x: GraphNode) => GraphNode): {
  graph: Graph;
  directory: WeightDirectory;
} {
  const builder = new GraphBuilder();
  const table = builder.weight(weightRows('embed', 0, 10), [10, 64], 'embed');
  const x = builder.embed(table, builder.input('tokenIds'), 1, 'x');
  const rows = builder.selectRows(build(builder, x), builder.input('logitRows'), 'rows');
  const directory = { get: () => ({ dtype: 'q4_0', shape: [64, 64] }) };
  return { graph: builder.finish('g', builder.firstRows(rows, 'head')), directory };
}

function linear64(builder: GraphBuilder, x: GraphNode, name: string): GraphNode {
  return builder.linear(
    { x, weight: builder.weight(weightRows(name, 0, 64), [64, 64], name) },
    name,
  );
}

describe('constant-folding', () => {
  it('folds 1 + w into the weight reference', () => {
    const graph = runOnly(['constant-folding'], tinyGraph());
    assert.equal(countOps(graph).affineWeight, undefined);
    const weight = nodeLabelled(graph, 'l0.norm1').inputs[1]!;
    assert.deepEqual(weight.op === 'weight' && weight.attrs.ref.offset, 1);
  });

  it('joins row ranges of one tensor that continue each other', () => {
    const source = graphOf((builder, x) => {
      const part = (start: number) =>
        builder.weight(weightRows('w', start, start + 32), [32, 64], `w${start}`);
      const weight = builder.concatRows([part(0), part(32)], 'w');
      return builder.linear({ x, weight }, 'l');
    });
    const weight = nodeLabelled(runOnly(['constant-folding'], source), 'l').inputs[1]!;
    assert.deepEqual(weight.op === 'weight' && weight.attrs.ref, weightRows('w', 0, 64));
  });

  it('drops scale by 1, joins scale of scale, and moves a scale into the embedding', () => {
    const fold = (build: Parameters<typeof graphOf>[0]) =>
      runOnly(['constant-folding'], graphOf(build));
    assert.equal(countOps(fold((b, x) => b.scale(x, 1, 's'))).scale, undefined);
    const scaled = fold((b, x) => b.scale(x, 3, 's'));
    const embed = scaled.nodes.find((node) => node.op === 'embed');
    assert.equal(embed?.attrs.scale, 3);
    const twice = fold((b, x) => b.scale(b.scale(b.activation(x, 'silu', 'a'), 2, 's'), 3, 't'));
    assert.deepEqual(
      twice.nodes.flatMap((node) => (node.op === 'scale' ? [node.attrs.factor] : [])),
      [6],
    );
  });

  it('leaves the embedding alone when others want it unscaled', () => {
    const source = graphOf((b, x) => b.add(x, b.scale(x, 3, 's'), 'sum'));
    assert.equal(countOps(runOnly(['constant-folding'], source)).scale, 1);
  });

  it('joins slice of slice and drops a slice of everything', () => {
    const source = graphOf((b, x) => {
      const inner = b.slice(b.slice(x, 8, 40, 'outer'), 4, 16, 'inner');
      return b.slice(inner, 0, 16, 'whole');
    });
    const slices = runOnly(['constant-folding'], source).nodes.filter((n) => n.op === 'slice');
    assert.deepEqual(
      slices.map((node) => node.attrs),
      [{ start: 12, length: 16 }],
    );
  });
});

describe('fuse-bias', () => {
  it('takes bias vectors into their linears', () => {
    const graph = runOnly(['fuse-bias'], tinyGraph());
    assert.ok(['q', 'k', 'v'].every((name) => nodeLabelled(graph, `l0.${name}`).op === 'linear'));
    assert.equal(countOps(graph).add, 4); // the residual sums stay
  });

  it('leaves a linear alone that others want without its bias', () => {
    const source = graphOf((b, x) => {
      const product = linear64(b, x, 'l');
      const biased = b.add(product, b.weight(weightRows('b', 0, 64), [64], 'b'), 'biased');
      return b.mul(product, biased, 'm');
    });
    assert.equal(countOps(runOnly(['fuse-bias'], source)).add, 1);
  });
});

describe('merge-linears', () => {
  it('makes one linear of q, k and v, and one of gate and up', () => {
    const graph = runOnly(['fuse-bias', 'merge-linears'], tinyGraph());
    assert.equal(countOps(graph).linear, 2 * 4 + 1);
    const qkv = nodeLabelled(graph, 'l0.q+k+v');
    assert.deepEqual(qkv.shape, ['T', 128]);
    const v = nodeLabelled(graph, 'l0.v');
    assert.deepEqual([v.op, v.attrs, v.inputs[0]], ['slice', { start: 96, length: 32 }, qkv]);
  });

  it('keeps linears of other dtypes apart', () => {
    const graph = runOnly(
      ['fuse-bias', 'merge-linears'],
      tinyGraph('q4_0', { 'l0.v': 'q6_k', 'l0.gate': 'q8_0' }),
    );
    assert.equal(nodeLabelled(graph, 'l0.q+k').op, 'linear');
    assert.equal(nodeLabelled(graph, 'l0.v').op, 'linear');
    assert.equal(nodeLabelled(graph, 'l0.gate').op, 'linear');
    assert.equal(nodeLabelled(graph, 'l1.gate+up').op, 'linear');
  });

  it('keeps linears with a bias apart from those without', () => {
    const source = graphOf((b, x) => {
      const biased = b.linear(
        {
          x,
          weight: b.weight(weightRows('w', 0, 64), [64, 64], 'w'),
          bias: b.weight(weightRows('b', 0, 64), [64], 'b'),
        },
        'biased',
      );
      return b.mul(biased, linear64(b, x, 'plain'), 'm');
    });
    assert.equal(countOps(runOnly(['merge-linears'], source)).linear, 2);
  });
});

describe('fuse-gated-activation', () => {
  it('finds the activation on either side', () => {
    const build = (isFirst: boolean) => (b: GraphBuilder, x: GraphNode) => {
      const gate = b.activation(linear64(b, x, 'gate'), 'gelu', 'act');
      const up = linear64(b, x, 'up');
      return isFirst ? b.mul(gate, up, 'm') : b.mul(up, gate, 'm');
    };
    for (const isFirst of [true, false]) {
      const gated = nodeLabelled(runOnly(['fuse-gated-activation'], graphOf(build(isFirst))), 'm');
      assert.equal(gated.op, 'gatedActivation');
      assert.deepEqual(
        gated.inputs.map((input) => input.label),
        ['gate', 'up'],
      );
    }
  });

  it('leaves an activation alone that others want', () => {
    const source = graphOf((b, x) => {
      const gate = b.activation(x, 'silu', 'act');
      return b.add(gate, b.mul(gate, x, 'm'), 'sum');
    });
    assert.equal(countOps(runOnly(['fuse-gated-activation'], source)).gatedActivation, undefined);
  });
});

describe('fuse-residual', () => {
  it('ends blocks with the residual sum: in the linear, or in the norm after it', () => {
    const graph = runOnly(['fuse-residual'], tinyGraph());
    assert.equal(countOps(graph).add, 6); // the biases of q, k and v
    assert.equal((nodeLabelled(graph, 'l0.o').attrs as { residual: boolean }).residual, true);
    const norm = nodeLabelled(graph, 'l0.norm3');
    assert.ok(norm.op === 'rmsNorm' && norm.attrs.residual);
    assert.equal(norm.inputs[2], nodeLabelled(graph, 'l0.o'));
  });

  it('leaves a linear alone that others want without the sum', () => {
    const source = graphOf((b, x) => {
      const product = linear64(b, x, 'l');
      return b.mul(product, b.add(x, product, 'sum'), 'm');
    });
    assert.equal(countOps(runOnly(['fuse-residual'], source)).add, 1);
  });
});

describe('lower-attention', () => {
  it('takes the rotation into the store when q and k are rotated alike', () => {
    const graph = runOnly(['lower-attention'], tinyGraph());
    const { rope, attention, ropeKvStore, pagedAttention } = countOps(graph);
    assert.deepEqual([rope, attention, ropeKvStore, pagedAttention], [undefined, undefined, 2, 2]);
  });

  it('keeps rotations that differ by themselves', () => {
    const source = graphOf((b, x) => {
      const rotated = (magnitude: number, label: string) => {
        const rope = { style: 'half' as const, rotaryDim: 2, frequencies: [1], magnitude };
        return b.rope(x, b.input('positions'), { rope, numHeads: 4, headDim: 16 }, label);
      };
      const attrs = {
        ...{ numHeads: 4, numKvHeads: 4, headDim: 16 },
        ...{ scale: 1, mask: { window: 3 }, layer: 0 },
      };
      return b.attention({ q: rotated(1, 'q'), k: rotated(2, 'k'), v: x }, attrs, 'a');
    });
    const graph = runOnly(['lower-attention'], source);
    assert.equal(countOps(graph).rope, 2);
    const store = nodeLabelled(graph, 'a.store');
    assert.ok(store.op === 'ropeKvStore' && store.attrs.rope === null);
  });
});

describe('insert-quantize and fuse-quantize', () => {
  it('quantizes an activation once for all linears that take it', () => {
    const graph = runOnly(['insert-quantize'], tinyGraph(), ['q4_0']);
    // per layer: the input of q/k/v, of o, of gate/up, of down; and the input of the output
    assert.equal(countOps(graph).quantize, 2 * 4 + 1);
  });

  it('leaves weights of other dtypes their f32 activations', () => {
    const graph = runOnly(['insert-quantize'], tinyGraph('f16', { 'l0.o': 'q4_0' }), ['q4_0']);
    assert.equal(countOps(graph).quantize, 1);
  });

  it('gives norms and gated activations q8 output where nobody wants their f32 values', () => {
    const names = ['fuse-gated-activation', 'insert-quantize', 'fuse-quantize'] as const;
    const graph = runOnly(names, tinyGraph(), ['q4_0']);
    assert.equal(nodeLabelled(graph, 'l0.norm1').type, 'q8');
    assert.equal(nodeLabelled(graph, 'l0.mul').type, 'q8');
    // Of the attention's result, whose heads are half a block, and of the hidden states, which the runner shows in f32.
    assert.equal(countOps(graph).quantize, 3);
    const mixed = runOnly(names, tinyGraph('q4_0', { 'l0.v': 'f32' }), ['q4_0']);
    assert.equal(nodeLabelled(mixed, 'l0.norm1').type, 'f32');
  });

  it('gives attention q8 output where a head is whole blocks', () => {
    const names = ['lower-attention', 'insert-quantize', 'fuse-quantize'] as const;
    const attended = (headDim: number) => {
      const source = graphOf((b, x) => {
        const heads = { numHeads: 64 / headDim, numKvHeads: 64 / headDim, headDim };
        const attrs = { ...heads, scale: 1, mask: { window: null }, layer: 0 };
        return linear64(b, b.attention({ q: x, k: x, v: x }, attrs, 'a'), 'l');
      });
      return nodeLabelled(runOnly(names, source, ['q4_0']), 'a').type;
    };
    assert.deepEqual([attended(16), attended(32), attended(64)], ['f32', 'q8', 'q8']);
  });
});

describe('columns in an order of their own', () => {
  const orderOf = (start: number) =>
    new ColumnOrder(Int32Array.from({ length: 64 }, (_, i) => (start + 7 * i) % 64));
  /** Three linears on one input, each on its columns in an order. */
  const ordered = (orders: readonly ColumnOrder[]) =>
    graphOf((b, x) => {
      const products = orders.map((order, i) =>
        linear64(b, b.permuteColumns(x, order, `ordered${i}`), `w${i}`),
      );
      return products.reduce((sum, product) => b.add(sum, product, 'sum'));
    });
  const passes = ['merge-linears', 'constant-folding', 'insert-quantize', 'fuse-quantize'] as const;

  it('merges linears of equal orders only', () => {
    const graph = runOnly(passes, ordered([orderOf(0), orderOf(0), orderOf(1)]));
    assert.deepEqual([countOps(graph).linear, countOps(graph).permuteColumns], [2, 2]);
    assert.equal(nodeLabelled(graph, 'w0+w1').inputs[0]!.op, 'permuteColumns');
    verifyGraph(graph, 'lowered');
  });

  it('are rounded to int8 on the way', () => {
    const graph = runOnly(passes, ordered([orderOf(0), orderOf(0)]), ['q4_0']);
    const x = nodeLabelled(graph, 'w0+w1').inputs[0]!;
    assert.deepEqual([x.op, x.type, countOps(graph).quantize], ['permuteColumns', 'q8', undefined]);
    assert.match(printGraph(graph), /permuteColumns\(%\d+\) order=[0-9a-f]{8} output=q8/);
    verifyGraph(graph, 'lowered');
  });

  it('are taken of rows with logits only', () => {
    const graph = runOnly(['select-rows-early'], ordered([orderOf(3)]));
    assert.deepEqual(nodeLabelled(graph, 'ordered0').shape, ['R', 64]);
  });

  /** down(silu(gate(x)) * up(x)), down with its columns in an order; `seen` puts something beside it. */
  const gated = (seen: (b: GraphBuilder, product: GraphNode) => GraphNode | null) => {
    const { graph } = graphOf((b, x) => {
      const gate = b.activation(linear64(b, x, 'gate'), 'silu', 'silu');
      const product = b.mul(gate, linear64(b, x, 'up'), 'product');
      const down = linear64(b, b.permuteColumns(product, orderOf(3), 'ordered'), 'down');
      const beside = seen(b, product);
      return beside ? b.add(down, beside, 'sum') : down;
    });
    const get = (name: string) => ({
      ...{ dtype: 'q4_0', shape: [64, 64] },
      ...(name === 'down' && { columnOrder: orderOf(3) }),
    });
    return { graph, directory: { get } };
  };
  const early = ['order-rows', 'merge-linears', 'constant-folding'] as const;

  it('become the order of the rows of the weights before, merged or not', () => {
    const graph = runOnly(
      [...early, 'fuse-gated-activation'],
      gated(() => null),
    );
    assert.equal(countOps(graph).permuteColumns, undefined);
    const weight = nodeLabelled(graph, 'gate+up').inputs[1]!;
    const part = { rowStart: 0, rowEnd: 64, rowOrderOf: 'down' };
    assert.deepEqual(weight.op === 'weight' && weight.attrs.ref.parts, [
      { tensor: 'gate', ...part },
      { tensor: 'up', ...part },
    ]);
    assert.equal(nodeLabelled(graph, 'down').inputs[0]!.op, 'gatedActivation');
    verifyGraph(graph, 'lowered');
  });

  it('stay where somebody else sees what is to be ordered', () => {
    const product = runOnly(
      early,
      gated((_, product) => product),
    );
    const part = runOnly(
      early,
      gated((_, product) => product.inputs[1]!),
    );
    const normed = runOnly(early, ordered([orderOf(0)]));
    for (const graph of [product, part, normed]) assert.equal(countOps(graph).permuteColumns, 1);
  });

  it('refuses an order of another width', () => {
    const order = new ColumnOrder(Int32Array.from({ length: 32 }, (_, i) => i));
    assert.throws(() => ordered([order]), /an order of 32 columns does not fit width 64/);
  });
});

describe('split-outliers', () => {
  const FEW = [3, 17];
  const passes = ['fuse-bias', 'merge-linears', 'constant-folding', 'fuse-residual'] as const;
  const split = [...passes, 'split-outliers', 'insert-quantize', 'fuse-quantize'] as const;

  it('takes the columns out of the activations and multiplies them apart', () => {
    const outliers = { 'l0.q': FEW, 'l0.k': FEW, 'l0.v': FEW, 'l0.o': [9] };
    const graph = runOnly(split, tinyGraph('q8_0', {}, outliers), ['q8_0']);
    const qkv = nodeLabelled(graph, 'l0.q+k+v');
    const [x, , bias, few] = qkv.inputs;
    assert.ok(x?.op === 'quantize' && bias?.op === 'weight');
    assert.deepEqual(x.attrs.outliers, FEW);
    assert.ok(few?.op === 'linear' && few.inputs[0]!.inputs[0] === x);
    const weight = few.inputs[1]!;
    assert.deepEqual(weight.shape, [128, 2]);
    assert.deepEqual(weight.op === 'weight' && weight.attrs.ref.parts.map((part) => part.tensor), [
      'l0.q.outliers',
      'l0.k.outliers',
      'l0.v.outliers',
    ]);
    // The sum of the block goes in with the few columns, which the linear takes as its residual.
    const o = nodeLabelled(graph, 'l0.o');
    assert.ok(o.op === 'linear' && o.attrs.residual && !o.attrs.bias);
    const fewOfO = nodeLabelled(graph, 'l0.o.outliers');
    assert.equal(o.inputs[2], fewOfO);
    assert.equal(fewOfO.inputs[2]!.label, 'embed');
    assert.equal(countOps(graph).outliers, 2);
    verifyGraph(
      runOnly([...split, 'lower-attention'], tinyGraph('q8_0', {}, outliers), ['q8_0']),
      'lowered',
    );
  });

  it('merges only linears with the same columns, and leaves those without alone', () => {
    const outliers = { 'l0.q': FEW, 'l0.k': FEW, 'l0.v': [3] };
    const graph = runOnly(split, tinyGraph('q8_0', {}, outliers), ['q8_0']);
    assert.equal(nodeLabelled(graph, 'l0.q+k').op, 'linear');
    assert.equal(nodeLabelled(graph, 'l0.v.outliers').op, 'linear');
    assert.equal(countOps(graph).outliers, 2);
  });

  it('does nothing where activations stay f32', () => {
    const graph = runOnly(split, tinyGraph('q8_0', {}, { 'l0.q': FEW }));
    assert.equal(countOps(graph).outliers, undefined);
  });

  it('refuses columns that are out of range, repeated or not in order', () => {
    for (const columns of [[64], [3, 3], [17, 3], [-1], [0.5]]) {
      const source = tinyGraph('q8_0', {}, { 'l0.q': columns });
      assert.throws(() => runOnly(split, source, ['q8_0']), GraphError, `${columns}`);
    }
  });
});

describe('select-rows-early', () => {
  it('selects right after the last attention, and nothing of what it reads', () => {
    const graph = runOnly(['select-rows-early'], tinyGraph());
    const selected = graph.nodes.flatMap((node) =>
      node.op === 'selectRows' ? [node.inputs[0]!.label] : [],
    );
    assert.deepEqual(selected.toSorted(), ['l0.sum2', 'l1.attention']);
    assert.deepEqual(nodeLabelled(graph, 'l1.gate').shape, ['R', 96]);
    assert.deepEqual(nodeLabelled(graph, 'l0.gate').shape, ['T', 96]);
  });
});

describe('dead-code', () => {
  it('makes equal nodes one and drops what nothing needs', () => {
    const { graph, directory } = tinyGraph();
    const extra = { ...graph.nodes.find((node) => node.op === 'rmsNorm')! } as GraphNode;
    const output = graph.output;
    const padded = { ...graph, nodes: [...graph.nodes.slice(0, -1), extra, output] };
    assert.equal(
      runOnly(['dead-code'], { graph: padded, directory }).nodes.length,
      graph.nodes.length,
    );
  });
});

describe('lowerGraph', () => {
  it('names its stages in order and lists what was left out in none', () => {
    const { graph, directory } = tinyGraph();
    const { stages } = lowerGraph(graph, { directory, disabledPasses: ['fuse-bias'] });
    assert.deepEqual(
      stages.map((stage) => stage.name),
      GRAPH_PASSES.map((pass) => pass.name).filter((name) => name !== 'fuse-bias'),
    );
  });

  it('is idempotent', () => {
    const { graph, directory } = tinyGraph();
    const once = lowerGraph(graph, { directory, q8Dtypes: ['q4_0'] }).graph;
    const twice = lowerGraph(once, { directory, q8Dtypes: ['q4_0'] }).graph;
    assert.equal(printGraph(twice), printGraph(once));
  });
});
