/** A model on disk → which format each of its tensors is to have as GGUF for a size or a number of bits. The search's results so far are kept beside the output. */
import { existsSync, readFileSync, rmSync, statSync } from 'node:fs';
import type { ModelConfig } from '../models/model-config.ts';
import { ggufArchitecture } from '../models/registry.ts';
import { canonicalFromGguf } from '../models/tensor-names.ts';
import { writeFileAtomic } from '../platform/atomic-file.ts';
import type { WeightSource } from '../weights/contract.ts';
import { ggufHeaderBytes, type TensorToWrite } from '../weights/gguf-writer.ts';
import { openWeights } from '../weights/weight-source.ts';
import { fingerprintOf } from './compression-state.ts';
import { CompressError } from './errors.ts';
import { F32Weights } from './f32-weights.ts';
import { gatherImportance } from './gather-importance.ts';
import {
  type MixedOptions,
  type MixedPlan,
  type ProbeState,
  planMixedPrecision,
  tensorTotals,
} from './mixed-precision.ts';
import type { MetadataToWrite } from './quantize-gguf.ts';

/** Room for metadata that are added. */
const HEADER_SLACK = 4096;

export interface MixModelOptions
  extends Pick<MixedOptions, 'formats' | 'windows' | 'threads' | 'signal'> {
  readonly target:
    | { readonly kind: 'bpw'; readonly bitsPerWeight: number }
    | { readonly kind: 'size'; readonly bytes: number };
  /** Tensors will be encoded with this; otherwise it is gathered from the text and only weighs errors. */
  readonly importance?: ReadonlyMap<string, Float32Array> | undefined;
  /** The model in GGUF's terms where it is no GGUF file: its matrices as the model has them, and all metadata. */
  readonly converted?: { readonly inStoredOrder: WeightSource; readonly metadata: MetadataToWrite };
  /** Where divergences are kept until the search is done. */
  readonly stateFile: string;
  onProgress?(phase: 'imatrix' | 'errors' | 'probes', done: number, total: number): void;
}

/**
 * @param model the numbers of the model at `modelPath`, and its tensors by canonical names
 * @throws {CompressError} if it is no GGUF model, the target cannot be reached, or `stateFile` is of another search
 */
export async function mixModel(
  modelPath: string,
  { config, weights }: { readonly config: ModelConfig; readonly weights: WeightSource },
  options: MixModelOptions,
): Promise<MixedPlan> {
  const { target, formats, windows, threads, signal, stateFile, converted, onProgress } = options;
  using opened = converted === undefined ? openWeights(modelPath) : null;
  const source = converted?.inStoredOrder ?? opened!;
  if (source.format !== 'gguf') {
    throw new CompressError(`${modelPath}: is a safetensors model and was not converted`);
  }
  const { metadata } = converted ?? source;
  const f32 = new F32Weights(weights);
  const importance =
    options.importance ??
    (await gatherImportance({
      ...{ weights: f32, config, windows, threads },
      ...(signal && { signal }),
      onProgress: (done, total) => onProgress?.('imatrix', done, total),
    }));
  const { reading } = ggufArchitecture(modelPath, String(metadata.get('general.architecture')));
  const totals = tensorTotals(source);
  const headerBytes =
    converted === undefined
      ? source.sizeBytes - totals.bytes
      : ggufHeaderBytes(modelPath, {
          metadata: converted.metadata,
          tensors: headerTensors(source),
        });
  const padding = HEADER_SLACK + 32 * source.tensors.size;
  const budgetBytes =
    target.kind === 'bpw'
      ? Math.floor((target.bitsPerWeight * totals.elements) / 8)
      : target.bytes - headerBytes - padding;
  const encodesWeighted = options.importance !== undefined;
  const files = source.files.map((file) => [file, statSync(file).size, statSync(file).mtimeMs]);
  const weighing = encodesWeighted
    ? fingerprintOf([...importance].map(([n, v]) => [n, [...v]]))
    : null;
  const state = new ProbeFile(stateFile, fingerprintOf({ files, windows, weighing }));
  const plan = await planMixedPrecision({
    ...{ source, weights: f32, config, budgetBytes, formats, importance, encodesWeighted },
    ...{ windows, threads, state },
    ...(signal && { signal }),
    ...(onProgress && { onProgress }),
    canonicalName: (name) => canonicalFromGguf(name, reading.tensorParts),
  });
  return plan;
}

/** For the size of a header only. */
function headerTensors({ tensors }: WeightSource): TensorToWrite[] {
  return [...tensors.values()].map(({ name, dtype, shape }) => ({
    name,
    dtype,
    shape,
    data: () => [],
  }));
}

/** Removes what a search left for going on with. */
export function removeProbes(stateFile: string): void {
  rmSync(stateFile, { force: true });
}

interface Stored {
  readonly fingerprint: string;
  readonly divergences: Readonly<Record<string, number>>;
}

/** Divergences in a JSON file, written anew with each. */
class ProbeFile implements ProbeState {
  readonly #file: string;
  readonly #fingerprint: string;
  readonly #divergences = new Map<string, number>();

  /** @throws {CompressError} if the file is of another search */
  constructor(file: string, fingerprint: string) {
    this.#file = file;
    this.#fingerprint = fingerprint;
    if (!existsSync(file)) return;
    const stored = storedProbes(file);
    if (stored?.fingerprint !== fingerprint) {
      throw new CompressError(
        `${file}: holds the search of another model, calibration text or importance; remove it, or name another output`,
      );
    }
    for (const [key, value] of Object.entries(stored.divergences))
      this.#divergences.set(key, value);
  }

  get(key: string): number | undefined {
    return this.#divergences.get(key);
  }

  async set(key: string, divergence: number): Promise<void> {
    this.#divergences.set(key, divergence);
    const divergences = Object.fromEntries(this.#divergences);
    await writeFileAtomic(
      this.#file,
      JSON.stringify({ fingerprint: this.#fingerprint, divergences } satisfies Stored),
    );
  }
}

function storedProbes(file: string): Stored | null {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as Stored;
  } catch {
    return null;
  }
}
