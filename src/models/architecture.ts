/**
 * What an architecture declares about itself. Readers and the graph builder ask these properties and never for a name, so that a new
 * architecture is one new file and a line in the registry.
 */
import type { ActivationKind, GraphNode, RopeSpec } from '../graph/ir.ts';
import type { ConfigFields } from './config-fields.ts';
import type { DecoderLayer } from './decoder-layer.ts';
import type { LayerType } from './hf-rope.ts';
import type { BiasConfig } from './model-config.ts';

/** How `config.json` of one transformers class is read, where classes differ. */
export interface HfReading {
  /** Values of absent keys: the defaults of the class. */
  readonly defaults?: Readonly<Record<string, unknown>>;
  readonly ropeStyle: RopeSpec['style'];
  biases(fields: ConfigFields): BiasConfig;
  /** Head dimension where it is not what `head_dim` states; the rotated part is a fraction of the stated one all the same. */
  headDim?(fields: ConfigFields): number;
  /** Kind of layer `index` where the file has no `layer_types`; all see everything by default. */
  layerType?(fields: ConfigFields, index: number): LayerType;
  attentionScale?(fields: ConfigFields): number;
  embeddingScale?(hiddenSize: number): number;
  readonly normWeightOffset?: number;
}

/** What of a GGUF file's numbers decides the particulars of an architecture. */
export interface GgufNumbers {
  readonly hiddenSize: number;
  readonly numHeads: number;
  readonly numLayers: number;
  readonly headDim: number;
}

/** How GGUF metadata and tensor names of an architecture are read. */
export interface GgufReading {
  /** @param fields metadata under the architecture's own prefix */
  ropeStyle(fields: ConfigFields): RopeSpec['style'];
  readonly activation: ActivationKind;
  /** Tensor names that differ from the common table, GGUF part → canonical part. */
  readonly tensorParts?: Readonly<Record<string, string>>;
  /** Kind of layer `index`; all see everything by default. A sliding layer takes its window from the metadata. */
  layerType?(fields: ConfigFields, index: number): LayerType;
  /** Texts of tokens that end a turn and that the metadata does not name. */
  readonly endTexts?: readonly string[];
  /** Theta of sliding layers where it is not that of the others; these then have no scaling either. */
  readonly slidingRopeTheta?: number;
  attentionScale?(numbers: GgufNumbers): number;
  embeddingScale?(hiddenSize: number): number;
}

export interface Architecture {
  readonly name: string;
  /** By the class name that `architectures` of config.json gives. */
  readonly hf: Readonly<Record<string, HfReading>>;
  /** By `general.architecture`. */
  readonly gguf: Readonly<Record<string, GgufReading>>;
  /**
   * One decoder layer.
   *
   * @param x the residual stream, f32 [T, hiddenSize]
   * @returns the same after this layer
   */
  decoderLayer(layer: DecoderLayer, x: GraphNode): GraphNode;
}

export const NO_BIASES: BiasConfig = { qkv: false, output: false, mlp: false };
