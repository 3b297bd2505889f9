/**
 * GGUF metadata → `ModelConfig`. What the metadata does not hold (Gemma's layer pattern and local theta, which rotation the rows were stored for)
 * each architecture declares. Tensors are asked only for what is written nowhere else: vocabulary size, biases, rope factors.
 */
import type { RopeSpec } from '../graph/ir.ts';
import type { WeightDirectory } from '../graph/weight-ref.ts';
import type { GgufReading } from './architecture.ts';
import { ConfigFields } from './config-fields.ts';
import { ModelError, UnsupportedModelError } from './errors.ts';
import { endOfTextIds } from './gguf-end-tokens.ts';
import type { LayerType } from './hf-rope.ts';
import { checkHeads, defaultHeadDim, type ModelConfig } from './model-config.ts';
import type { GgufArchitecture } from './registry.ts';
import { longRopeMagnitude, type RopeScaling, ropeSpec } from './rope-scaling.ts';
import type { SamplingDefaults } from './sampling-defaults.ts';

/** What the reader needs of a GGUF file. */
export interface GgufFile {
  /** For messages. */
  readonly path: string;
  readonly metadata: { get(key: string): unknown };
  /** Tensors by canonical names. */
  readonly directory: WeightDirectory;
  /** A small tensor that is not part of the text model, by its own name; null if there is none. */
  readF32(name: string): Float32Array | null;
}

export interface GgufConfigOptions {
  /** Longest sequence that will be run, where the model's rotation depends on it (LongRoPE); null for its original length. */
  readonly maxModelLen?: number | null;
}

/**
 * @throws {UnsupportedModelError} for features that are not implemented
 * @throws {ModelError} naming the key, the value seen and what is accepted
 */
export function parseGgufConfig(
  file: GgufFile,
  { architecture, reading }: GgufArchitecture,
  { maxModelLen = null }: GgufConfigOptions = {},
): ModelConfig {
  const { path, metadata, directory } = file;
  const all = new ConfigFields(path, (key) => metadata.get(key));
  const prefix = all.string('general.architecture');
  const fields = new ConfigFields(`${path}: ${prefix}`, (key) => metadata.get(`${prefix}.${key}`));
  refuseUnsupported(fields);

  const hiddenSize = fields.size('embedding_length');
  const numLayers = fields.size('block_count');
  const numHeads = uniformSize(fields, 'attention.head_count');
  const numKvHeads = fields.has('attention.head_count_kv')
    ? uniformSize(fields, 'attention.head_count_kv')
    : numHeads;
  const headDim = fields.has('attention.key_length')
    ? fields.size('attention.key_length')
    : defaultHeadDim(path, hiddenSize, numHeads);
  checkHeads(path, { numLayers, numHeads, numKvHeads, headDim });
  const valueDim = fields.size('attention.value_length', headDim);
  if (valueDim !== headDim) {
    throw new UnsupportedModelError(
      `${path}: keys of ${headDim} and values of ${valueDim} per head; only equal ones are supported`,
    );
  }
  const rope = ropeReader(file, fields, reading, { headDim, maxModelLen });

  return {
    architecture: architecture.name,
    hiddenSize,
    intermediateSize: uniformSize(fields, 'feed_forward_length'),
    numLayers,
    numHeads,
    numKvHeads,
    headDim,
    vocabSize: vocabSize(path, directory),
    maxPositionEmbeddings: rope.maxPositions,
    normEps: fields.positive('attention.layer_norm_rms_epsilon'),
    normWeightOffset: 0, // converters store what is multiplied
    embeddingScale: reading.embeddingScale?.(hiddenSize) ?? 1,
    attentionScale:
      reading.attentionScale?.({ hiddenSize, numHeads, numLayers, headDim }) ?? headDim ** -0.5,
    activation: reading.activation,
    biases: biasesPresent(directory),
    tiedEmbeddings: directory.get('lm_head.weight') === undefined,
    logitSoftcap: fields.has('final_logit_softcapping')
      ? fields.positive('final_logit_softcapping')
      : null,
    layers: Array.from({ length: numLayers }, (_, index) => {
      const type = reading.layerType?.(fields, index) ?? 'full_attention';
      const window = type === 'sliding_attention' ? fields.size('attention.sliding_window') : null;
      return { window, rope: rope.of(type) };
    }),
    bosTokenId: all.tokenIds('tokenizer.ggml.bos_token_id')[0] ?? null,
    eosTokenIds: endOfTextIds(all, reading.endTexts),
  };
}

/** `general.sampling.*`, which newer converters write. */
export function parseGgufSampling(path: string, metadata: GgufFile['metadata']): SamplingDefaults {
  const fields = new ConfigFields(path, (key) => metadata.get(`general.sampling.${key}`));
  const entries = Object.entries({
    temperature: 'temp',
    topK: 'top_k',
    topP: 'top_p',
    minP: 'min_p',
    repetitionPenalty: 'penalty_repeat',
  });
  return Object.fromEntries(
    entries.flatMap(([name, key]) => (fields.has(key) ? [[name, fields.number(key)]] : [])),
  );
}

