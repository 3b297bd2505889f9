/**
 * A format for each tensor of a GGUF model such that the whole fits a budget and its predictions change least.
 *
 *   1. how much each format would change a tensor: squared rounding errors, times the mean squared inputs of their channels, on some rows
 *   2. what that means: the KL divergence of the model's predictions with this one tensor in one format near the budget, on a calibration text
 *   3. losses of the other formats follow from 2 by the ratio of 1: for small changes the divergence grows with the square of the error
 *   4. the allocation of least total loss (bit-allocation.ts)
 *
 * Step 2 takes most of the time; its results are kept, so that a killed search goes on.
 */
import type { ModelConfig } from '../models/model-config.ts';
import { viewBytes } from '../platform/view-bytes.ts';
import { DTYPES, type DType } from '../tensor/dtype.ts';
import { decodeRow } from '../tensor/rows.ts';
import type { WeightSource } from '../weights/contract.ts';
import { allocateBits, type Choice } from './bit-allocation.ts';
import { EncodeKernels } from './encode-kernels.ts';
import { encodeRows } from './encode-rows.ts';
import { CompressError } from './errors.ts';
import type { F32Weights } from './f32-weights.ts';
import { isQuantizable } from './ggml-recipe.ts';
import { matrixRows, matrixShape } from './matrix-rows.ts';
import { TensorProbe } from './tensor-probe.ts';

/** Formats that are tried unless others are asked for; of equal size the better one. */
export const MIXED_FORMATS = [
  ...(['q2_k', 'q3_k', 'iq4_xs', 'iq4_nl', 'q4_0', 'q4_1', 'q4_k'] as const),
  ...(['q5_0', 'q5_1', 'q5_k', 'q6_k', 'q8_0'] as const),
] satisfies readonly DType[];
export type MixedFormat = (typeof MIXED_FORMATS)[number];

/** Elements of a tensor whose rounding errors are looked at. */
const SAMPLE_ELEMENTS = 1 << 15;
/** Below this a divergence is rounding of f32. */
const LEAST_DIVERGENCE = 1e-7;

/** Divergences that are known, by tensor and format; kept between runs. */
export interface ProbeState {
  get(key: string): number | undefined;
  set(key: string, divergence: number): Promise<void>;
}

export interface MixedOptions {
  /** The GGUF file, by its own names. */
  readonly source: WeightSource;
  /** The same, by canonical names. */
  readonly weights: F32Weights;
  readonly config: ModelConfig;
  canonicalName(name: string): string | null;
  /** Bytes for all tensors, those that stay as they are included. */
  readonly budgetBytes: number;
  readonly formats: readonly DType[];
  /** Mean squared input per channel, by GGUF's names, for the errors. */
  readonly importance: ReadonlyMap<string, Float32Array>;
  /** Whether tensors will be encoded with that importance. */
  readonly encodesWeighted: boolean;
  readonly windows: readonly (readonly number[])[];
  readonly threads: number | 'auto';
  readonly state?: ProbeState;
  readonly signal?: AbortSignal;
  onProgress?(phase: 'errors' | 'probes', done: number, total: number): void;
}

export interface MixedTensor {
  readonly name: string;
  readonly elements: number;
  readonly dtype: DType;
  readonly bytes: number;
  /** Predicted for the format it gets, and what was measured in which. */
  readonly loss: number;
  readonly probed: { readonly dtype: DType; readonly divergence: number };
}

export interface MixedPlan {
  readonly tensors: readonly MixedTensor[];
  /** Of all tensors. */
  readonly bytes: number;
  /** Of all tensors, per element. */
  readonly bitsPerWeight: number;
  /** Sum of the predicted divergences. */
  readonly predictedLoss: number;
}

interface Unit {
  readonly name: string;
  readonly elements: number;
  readonly candidates: readonly DType[];
  readonly errors: ReadonlyMap<DType, number>;
}

const bytesOf = (dtype: DType, elements: number): number =>
  (elements / DTYPES[dtype].blockElements) * DTYPES[dtype].blockBytes;

