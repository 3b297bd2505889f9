import assert from 'node:assert/strict';
import { it } from 'node:test';
import { ModelError } from './errors.ts';
import { longRopeMagnitude, ropeSpec, yarnMagnitude } from './rope-scaling.ts';

const plain = ropeSpec('half', 64, 10000, { kind: 'none' });

it('starts at 1 and falls by theta^(2/rotaryDim) from pair to pair', () => {
  assert.equal(plain.frequencies.length, 32);
  assert.equal(plain.frequencies[0], 1);
  assert.equal(plain.frequencies[16], Math.fround(0.01));
  assert.equal(plain.magnitude, 1);
});

it('divides all by a linear factor', () => {
  const scaled = ropeSpec('half', 64, 10000, { kind: 'linear', factor: 4 });
  assert.deepEqual(
    scaled.frequencies,
    plain.frequencies.map((frequency) => frequency / 4),
  );
});

it('keeps fast pairs, divides slow ones, and lies between for the rest (llama3)', () => {
  const scaled = ropeSpec('half', 64, 10000, {
    kind: 'llama3',
    factor: 8,
    lowFreqFactor: 1,
    highFreqFactor: 4,
    originalMaxPositions: 1024,
  });
  scaled.frequencies.forEach((frequency, j) => {
    const original = plain.frequencies[j]!;
    const wavelength = (2 * Math.PI) / original;
    if (wavelength < 1024 / 4) assert.equal(frequency, original);
    else if (wavelength > 1024) assert.equal(frequency, Math.fround(original / 8));
    else assert.ok(frequency < original && frequency > original / 8);
  });
});

it('keeps pairs that turn often and divides those that turn less than once (YaRN)', () => {
  const scaled = ropeSpec('half', 64, 10000, {
    kind: 'yarn',
    factor: 4,
    originalMaxPositions: 4096,
    betaFast: 32,
    betaSlow: 1,
    truncate: true,
    magnitude: null,
  });
  scaled.frequencies.forEach((frequency, j) => {
    const original = plain.frequencies[j]!;
    const rotations = (4096 * original) / (2 * Math.PI);
    if (rotations > 64) assert.equal(frequency, original);
    if (rotations < 0.5) assert.equal(frequency, Math.fround(original / 4));
    assert.ok(frequency <= original && frequency >= Math.fround(original / 4));
    if (j > 0) assert.ok(frequency < scaled.frequencies[j - 1]!);
  });
  assert.equal(scaled.magnitude, 0.1 * Math.log(4) + 1);
});

it('divides each by its own factor', () => {
  const factors = Array.from({ length: 32 }, (_, j) => j + 1);
  const scaled = ropeSpec('half', 64, 10000, { kind: 'factors', factors, magnitude: 1.5 });
  assert.equal(scaled.frequencies[0], 1);
  assert.equal(scaled.frequencies[16], Math.fround(0.01 / 17));
  assert.equal(scaled.magnitude, 1.5);
});

it('has no magnitude where nothing is extended', () => {
  assert.equal(yarnMagnitude(1, 1), 1);
  assert.equal(longRopeMagnitude(1, 4096), 1);
});

it('refuses numbers that give no frequencies', () => {
  const scaling = {
    kind: 'yarn' as const,
    ...{ factor: 4, originalMaxPositions: 4096, betaFast: 32, betaSlow: 1 },
    truncate: true,
    magnitude: null,
  };
  assert.throws(() => ropeSpec('half', 64, 1, scaling), ModelError);
});
