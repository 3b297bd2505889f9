/**
 * Rotary frequencies, with every kind of context extension folded in: theta and scaling → `RopeSpec`.
 * Knows nothing of config keys; `hf-rope.ts` and `gguf-config.ts` read those.
 *
 * RoPE: Su et al. 2021, arXiv:2104.09864. YaRN: Peng et al. 2023, arXiv:2309.00071. LongRoPE: Ding et al. 2024, arXiv:2402.13753.
 */
import type { RopeSpec } from '../graph/ir.ts';
import { ModelError } from './errors.ts';

export type RopeScaling =
  | { readonly kind: 'none' }
  /** Positions divided by `factor`. */
  | { readonly kind: 'linear'; readonly factor: number }
  /** Low frequencies divided by `factor`, high ones kept, smooth between (Llama 3.1). */
  | {
      readonly kind: 'llama3';
      readonly factor: number;
      readonly lowFreqFactor: number;
      readonly highFreqFactor: number;
      readonly originalMaxPositions: number;
    }
  | {
      readonly kind: 'yarn';
      readonly factor: number;
      readonly originalMaxPositions: number;
      readonly betaFast: number;
      readonly betaSlow: number;
      /** Whether the correction range is rounded outwards to whole dimensions. */
      readonly truncate: boolean;
      /** Factor on cos and sin; null: as the paper has it, from `factor`. */
      readonly magnitude: number | null;
    }
  /** Frequency j divided by `factors[j]`: LongRoPE, and llama3 as GGUF stores it. */
  | { readonly kind: 'factors'; readonly factors: readonly number[]; readonly magnitude: number };

/**
 * @param rotaryDim values of each head that are rotated, even
 * @returns frequencies rounded to f32, as the published implementations keep them
 * @throws {ModelError} if the numbers give none
 */
export function ropeSpec(
  style: RopeSpec['style'],
  rotaryDim: number,
  theta: number,
  scaling: RopeScaling,
): RopeSpec {
  const plain = Array.from({ length: rotaryDim / 2 }, (_, j) => theta ** ((-2 * j) / rotaryDim));
  const frequencies = scaledFrequencies(plain, rotaryDim, theta, scaling).map(Math.fround);
  const magnitude = magnitudeOf(scaling);
  if (![...frequencies, magnitude].every(Number.isFinite)) {
    throw new ModelError(
      `rotary frequencies are not finite: theta ${theta}, scaling ${JSON.stringify(scaling)}`,
    );
  }
  return { style, rotaryDim, frequencies, magnitude };
}

function scaledFrequencies(
  plain: readonly number[],
  rotaryDim: number,
  theta: number,
  scaling: RopeScaling,
): readonly number[] {
  switch (scaling.kind) {
    case 'none':
      return plain;
    case 'linear':
      return plain.map((frequency) => frequency / scaling.factor);
    case 'factors':
      return plain.map((frequency, j) => frequency / scaling.factors[j]!);
    case 'llama3':
      return plain.map((frequency) => llama3Frequency(frequency, scaling));
    case 'yarn':
      return yarnFrequencies(plain, rotaryDim, theta, scaling);
    default:
      return scaling satisfies never;
  }
}

function llama3Frequency(
  frequency: number,
  scaling: Extract<RopeScaling, { kind: 'llama3' }>,
): number {
  const { factor, lowFreqFactor, highFreqFactor, originalMaxPositions } = scaling;
  const wavelength = (2 * Math.PI) / frequency;
  if (wavelength < originalMaxPositions / highFreqFactor) return frequency;
  if (wavelength > originalMaxPositions / lowFreqFactor) return frequency / factor;
  const smooth =
    (originalMaxPositions / wavelength - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
  return ((1 - smooth) * frequency) / factor + smooth * frequency;
}

/** Dimensions that turn often within the original context keep their frequency, the slow ones are divided by `factor`, with a ramp between. */
function yarnFrequencies(
  plain: readonly number[],
  rotaryDim: number,
  theta: number,
  scaling: Extract<RopeScaling, { kind: 'yarn' }>,
): readonly number[] {
  const { factor, originalMaxPositions, betaFast, betaSlow, truncate } = scaling;
  const dimensionOfRotations = (numRotations: number) =>
    (rotaryDim * Math.log(originalMaxPositions / (numRotations * 2 * Math.PI))) /
    (2 * Math.log(theta));
  const fast = dimensionOfRotations(betaFast);
  const slow = dimensionOfRotations(betaSlow);
  const low = Math.max(truncate ? Math.floor(fast) : fast, 0);
  const high = Math.min(truncate ? Math.ceil(slow) : slow, rotaryDim - 1);
  const range = high === low ? 0.001 : high - low;
  return plain.map((frequency, j) => {
    const interpolated = Math.min(Math.max((j - low) / range, 0), 1);
    return (frequency / factor) * interpolated + frequency * (1 - interpolated);
  });
}

function magnitudeOf(scaling: RopeScaling): number {
  if (scaling.kind === 'factors') return scaling.magnitude;
  if (scaling.kind !== 'yarn') return 1;
  return scaling.magnitude ?? yarnMagnitude(scaling.factor, 1);
}

/** YaRN's factor on cos and sin, `0.1 * mscale * ln(factor) + 1`. */
export function yarnMagnitude(factor: number, mscale: number): number {
  return factor <= 1 ? 1 : 0.1 * mscale * Math.log(factor) + 1;
}

/** LongRoPE's factor on cos and sin for a context of `factor` times the original one. */
export function longRopeMagnitude(factor: number, originalMaxPositions: number): number {
  return factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(originalMaxPositions));
}
