/**
 * A model on disk → its description: numbers, and weights by canonical names. The one place that knows which reader goes with which kind of
 * file. The graph is `step-graph.ts`'s business: a start that finds its plan in the cache does without.
 */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import type { WeightSource } from '../weights/contract.ts';
import { HfQuantizedWeights } from '../weights/hf-quantized-weights.ts';
import { QuantizedOnLoad } from '../weights/quantize-on-load.ts';
import type { QuantizationConfig } from '../weights/quantized/foreign-matrix.ts';
import { OUTLIER_FILE } from '../weights/quantized/outlier-file.ts';
import { openWeights } from '../weights/weight-source.ts';
import { ModelError } from './errors.ts';
import { parseGgufConfig, parseGgufSampling } from './gguf-config.ts';
import { parseGenerationConfig, parseHfConfig } from './hf-config.ts';
import { type LoadFormat, loadedDtype } from './load-format.ts';
import type { ModelConfig } from './model-config.ts';
import { ggufArchitecture } from './registry.ts';
import { RenamedWeights } from './renamed-weights.ts';
import type { SamplingDefaults } from './sampling-defaults.ts';
import { canonicalFromGguf, canonicalFromHf } from './tensor-names.ts';

export interface ModelDescription extends Disposable {
  /** As the user gave it. */
  readonly path: string;
  readonly format: WeightSource['format'];
  readonly config: ModelConfig;
  /** Tensors by canonical names, which the graph refers to. */
  readonly weights: WeightSource;
  readonly samplingDefaults: SamplingDefaults;
}

export interface LoadModelOptions {
  /** Longest sequence that will be run. Only models whose rotation depends on it (LongRoPE) need to know; null: their original length. */
  readonly maxModelLen?: number | null;
  /** Quantizes matrices that are stored in floats as they are read. */
  readonly loadIn?: LoadFormat | null;
}

/**
 * @param modelPath a GGUF file, or a folder with config.json and safetensors
 * @throws {ModelError} if the description is broken or not supported
 * @throws {WeightFileError} if a weight file cannot be read
 */
export function loadModelDescription(
  modelPath: string,
  options: LoadModelOptions = {},
): ModelDescription {
  if (!existsSync(modelPath)) throw new ModelError(`${modelPath}: there is no such file or folder`);
  const { config, weights: stored, samplingDefaults } = readModel(modelPath, options);
  const weights = options.loadIn == null ? stored : quantizedOnLoad(stored, options.loadIn);
  return {
    path: modelPath,
    format: weights.format,
    config,
    weights,
    samplingDefaults,
    [Symbol.dispose]: () => weights.close(),
  };
}

function quantizedOnLoad(stored: WeightSource, format: LoadFormat): WeightSource {
  const weights = new QuantizedOnLoad(stored, (tensor) => loadedDtype(format, tensor));
  if (weights.hasEncoded) return weights;
  const dtypes = new Set([...stored.tensors.values()].map(({ dtype }) => dtype));
  weights.close();
  throw new ModelError(
    `${stored.path}: has no matrix in f32, f16 or bf16 to load in ${format}; its tensors are ${[...dtypes].join(', ')}`,
  );
}

interface ReadModel {
  readonly config: ModelConfig;
  readonly weights: WeightSource;
  readonly samplingDefaults: SamplingDefaults;
}

function readModel(modelPath: string, options: LoadModelOptions): ReadModel {
  const source = openWeights(modelPath);
  try {
    return source.format === 'gguf'
      ? readGguf(modelPath, source, options)
      : readHfFolder(modelPath, source, options);
  } catch (error) {
    source.close();
    throw error;
  }
}

function readHfFolder(
  folder: string,
  source: WeightSource,
  { maxModelLen = null }: LoadModelOptions,
): ReadModel {
  const configPath = path.join(folder, 'config.json');
  if (!existsSync(configPath)) {
    throw new ModelError(
      `${folder}: there is no config.json with these weights; expected a Hugging Face model folder or a GGUF file`,
    );
  }
  const generationPath = path.join(folder, 'generation_config.json');
  const generationConfig = existsSync(generationPath) ? readJsonObject(generationPath) : null;
  const config = readJsonObject(configPath);
  return {
    config: parseHfConfig(config, {
      source: configPath,
      maxModelLen,
      generationConfig,
    }),
    weights: new RenamedWeights(plainWeights(folder, source, config), canonicalFromHf),
    samplingDefaults: parseGenerationConfig(generationConfig ?? {}, generationPath),
  };
}

/** Weights that another toolkit quantized are seen as ordinary tensors from here on. */
function plainWeights(
  folder: string,
  source: WeightSource,
  description: Readonly<Record<string, unknown>>,
): WeightSource {
  const text = description.text_config as Readonly<Record<string, unknown>> | undefined;
  const quantization = description.quantization_config ?? text?.quantization_config;
  if (typeof quantization !== 'object' || quantization === null) return source;
  const config = quantization as QuantizationConfig;
  const outlierPath = path.join(folder, OUTLIER_FILE);
  const hasOutliers = config.quant_method === 'bitsandbytes' && existsSync(outlierPath);
  const outlierFile = hasOutliers ? openWeights(outlierPath) : null;
  try {
    return new HfQuantizedWeights(source, config, outlierFile);
  } catch (error) {
    outlierFile?.close();
    throw error;
  }
}

function readGguf(file: string, source: WeightSource, options: LoadModelOptions): ReadModel {
  const { metadata } = source;
  const found = ggufArchitecture(file, String(metadata.get('general.architecture')));
  const weights = new RenamedWeights(source, (name) =>
    canonicalFromGguf(name, found.reading.tensorParts),
  );
  const config = parseGgufConfig(
    {
      path: file,
      metadata,
      directory: weights.tensors,
      readF32: (name) => (source.tensors.has(name) ? source.readF32(name) : null),
    },
    found,
    options,
  );
  return { config, weights, samplingDefaults: parseGgufSampling(file, metadata) };
}

function readJsonObject(file: string): Readonly<Record<string, unknown>> {
  let parsed: unknown;
  try {
    parsed = JSON.parse(readFileSync(file, 'utf8'));
  } catch (cause) {
    throw new ModelError(`${file}: is not valid JSON: ${(cause as Error).message}`, {}, { cause });
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
    throw new ModelError(
      `${file}: holds ${JSON.stringify(parsed)?.slice(0, 40)}; expected an object`,
    );
  }
  return parsed as Record<string, unknown>;
}