const bitsOf = (dtype: DType): number => bytesOf(dtype, 256) / 32;

/** Bytes and elements of all tensors of a file. */
export function tensorTotals(source: WeightSource): { bytes: number; elements: number } {
  let [bytes, elements] = [0, 0];
  for (const { sizeBytes, shape } of source.tensors.values()) {
    bytes += sizeBytes;
    elements += shape.reduce((product, dim) => product * dim, 1);
  }
  return { bytes, elements };
}

/**
 * @throws {CompressError} if the budget is too small, or no native code can run
 * @throws {NonFiniteWeightError}
 */
export async function planMixedPrecision(options: MixedOptions): Promise<MixedPlan> {
  const { source, budgetBytes, signal } = options;
  const tensors = [...source.tensors.values()];
  const mixed = tensors.filter(({ name, shape }) => isQuantizable(name, shape));
  using kernels = EncodeKernels.create();
  const units: Unit[] = [];
  for (const [i, { name }] of mixed.entries()) {
    await turn(signal);
    const unit = measuredUnit(name, options, kernels);
    if (unit !== null) units.push(unit);
    options.onProgress?.('errors', i + 1, mixed.length);
  }
  const mixedNames = new Set(units.map(({ name }) => name));
  const fixedBytes = tensors
    .filter(({ name }) => !mixedNames.has(name))
    .reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  const budget = budgetBytes - fixedBytes;
  // Fails before the long part.
  const sizesOnly = units.map(({ name, candidates, elements }) => ({
    name,
    choices: candidates.map((dtype) => ({ dtype, bytes: bytesOf(dtype, elements), loss: 0 })),
  }));
  allocateBits(sizesOnly, budget);
  const elements = units.reduce((sum, unit) => sum + unit.elements, 0);
  const probed = await probe(units, (8 * budget) / elements, options, kernels);
  const chosen = allocateBits(
    units.map((unit) => ({ name: unit.name, choices: choicesOf(unit, probed.get(unit.name)!) })),
    budget,
  );
  const result = units.map((unit): MixedTensor => {
    const { dtype, bytes, loss } = chosen.get(unit.name)!;
    return {
      name: unit.name,
      elements: unit.elements,
      dtype,
      bytes,
      loss,
      probed: probed.get(unit.name)!,
    };
  });
  const bytes = fixedBytes + result.reduce((sum, each) => sum + each.bytes, 0);
  const all = tensorTotals(source).elements;
  return {
    tensors: result,
    bytes,
    bitsPerWeight: (8 * bytes) / all,
    predictedLoss: result.reduce((sum, { loss }) => sum + loss, 0),
  };
}

/** Lets Ctrl-C and the bar through. */
async function turn(signal: AbortSignal | undefined): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve));
  signal?.throwIfAborted();
}

/** Null for a tensor that no format fits, which stays as it is. */
function measuredUnit(
  name: string,
  options: MixedOptions,
  kernels: EncodeKernels | null,
): Unit | null {
  const { source, formats, importance, encodesWeighted } = options;
  const { rows, columns } = matrixShape(source, name);
  const candidates = formats.filter((dtype) => columns % DTYPES[dtype].blockElements === 0);
  if (candidates.length === 0 || rows === 0) return null;
  const channels = importance.get(name) ?? null;
  if (channels !== null && channels.length !== columns) {
    throw new CompressError(
      `tensor "${name}": the importance has ${channels.length} channels, the rows have ${columns}`,
      { tensor: name },
    );
  }
  const count = Math.max(1, Math.min(rows, Math.floor(SAMPLE_ELEMENTS / columns)));
  const { dtype: from } = source.tensors.get(name)!;
  const weights = encodesWeighted ? channels : null;
  const row = new Float32Array(columns);
  const back = new Float32Array(columns);
  const errors = new Map<DType, number>(candidates.map((dtype) => [dtype, 0]));
  for (let i = 0; i < count; i++) {
    const r = Math.floor(((i + 0.5) * rows) / count);
    const stored = source.readRows(name, r, r + 1);
    decodeRow(from, stored, 0, row, columns);
    const taken = { tensor: name, firstRow: r, from, stored, columns, channels: weights };
    for (const dtype of candidates) {
      decodeRow(dtype, encodeRows({ ...taken, to: dtype }, kernels), 0, back, columns);
      let error = 0;
      for (let j = 0; j < columns; j++) {
        error += (channels === null ? 1 : channels[j]!) * (row[j]! - back[j]!) ** 2;
      }
      errors.set(dtype, errors.get(dtype)! + error / count);
    }
  }
  return { name, elements: rows * columns, candidates, errors };
}

