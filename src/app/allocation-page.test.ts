import assert from 'node:assert/strict';
import { it } from 'node:test';
import type { MixedPlan } from '../compress/mixed-precision.ts';
import { allocationPage, placeOf } from './allocation-page.ts';

const tensor = (name: string, divergence: number): MixedPlan['tensors'][number] => ({
  ...{ name, elements: 256, dtype: 'q4_k', bytes: 144, loss: divergence / 2 },
  probed: { dtype: 'q5_0', divergence },
});
const plan: MixedPlan = {
  tensors: [
    tensor('token_embd.weight', 0.01),
    tensor('blk.10.ffn_up.weight', 0.001),
    tensor('blk.2.attn_q.weight', 0),
    tensor('blk.2.<b>&"', 0.1),
  ],
  ...{ bytes: 576, bitsPerWeight: 4.5, predictedLoss: 0.0555 },
};

it('knows where a tensor stands', () => {
  assert.deepEqual(placeOf('blk.10.ffn_up.weight'), { layer: 10, part: 'ffn_up' });
  assert.deepEqual(placeOf('token_embd.weight'), { layer: null, part: 'token_embd' });
});

it('shows every tensor by layer, loads nothing from elsewhere and escapes names', () => {
  const page = allocationPage('a <model>', plan);
  assert.ok(!/(src|href)=|@import|<script/.test(page));
  assert.ok(!page.includes('<model>') && !page.includes('<b>'));
  assert.equal(page.match(/q4_k<i /g)?.length, 4);
  assert.ok(page.indexOf('<th>2</th>') < page.indexOf('<th>10</th>'));
  assert.ok(page.includes('measured: 1.00e-3 as q5_0'));
  // The largest divergence has a full bar, a hundredth of it three fifths, none has none.
  const heights = [...page.matchAll(/height:(\d+)%"/g)].map(([, height]) => Number(height));
  assert.deepEqual(
    heights.toSorted((a, b) => a - b),
    [0, 60, 80, 100],
  );
});
