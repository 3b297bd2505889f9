import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { compareQuality, cutWindows, EvaluationError, parseProtocol } from './evaluate.ts';
import { OpenedModel } from './open-model.ts';

const fixture = (name: string): string =>
  fileURLToPath(new URL(`../../test/fixtures/tiny-gguf/${name}`, import.meta.url));
const ids = (count: number): number[] =>
  Array.from({ length: count }, (_, i) => (i * 37 + 5) % 250);

describe('protocols', () => {
  it('are read by name', () => {
    assert.deepEqual(parseProtocol('disjoint-8'), {
      name: 'disjoint-8',
      window: 8,
      stride: 8,
      unscored: 1,
      replacesFirst: false,
    });
    assert.equal(parseProtocol('strided-8-3').unscored, 5);
    assert.equal(parseProtocol('llama.cpp-8').unscored, 5);
    for (const name of [
      'disjoint',
      'disjoint-8-4',
      'strided-8',
      'strided-4-8',
      'llama.cpp-2',
      'other-8',
    ]) {
      assert.throws(() => parseProtocol(name), EvaluationError, name);
    }
  });

  it('strided windows score every token but the first exactly once', () => {
    const protocol = parseProtocol('strided-8-3');
    const scored = cutWindows(ids(20), protocol, null).flatMap(({ firstScored }, index) =>
      Array.from({ length: 8 - firstScored }, (_, i) => index * 3 + firstScored + i),
    );
    assert.deepEqual(
      scored,
      Array.from({ length: 19 }, (_, i) => i + 1),
    );
  });

  it("llama.cpp's windows lie side by side, BOS in the place of their first tokens", () => {
    const protocol = parseProtocol('llama.cpp-4');
    assert.deepEqual(cutWindows([10, 11, 12, 13, 14, 15, 16, 17], protocol, 1), [
      { tokenIds: [1, 10, 11, 12], firstScored: 3 },
      { tokenIds: [1, 14, 15, 16], firstScored: 3 },
    ]);
    assert.deepEqual(cutWindows([10, 11, 12, 13, 14], protocol, null), [
      { tokenIds: [10, 11, 12, 13], firstScored: 3 },
    ]);
  });

  it('refuses a text that is shorter than a window', () => {
    assert.throws(() => cutWindows(ids(7), parseProtocol('disjoint-8'), null), /has 7 tokens/);
    assert.equal(cutWindows(ids(7), parseProtocol('disjoint-8'), 1).length, 1);
  });
});

describe('compareQuality', () => {
  const options = { target: 'auto', threads: 1, precision: 'f32' } as const;
  const windows = cutWindows(ids(96), parseProtocol('disjoint-48'), null);

  it('finds no divergence of a model from itself', async () => {
    using model = new OpenedModel(fixture('llama-q8_0.gguf'));
    using same = new OpenedModel(fixture('llama-q8_0.gguf'));
    const result = await compareQuality(model.description, same.description, windows, options);
    assert.ok('reference' in result);
    assert.equal(result.model.tokens, 94);
    assert.equal(result.model.nll, result.reference.nll);
    assert.ok(result.model.maxKld < 1e-6);
    assert.equal(result.model.sameTop, 1);
  });

  it('finds more divergence in fewer bits, and the percentiles in order', async () => {
    const divergences: number[] = [];
    for (const name of ['llama-q5_0.gguf', 'llama-q4_0.gguf']) {
      using model = new OpenedModel(fixture(name));
      using reference = new OpenedModel(fixture('llama-q8_0.gguf'));
      const { model: q } = await compareQuality(
        model.description,
        reference.description,
        windows,
        options,
      );
      assert.ok(q.medianKld <= q.p90Kld && q.p90Kld <= q.p99Kld && q.p99Kld <= q.maxKld);
      divergences.push(q.meanKld);
    }
    assert.ok(divergences[0]! > 0 && divergences[0]! < divergences[1]!, String(divergences));
  });
});
