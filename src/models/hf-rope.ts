/**
 * Rotary settings out of `config.json`, in the spelling of transformers 5 (`rope_parameters`, flat or per layer type) and of older files
 * (`rope_theta`, `rope_scaling`, `partial_rotary_factor`, `rope_local_base_freq`).
 */
import type { RopeSpec } from '../graph/ir.ts';
import { ConfigFields } from './config-fields.ts';
import { ModelError, UnsupportedModelError } from './errors.ts';
import { longRopeMagnitude, type RopeScaling, ropeSpec, yarnMagnitude } from './rope-scaling.ts';

export type LayerType = 'full_attention' | 'sliding_attention';

export interface HfRopeOptions {
  readonly style: RopeSpec['style'];
  readonly headDim: number;
  /** What `partial_rotary_factor` is a part of; the head dimension but for classes that say otherwise. */
  readonly rotaryBase: number;
  /** Longest sequence that will be run; decides between the two sets of factors of LongRoPE. Null: as far as the short ones reach. */
  readonly maxModelLen: number | null;
}

const SCALING_KINDS = ['default', 'linear', 'llama3', 'yarn', 'longrope'];

/** @throws {ModelError} if a value is missing or of the wrong kind, {@link UnsupportedModelError} for other kinds of scaling */
export function hfRope(
  fields: ConfigFields,
  layerType: LayerType,
  { style, headDim, rotaryBase, maxModelLen }: HfRopeOptions,
): RopeSpec {
  const rope = ropeFields(fields, layerType);
  const partial = rope.number('partial_rotary_factor', fields.number('partial_rotary_factor', 1));
  const rotaryDim = Math.trunc(rotaryBase * partial);
  if (rotaryDim < 2 || rotaryDim > headDim || rotaryDim % 2 !== 0) {
    throw new ModelError(
      `${fields.source}: partial_rotary_factor ${partial} of ${rotaryBase} rotates ${rotaryDim} values; \
expected an even number from 2 to the head dimension ${headDim}`,
    );
  }
  const theta = rope.positive('rope_theta', fields.positive('rope_theta', 10000));
  return ropeSpec(style, rotaryDim, theta, scalingOf(rope, fields, rotaryDim, maxModelLen));
}

/** The settings for one layer type: nested, flat, or in the old spelling. */
function ropeFields(fields: ConfigFields, layerType: LayerType): ConfigFields {
  const parameters = fields.object('rope_parameters');
  if (parameters !== null) {
    const flat = ConfigFields.ofObject(`${fields.source}: rope_parameters`, parameters);
    const nested = flat.object(layerType);
    if (nested === null) return flat;
    return ConfigFields.ofObject(`${flat.source}.${layerType}`, nested);
  }
  if (layerType === 'sliding_attention' && fields.has('rope_local_base_freq')) {
    const local = { rope_theta: fields.positive('rope_local_base_freq') };
    return ConfigFields.ofObject(fields.source, local);
  }
  return ConfigFields.ofObject(
    `${fields.source}: rope_scaling`,
    fields.object('rope_scaling') ?? {},
  );
}

function scalingOf(
  rope: ConfigFields,
  fields: ConfigFields,
  rotaryDim: number,
  maxModelLen: number | null,
): RopeScaling {
  const kind = rope.string('rope_type', rope.string('type', 'default'));
  const maxPositions = () => fields.size('max_position_embeddings');
  // phi3 states it outside the rope settings
  const originalMaxPositions = () =>
    rope.size(
      'original_max_position_embeddings',
      fields.size('original_max_position_embeddings', maxPositions()),
    );
  switch (kind) {
    case 'default':
    case 'mrope': // sections of several position axes; with text they are equal, and so is the result
      return { kind: 'none' };
    case 'linear':
      return { kind, factor: rope.positive('factor') };
    case 'llama3':
      return {
        kind,
        factor: rope.positive('factor'),
        lowFreqFactor: rope.positive('low_freq_factor'),
        highFreqFactor: rope.positive('high_freq_factor'),
        originalMaxPositions: originalMaxPositions(),
      };
    case 'yarn':
      return {
        kind,
        factor: rope.positive('factor'),
        originalMaxPositions: originalMaxPositions(),
        betaFast: rope.positive('beta_fast', 32),
        betaSlow: rope.positive('beta_slow', 1),
        truncate: rope.boolean('truncate', true),
        magnitude: yarnAttentionFactor(rope),
      };
    case 'longrope':
    case 'su': {
      const original = originalMaxPositions();
      const factor = rope.positive('factor', maxPositions() / original);
      const isLong = maxModelLen !== null && maxModelLen > original;
      const key = isLong ? 'long_factor' : 'short_factor';
      const factors = rope.numbers(key) ?? [];
      if (factors.length !== rotaryDim / 2 || factors.some((value) => value <= 0)) {
        throw new ModelError(
          `${rope.source}: "${key}" has ${factors.length} values; expected ${rotaryDim / 2} above 0`,
        );
      }
      const magnitude = rope.positive('attention_factor', longRopeMagnitude(factor, original));
      return { kind: 'factors', factors, magnitude };
    }
    default:
      throw new UnsupportedModelError(
        `${rope.source}: rope type "${kind}" is not supported; accepted: ${SCALING_KINDS.join(', ')}`,
        { seen: kind, expected: SCALING_KINDS.join(', ') },
      );
  }
}

function yarnAttentionFactor(rope: ConfigFields): number | null {
  if (rope.has('attention_factor')) return rope.positive('attention_factor');
  if (!rope.has('mscale') || !rope.has('mscale_all_dim')) return null;
  const factor = rope.positive('factor');
  const magnitude = (key: string) => yarnMagnitude(factor, rope.number(key));
  return magnitude('mscale') / magnitude('mscale_all_dim');
}

/**
 * How far a LongRoPE model reaches on its short factors; null if it is none, or needs no choice.
 */
export function shortRopeReach(fields: ConfigFields): number | null {
  const rope = ropeFields(fields, 'full_attention');
  const kind = rope.string('rope_type', rope.string('type', 'default'));
  if (kind !== 'longrope' && kind !== 'su') return null;
  return rope.size(
    'original_max_position_embeddings',
    fields.size('original_max_position_embeddings', fields.size('max_position_embeddings')),
  );
}
