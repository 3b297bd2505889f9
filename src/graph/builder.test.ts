import assert from 'node:assert/strict';
import { it } from 'node:test';
import { GraphBuilder } from './builder.ts';
import { GraphError } from './errors.ts';
import { weightRows } from './weight-ref.ts';

function embedded(builder: GraphBuilder) {
  const table = builder.weight(weightRows('embed', 0, 10), [10, 64], 'embed');
  return builder.embed(table, builder.input('tokenIds'), 1, 'x');
}

it('makes equal nodes one node and keeps the first label', () => {
  const builder = new GraphBuilder();
  const x = embedded(builder);
  const first = builder.scale(x, 2, 'first');
  assert.equal(builder.scale(x, 2, 'second'), first);
  assert.equal(first.label, 'first');
  assert.notEqual(builder.scale(x, 3, 'other'), first);
});

it('keeps weights of different shapes apart although their rows are the same', () => {
  const builder = new GraphBuilder();
  const vector = builder.weight(weightRows('w', 0, 4), [4], 'w');
  assert.notEqual(builder.weight(weightRows('w', 0, 4), [4, 8], 'w'), vector);
});

it('leaves out what the output does not need, in the order of making', () => {
  const builder = new GraphBuilder();
  const x = embedded(builder);
  builder.scale(x, 3, 'unused');
  const output = builder.scale(x, 2, 'output');
  const graph = builder.finish('g', output);
  assert.deepEqual(
    graph.nodes.map((node) => node.label),
    ['embed', 'tokenIds', 'x', 'output'],
  );
});

it('refuses inputs of another builder', () => {
  const x = embedded(new GraphBuilder());
  assert.throws(() => new GraphBuilder().scale(x, 2, 'scaled'), GraphError);
});

const violations: Record<string, [(builder: GraphBuilder) => unknown, RegExp]> = {
  'inner dimensions of a linear': [
    (b) => b.linear({ x: embedded(b), weight: b.weight(weightRows('w', 0, 8), [8, 32], 'w') }, 'l'),
    /linear "l": inner dimensions differ: x \[T, 64\], weight \[8, 32\]/,
  ],
  'rows of a weight': [
    (b) => b.weight(weightRows('w', 2, 8), [8, 32], 'w'),
    /its parts have 6 rows, which does not fit shape \[8, 32\]/,
  ],
  'a bias of another length': [
    (b) =>
      b.linear(
        {
          x: embedded(b),
          weight: b.weight(weightRows('w', 0, 8), [8, 64], 'w'),
          bias: b.weight(weightRows('b', 0, 9), [9], 'b'),
        },
        'l',
      ),
    /input 2 must be a weight \[8\], got weight f32 \[9\]/,
  ],
  'a slice beyond the end': [
    (b) => b.slice(embedded(b), 60, 5, 's'),
    /columns \[60, 65\) lie outside width 64/,
  ],
  'a residual of another width': [
    (b) => {
      const x = embedded(b);
      const weight = b.weight(weightRows('w', 0, 8), [8, 64], 'w');
      return b.linear({ x, weight, residual: x }, 'l');
    },
    /input 2 must be f32 \[T, 8\], got \[T, 64\]/,
  ],
  'q8 of a width that is no multiple of 32': [
    (b) => b.quantize(b.slice(embedded(b), 0, 40, 's'), 'q'),
    /width 40 is not a multiple of the q8 block size 32/,
  ],
  'heads that do not divide': [
    (b) => {
      const x = embedded(b);
      const layout = { numHeads: 4, numKvHeads: 3, headDim: 16 };
      const attrs = { ...layout, scale: 1, mask: { window: null }, layer: 0 };
      return b.attention({ q: x, k: x, v: x }, attrs, 'a');
    },
    /numHeads 4 is not a multiple of numKvHeads 3/,
  ],
  'a rope with too few frequencies': [
    (b) => {
      const rope = { style: 'half' as const, rotaryDim: 8, frequencies: [1], magnitude: 1 };
      const attrs = { rope, numHeads: 4, headDim: 16 };
      return b.rope(embedded(b), b.input('positions'), attrs, 'r');
    },
    /rotaryDim 8 needs 4 frequencies, got 1/,
  ],
  'a norm whose groups do not fill the row': [
    (b) => {
      const weight = b.weight(weightRows('w', 0, 48), [48], 'w');
      return b.rmsNorm({ x: embedded(b), weight, eps: 1e-6, groupSize: 48 }, 'n');
    },
    /width 64 is not a multiple of groupSize 48/,
  ],
  'rows selected twice': [
    (b) => {
      const rows = b.selectRows(embedded(b), b.input('logitRows'), 'rows');
      return b.selectRows(rows, b.input('logitRows'), 'again');
    },
    /takes one row per token, got f32 \[R, 64\]/,
  ],
};

for (const [what, [build, message]] of Object.entries(violations)) {
  it(`refuses ${what}`, () => {
    assert.throws(
      () => build(new GraphBuilder()),
      (error) => error instanceof GraphError && error.node !== null && message.test(error.message),
    );
  });
}
