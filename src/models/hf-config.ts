/**
 * `config.json` and `generation_config.json` of transformers → `ModelConfig`. The keys of those files appear here, in `hf-rope.ts` and in the
 * particulars of each architecture, and nowhere else.
 */
import type { HfReading } from './architecture.ts';
import { ConfigFields } from './config-fields.ts';
import { ModelError, UnsupportedModelError } from './errors.ts';
import { type HfRopeOptions, hfRope, type LayerType, shortRopeReach } from './hf-rope.ts';
import {
  activationNamed,
  checkHeads,
  defaultHeadDim,
  type LayerConfig,
  type ModelConfig,
} from './model-config.ts';
import { hfArchitecture } from './registry.ts';
import type { SamplingDefaults } from './sampling-defaults.ts';

export interface HfConfigOptions {
  /** The file, for messages. */
  readonly source?: string;
  /** Longest sequence that will be run, where the model's rotation depends on it (LongRoPE); null for its original length. */
  readonly maxModelLen?: number | null;
  /** Parsed generation_config.json, if there is one. */
  readonly generationConfig?: Readonly<Record<string, unknown>> | null;
}

/**
 * @param json parsed config.json
 * @throws {UnsupportedModelError} for an unknown architecture or a feature that is not implemented
 * @throws {ModelError} naming the key, the value seen and what is accepted
 */
export function parseHfConfig(
  json: Readonly<Record<string, unknown>>,
  { source = 'config.json', maxModelLen = null, generationConfig = null }: HfConfigOptions = {},
): ModelConfig {
  const top = ConfigFields.ofObject(source, json);
  const { architecture, reading } = hfArchitecture(source, classNames(top));
  const text = top.object('text_config');
  const fields = ConfigFields.ofObject(
    text === null ? source : `${source}: text_config`,
    text ?? json,
    reading.defaults,
  );
  refuseUnsupported(fields);

  const hiddenSize = fields.size('hidden_size');
  const numLayers = fields.size('num_hidden_layers');
  const numHeads = fields.size('num_attention_heads');
  const numKvHeads = fields.size('num_key_value_heads', numHeads);
  const statedHeadDim = fields.has('head_dim')
    ? fields.size('head_dim')
    : defaultHeadDim(source, hiddenSize, numHeads);
  const headDim = reading.headDim?.(fields) ?? statedHeadDim;
  checkHeads(source, { numLayers, numHeads, numKvHeads, headDim });
  const maxPositions = fields.size('max_position_embeddings');
  const activation = fields.string('hidden_activation', fields.string('hidden_act', 'silu'));

  return {
    architecture: architecture.name,
    hiddenSize,
    intermediateSize: fields.size('intermediate_size'),
    numLayers,
    numHeads,
    numKvHeads,
    headDim,
    vocabSize: fields.size('vocab_size'),
    maxPositionEmbeddings:
      maxModelLen === null ? (shortRopeReach(fields) ?? maxPositions) : maxPositions,
    normEps: fields.positive('rms_norm_eps'),
    normWeightOffset: reading.normWeightOffset ?? 0,
    embeddingScale: reading.embeddingScale?.(hiddenSize) ?? 1,
    attentionScale: reading.attentionScale?.(fields) ?? headDim ** -0.5,
    activation: activationNamed(source, activation),
    biases: reading.biases(fields),
    // models with an image part state it at the top, and there it counts for all
    tiedEmbeddings: fields.boolean(
      'tie_word_embeddings',
      top.boolean('tie_word_embeddings', false),
    ),
    logitSoftcap: fields.has('final_logit_softcapping')
      ? fields.positive('final_logit_softcapping')
      : null,
    layers: layerConfigs(fields, reading, {
      numLayers,
      headDim,
      rotaryBase: statedHeadDim,
      maxModelLen,
    }),
    bosTokenId: fields.tokenIds('bos_token_id')[0] ?? top.tokenIds('bos_token_id')[0] ?? null,
    eosTokenIds: eosTokenIds(source, [fields, top], generationConfig),
  };
}

function classNames(top: ConfigFields): readonly string[] {
  const names = Array.from(top.list('architectures') ?? []);
  const strings = names.filter((name) => typeof name === 'string');
  if (strings.length === 0) {
    throw new ModelError(
      `${top.source}: "architectures" names no class; expected a list such as ["LlamaForCausalLM"]`,
    );
  }
  return strings;
}

function refuseUnsupported(fields: ConfigFields): void {
  const refuse = (what: string): never => {
    throw new UnsupportedModelError(`${fields.source}: ${what}`);
  };
  if (fields.has('attn_logit_softcapping')) refuse('attn_logit_softcapping is not supported');
  if (fields.boolean('use_bidirectional_attention', false)) {
    refuse('bidirectional attention is not supported');
  }
}

function layerConfigs(
  fields: ConfigFields,
  reading: HfReading,
  { numLayers, ...rope }: { numLayers: number } & Omit<HfRopeOptions, 'style'>,
): readonly LayerConfig[] {
  const types = layerTypes(fields, reading, numLayers);
  const configOf = (type: LayerType): LayerConfig => ({
    window: type === 'sliding_attention' ? fields.size('sliding_window') : null,
    rope: hfRope(fields, type, { style: reading.ropeStyle, ...rope }),
  });
  const byType = new Map([...new Set(types)].map((type) => [type, configOf(type)] as const));
  return types.map((type) => byType.get(type)!);
}

function layerTypes(
  fields: ConfigFields,
  reading: HfReading,
  numLayers: number,
): readonly LayerType[] {
  const listed = fields.list('layer_types');
  const stated = listed === null ? null : Array.from(listed);
  if (stated === null) {
    return Array.from(
      { length: numLayers },
      (_, index) => reading.layerType?.(fields, index) ?? 'full_attention',
    );
  }
  if (stated.length !== numLayers) {
    throw new ModelError(
      `${fields.source}: "layer_types" has ${stated.length} entries; expected one for each of ${numLayers} layers`,
    );
  }
  return stated.map((type) => {
    if (type === 'full_attention' || type === 'sliding_attention') return type;
    throw new UnsupportedModelError(
      `${fields.source}: layer type ${JSON.stringify(type)} is not supported; accepted: full_attention, sliding_attention`,
    );
  });
}

/** The union of all places that name one: each alone is incomplete in some published model. */
function eosTokenIds(
  source: string,
  places: readonly ConfigFields[],
  generationConfig: Readonly<Record<string, unknown>> | null,
): readonly number[] {
  const generation = ConfigFields.ofObject(
    `${source}: generation_config.json`,
    generationConfig ?? {},
  );
  const ids = [...places, generation].flatMap((fields) => fields.tokenIds('eos_token_id'));
  return [...new Set(ids)].sort((a, b) => a - b);
}

/** What generation_config.json says of sampling; keys that it leaves out are absent. */
export function parseGenerationConfig(
  json: Readonly<Record<string, unknown>>,
  source = 'generation_config.json',
): SamplingDefaults {
  const fields = ConfigFields.ofObject(source, json);
  const optional = (key: string) => (fields.has(key) ? fields.number(key) : undefined);
  const isGreedy = fields.has('do_sample') && !fields.boolean('do_sample');
  return definedOnly({
    temperature: isGreedy ? 0 : optional('temperature'),
    topK: optional('top_k'),
    topP: optional('top_p'),
    minP: optional('min_p'),
    repetitionPenalty: optional('repetition_penalty'),
  });
}

function definedOnly(values: Record<string, number | undefined>): SamplingDefaults {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined));
}
