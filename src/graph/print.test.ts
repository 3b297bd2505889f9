import assert from 'node:assert/strict';
import { it } from 'node:test';
import { GraphBuilder } from './builder.ts';
import { printGraph, summarizeGraph } from './print.ts';
import { weightRows } from './weight-ref.ts';

function sample() {
  const b = new GraphBuilder();
  const table = b.weight(weightRows('embed', 0, 10), [10, 32], 'embed');
  const x = b.embed(table, b.input('tokenIds'), 1, 'embed_tokens');
  const rope = { style: 'half' as const, rotaryDim: 4, frequencies: [1, 0.01], magnitude: 1 };
  const heads = { numHeads: 2, numKvHeads: 2, headDim: 16 };
  const store = b.ropeKvStore(
    { q: x, k: x, v: x, positions: b.input('positions') },
    { ...heads, rope, layer: 0 },
    'store',
  );
  const mask = { window: 8 };
  const attrs = { ...heads, scale: 0.25, mask, layer: 0, output: 'f32' } as const;
  const attended = b.pagedAttention(store, attrs, 'attention');
  const rows = b.selectRows(attended, b.input('logitRows'), 'rows');
  const ref = { ...weightRows('norm', 0, 32), offset: 1 };
  const weight = b.weight(ref, [32], 'norm');
  return b.finish('step', b.rmsNorm({ x: rows, weight, eps: 1e-6, groupSize: 32 }, 'norm'));
}

it('prints nodes in order with attributes that say something, shape and label', () => {
  assert.equal(
    printGraph(sample()),
    `\
graph step: 10 nodes
  %0 = weight embed[0:10]                                           f32 [10, 32]
  %1 = input tokenIds                                               i32 [T]
  %2 = embed(%0, %1)                                                f32 [T, 32]   embed_tokens
  %3 = input positions                                              i32 [T]
  %4 = ropeKvStore(%2, %2, %2, %3) numHeads=2 numKvHeads=2 headDim=16 rope=half/4 freq=1..0.01 layer=0  f32 [T, 32]   store
  %5 = pagedAttention(%4) numHeads=2 numKvHeads=2 headDim=16 scale=0.25 causal window=8 layer=0  f32 [T, 32]   attention
  %6 = input logitRows                                              i32 [R]
  %7 = selectRows(%5, %6)                                           f32 [R, 32]   rows
  %8 = weight norm[0:32] +1                                         f32 [32]
  %9 = rmsNorm(%7, %8) eps=0.000001 groupSize=32                    f32 [R, 32]   norm
`,
  );
});

it('prints equal graphs equally', () => {
  assert.equal(printGraph(sample()), printGraph(sample()));
});

it('counts ops, most frequent first', () => {
  assert.match(summarizeGraph(sample()), /^input 3, weight 2, embed 1, /);
});
