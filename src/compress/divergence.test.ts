import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { logSumExp, QualityTally, ReferenceRow } from './divergence.ts';

describe('divergence', () => {
  it('agrees with the definition on two outcomes', () => {
    // p = (3/4, 1/4), q = (1/2, 1/2); adding a constant to logits changes nothing.
    const p = Float32Array.of(Math.log(3) + 100, 100);
    const q = Float32Array.of(-5, -5);
    const expected = 0.75 * Math.log(1.5) + 0.25 * Math.log(0.5);
    const reference = new ReferenceRow(2);
    reference.set(p);
    assert.ok(Math.abs(logSumExp(p) - (100 + Math.log(4))) < 1e-5);
    assert.ok(Math.abs(reference.divergence(q, logSumExp(q)) - expected) < 1e-5);
    assert.ok(Math.abs(reference.divergence(p, logSumExp(p))) < 1e-12);
  });

  it('tallies NLL of the next token and agreement with the reference', () => {
    const tally = new QualityTally();
    const reference = new ReferenceRow(2);
    const even = Float32Array.of(0, 0);
    reference.set(Float32Array.of(1, 0));
    tally.add(even, 0, reference);
    reference.set(Float32Array.of(0, 1));
    tally.add(even, 1, reference);
    const result = tally.result(2);
    assert.ok(Math.abs(result.nll - Math.log(2)) < 1e-12);
    assert.equal(result.sameTop, 0.5);
    assert.ok(result.meanKld > 0);
  });
});
