/**
 * One row of the table of methods, in a process of its own so that its peak memory is its own: rounds a model's linears by a method and compares
 * the result, in f32, with the model as it was. Takes a `MethodJob` on stdin, prints a `MethodRow`; for a `SensitivityJob`, a `SensitivityRow`.
 */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { compareQuality, type Quality } from '../../src/app/evaluate.ts';
import { OpenedModel } from '../../src/app/open-model.ts';
import {
  type CalibratedOptions,
  compressLinears,
  type Method,
} from '../../src/compress/calibrated.ts';
import { F32Weights } from '../../src/compress/f32-weights.ts';
import {
  bitsPerWeight,
  type GroupScheme,
  type QuantizedMatrix,
} from '../../src/compress/group-quantizer.ts';
import { peakBytes } from '../../src/platform/peak-memory.ts';
import { decodeCodebook, encodeCodebook } from '../../src/tensor/codebook.ts';
import { DTYPES } from '../../src/tensor/dtype.ts';
import { type EvalSet, evalWindows } from '../quality/eval-windows.ts';
import {
  linearsOf,
  measureSensitivities,
  roundToMixedBits,
  type Sensitivities,
} from './mixed-bits.ts';

export interface MethodJob {
  readonly modelPath: string;
  readonly evalSet: EvalSet;
  readonly evalWindows: number;
  readonly method: Method | 'nf4' | 'mixed';
  /** NF4 takes the group size of it alone. */
  readonly scheme: GroupScheme;
  readonly calibrationTokens: number;
  readonly threads: number;
  /** Of `mixed`. */
  readonly sensitivity?: SensitivityRow;
}

interface Cost {
  readonly seconds: number;
  /** Of all threads. */
  readonly cpuSeconds: number;
  /** Largest resident set so far. */
  readonly peakBytes: number;
}

/** Of a model, for all of its mixed rows. */
export interface SensitivityRow extends Cost {
  readonly value: Sensitivities;
}

export interface MethodRow {
  /** Of the linears, scales and zero points included. */
  readonly bitsPerWeight: number;
  /** Linears at that, everything else in f16. */
  readonly sizeBytes: number;
  readonly quality: Quality;
  readonly reference: Quality;
  readonly quantizeSeconds: number;
  /** Of all threads. */
  readonly cpuSeconds: number;
  readonly threads: number;
  /** Largest resident set until the model was quantized. */
  readonly peakBytes: number;
}

const WINDOW = 512;
const NF4_BLOCK = 64;
const CALIBRATION = fileURLToPath(
  new URL('../../assets/calibration/public-domain.txt', import.meta.url),
);

async function costOf<T>(work: () => T | Promise<T>): Promise<Cost & { readonly value: T }> {
  const startMs = performance.now();
  const value = await work();
  const seconds = (performance.now() - startMs) / 1000;
  const { user, system } = process.cpuUsage();
  return { value, seconds, cpuSeconds: (user + system) / 1e6, peakBytes: peakBytes() };
}

interface RoundedLinear {
  readonly elements: number;
  /** Per element. */
  readonly bits: number;
}

function asRounded(matrices: Iterable<QuantizedMatrix>): RoundedLinear[] {
  return Array.from(matrices, (matrix) => ({
    elements: matrix.rows * matrix.columns,
    bits: bitsPerWeight(matrix),
  }));
}

/** bitsandbytes' code book, with scales in f16 as all other methods here have them. */
function roundToNf4(weights: F32Weights, blockSize: number): RoundedLinear[] {
  return linearsOf(weights).map((name) => {
    const values = weights.readF32(name);
    const coded = encodeCodebook(values, 'nf4', blockSize);
    weights.replace(name, decodeCodebook({ ...coded, absmax: coded.absmax.map(Math.f16round) }));
    return { elements: values.length, bits: 4 + 16 / blockSize };
  });
}

type JobModel = Pick<CalibratedOptions, 'weights' | 'config' | 'windows'> & { threads: number };

async function roundedBy(
  { method, scheme, sensitivity }: MethodJob,
  model: JobModel,
): Promise<RoundedLinear[]> {
  switch (method) {
    case 'nf4':
      return roundToNf4(model.weights, scheme.groupSize === 'row' ? NF4_BLOCK : scheme.groupSize);
    case 'mixed':
      return asRounded(roundToMixedBits(model.weights, scheme, sensitivity!.value, model.threads));
    default: {
      const { matrices } = await compressLinears({ ...model, method, schemeOf: () => scheme });
      return asRounded(matrices.values());
    }
  }
}

export async function measureMethod(job: MethodJob): Promise<MethodRow> {
  const { threads } = job;
  using model = new OpenedModel(job.modelPath);
  const { config, weights: source } = model.description;
  const jobModel = jobModelOf(job, model);
  const { weights } = jobModel;
  const { value: linears, ...cost } = await costOf(() => roundedBy(job, jobModel));
  const search = job.sensitivity ?? { seconds: 0, cpuSeconds: 0, peakBytes: 0 };
  const linearElements = linears.reduce((sum, linear) => sum + linear.elements, 0);
  const linearBits = linears.reduce((sum, linear) => sum + linear.elements * linear.bits, 0);
  let elements = 0;
  for (const { shape, dtype } of source.tensors.values()) {
    if (DTYPES[dtype].kind !== 'integer') elements += shape.reduce((a, b) => a * b, 1);
  }
  const scored = evalWindows(job.evalSet).slice(0, job.evalWindows);
  const quality = await compareQuality(
    { config, weights },
    { config, weights: new F32Weights(source) },
    scored.map(({ tokenIds }) => ({ tokenIds, firstScored: 1 })),
    { target: 'auto', threads, precision: 'f32' },
  );
  if (!('reference' in quality)) throw new Error('no reference');
  return {
    bitsPerWeight: linearBits / linearElements,
    sizeBytes: linearBits / 8 + 2 * (elements - linearElements),
    quality: quality.model,
    reference: quality.reference,
    quantizeSeconds: search.seconds + cost.seconds,
    cpuSeconds: search.cpuSeconds + cost.cpuSeconds,
    threads,
    peakBytes: Math.max(search.peakBytes, cost.peakBytes),
  };
}

function jobModelOf(
  { calibrationTokens, threads }: Pick<MethodJob, 'calibrationTokens' | 'threads'>,
  model: OpenedModel,
): JobModel {
  const { config, weights } = model.description;
  const ids = model.requireTokenizer().encode(readFileSync(CALIBRATION, 'utf8'));
  const numWindows = Math.max(1, Math.floor(calibrationTokens / WINDOW));
  if (ids.length < numWindows * WINDOW) throw new Error(`the text has ${ids.length} tokens only`);
  const windows = Array.from({ length: numWindows }, (_, i) =>
    ids.slice(i * WINDOW, (i + 1) * WINDOW),
  );
  return { weights: new F32Weights(weights), config, windows, threads };
}

export type SensitivityJob = Pick<MethodJob, 'modelPath' | 'calibrationTokens' | 'threads'>;

async function measureSensitivity(job: SensitivityJob): Promise<SensitivityRow> {
  using model = new OpenedModel(job.modelPath);
  return await costOf(() => measureSensitivities(jobModelOf(job, model)));
}

if (import.meta.main) {
  const job = JSON.parse(readFileSync(0, 'utf8')) as MethodJob | SensitivityJob;
  console.log(
    JSON.stringify('method' in job ? await measureMethod(job) : await measureSensitivity(job)),
  );
}