function refuseUnsupported(fields: ConfigFields): void {
  if (fields.has('expert_count') && fields.number('expert_count') > 0) {
    throw new UnsupportedModelError(
      `${fields.source}: mixture of ${fields.number('expert_count')} experts is not supported`,
    );
  }
  if (fields.has('attn_logit_softcapping') && fields.number('attn_logit_softcapping') > 0) {
    throw new UnsupportedModelError(`${fields.source}: attn_logit_softcapping is not supported`);
  }
}

/** A size that may be written once per layer; all layers must agree. */
function uniformSize(fields: ConfigFields, key: string): number {
  const sizes = new Set(fields.oneOrMore(key));
  if (sizes.size <= 1) return new ConfigFields(fields.source, () => [...sizes][0]).size(key);
  throw new UnsupportedModelError(
    `${fields.source}: "${key}" differs from layer to layer (${[...sizes].slice(0, 8).join(', ')}); \
only one value for all is supported`,
  );
}

function vocabSize(path: string, directory: WeightDirectory): number {
  const rows = directory.get('model.embed_tokens.weight')?.shape[0];
  if (rows === undefined || rows < 1) {
    throw new ModelError(`${path}: tensor "token_embd.weight" is missing`, {
      tensor: 'model.embed_tokens.weight',
    });
  }
  return rows;
}

/** The metadata does not say; the first layer's tensors do, and the others are checked against them. */
function biasesPresent(directory: WeightDirectory) {
  const has = (part: string) => directory.get(`model.layers.0.${part}.bias`) !== undefined;
  return {
    qkv: has('self_attn.q_proj') || has('self_attn.qkv_proj'),
    output: has('self_attn.o_proj'),
    mlp: has('mlp.down_proj'),
  };
}

interface RopeReader {
  of(type: LayerType): RopeSpec;
  /** How far the model reaches with these rotations. */
  readonly maxPositions: number;
}

function ropeReader(
  file: GgufFile,
  fields: ConfigFields,
  reading: GgufReading,
  { headDim, maxModelLen }: { headDim: number; maxModelLen: number | null },
): RopeReader {
  const style = reading.ropeStyle(fields);
  const rotaryDim = fields.size('rope.dimension_count', headDim);
  if (rotaryDim > headDim || rotaryDim % 2 !== 0) {
    throw new ModelError(
      `${fields.source}: rope.dimension_count is ${rotaryDim}; expected an even number up to the head dimension ${headDim}`,
    );
  }
  const theta = fields.positive('rope.freq_base', 10_000);
  const context = fields.size('context_length');
  const original = fields.size('rope.scaling.original_context_length', context);
  const isLong = maxModelLen !== null && maxModelLen > original;
  const longFactors = readFactors(file, isLong ? 'long' : 'short', rotaryDim);
  const scaling = longFactors
    ? {
        kind: 'factors' as const,
        factors: longFactors,
        magnitude: fields.positive(
          'rope.scaling.attn_factor',
          longRopeMagnitude(context / original, original),
        ),
      }
    : scalingOf(file, fields, { rotaryDim, original });
  const full = ropeSpec(style, rotaryDim, theta, scaling);
  const slidingTheta = fields.has('rope.freq_base_swa')
    ? fields.positive('rope.freq_base_swa')
    : reading.slidingRopeTheta;
  const sliding =
    slidingTheta === undefined ? full : ropeSpec(style, rotaryDim, slidingTheta, { kind: 'none' });
  return {
    of: (type) => (type === 'full_attention' ? full : sliding),
    maxPositions: longFactors && maxModelLen === null ? original : context,
  };
}

function scalingOf(
  file: GgufFile,
  fields: ConfigFields,
  { rotaryDim, original }: { rotaryDim: number; original: number },
): RopeScaling {
  const factors = checkedFactors(file, 'rope_freqs.weight', rotaryDim);
  if (factors !== null) return { kind: 'factors', factors, magnitude: 1 };
  const kind = fields.string('rope.scaling.type', 'none');
  switch (kind) {
    case 'none':
      return { kind: 'none' };
    case 'linear':
      return { kind, factor: fields.positive('rope.scaling.factor') };
    case 'yarn':
      return {
        kind,
        factor: fields.positive('rope.scaling.factor'),
        originalMaxPositions: original,
        betaFast: fields.positive('rope.scaling.yarn_beta_fast', 32),
        betaSlow: fields.positive('rope.scaling.yarn_beta_slow', 1),
        truncate: true,
        magnitude: null,
      };
    default:
      throw new UnsupportedModelError(
        `${fields.source}: rope scaling "${kind}" is not supported; accepted: none, linear, yarn`,
        { seen: kind, expected: 'none, linear, yarn' },
      );
  }
}

function readFactors(file: GgufFile, length: 'long' | 'short', rotaryDim: number) {
  return checkedFactors(file, `rope_factors_${length}.weight`, rotaryDim);
}

function checkedFactors(file: GgufFile, name: string, rotaryDim: number): readonly number[] | null {
  const stored = file.readF32(name);
  if (stored === null) return null;
  if (stored.length !== rotaryDim / 2 || stored.some((factor) => !(factor > 0))) {
    throw new ModelError(
      `${file.path}: tensor "${name}" has ${stored.length} values; expected ${rotaryDim / 2} above 0`,
      { tensor: name, seen: `[${stored.length}]`, expected: `[${rotaryDim / 2}]` },
    );
  }
  return Array.from(stored);
}