type Probed = MixedTensor['probed'];

/** The divergence that each tensor causes in its format nearest to `bits`. */
async function probe(
  units: readonly Unit[],
  bits: number,
  options: MixedOptions,
  kernels: EncodeKernels | null,
): Promise<Map<string, Probed>> {
  const { state, signal, onProgress } = options;
  const wanted = units.map((unit) => ({ unit, dtype: probedFormat(unit, bits) }));
  const known = new Map<string, Probed>();
  for (const { unit, dtype } of wanted) {
    const divergence = state?.get(`${unit.name} ${dtype}`);
    if (divergence !== undefined) known.set(unit.name, { dtype, divergence });
  }
  if (known.size === units.length) return known;
  using probe = new TensorProbe(options);
  const inOrder = wanted
    .filter(({ unit }) => !known.has(unit.name))
    .map((each) => ({ ...each, tensor: options.canonicalName(each.unit.name) }))
    .map((each) => ({ ...each, use: each.tensor === null ? null : probe.firstUse(each.tensor) }))
    .sort((a, b) => (a.use ?? -1) - (b.use ?? -1));
  for (const { unit, dtype, tensor, use } of inOrder) {
    await turn(signal);
    // What the model does not use may have the smallest format.
    const divergence =
      tensor === null || use === null
        ? 0
        : probe.divergence(tensor, roundedMatrix(unit.name, dtype, options, kernels));
    await state?.set(`${unit.name} ${dtype}`, divergence);
    known.set(unit.name, { dtype, divergence });
    onProgress?.('probes', known.size, units.length);
  }
  return known;
}

/** The largest of the formats of at most `bits`, or the smallest; never one without error. */
function probedFormat({ candidates, errors }: Unit, bits: number): DType {
  const inexact = candidates.filter((dtype) => errors.get(dtype)! > 0);
  const sorted = (inexact.length > 0 ? inexact : candidates).toSorted(
    (a, b) => bitsOf(a) - bitsOf(b),
  );
  return sorted.findLast((dtype) => bitsOf(dtype) <= bits + 0.25) ?? sorted[0]!;
}

function roundedMatrix(
  name: string,
  dtype: DType,
  options: MixedOptions,
  kernels: EncodeKernels | null,
): Float32Array {
  const { source, importance, encodesWeighted } = options;
  const { rows, columns } = matrixShape(source, name);
  const whole = new Float32Array(rows * columns);
  const channels = encodesWeighted ? (importance.get(name) ?? null) : null;
  for (const { rowStart, values } of matrixRows(source, name)) {
    const chunk = { tensor: name, firstRow: rowStart, stored: viewBytes(values), columns };
    const bytes = encodeRows({ ...chunk, from: 'f32', to: dtype, channels }, kernels);
    decodeRow(dtype, bytes, 0, whole, values.length, rowStart * columns);
  }
  return whole;
}

function choicesOf({ candidates, elements, errors }: Unit, probed: Probed): Choice[] {
  const error = errors.get(probed.dtype)!;
  const perError = error > 0 ? Math.max(probed.divergence, LEAST_DIVERGENCE) / error : 0;
  return candidates.map((dtype) => ({
    dtype,
    bytes: bytesOf(dtype, elements),
    loss: perError * errors.get(dtype)!,
  }));
}
