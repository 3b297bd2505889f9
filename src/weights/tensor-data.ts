/**
 * Tensor contents on their way into a file: what a caller may hand to a writer, and how it is streamed and counted. Knows nothing of
 * file formats.
 */
import type { DType } from '../tensor/dtype.ts';
import { rowBytes } from '../tensor/dtype.ts';
import { DTypeError } from '../tensor/errors.ts';
import { WeightFileError } from './errors.ts';
import type { FileAppender } from './file-appender.ts';
import { elementCount } from './shape.ts';

/** Stored bytes at once, or a producer of chunks, called when the tensor's turn comes; a chunk may be reused for the next. */
export type TensorData = Uint8Array | (() => Iterable<Uint8Array> | AsyncIterable<Uint8Array>);

/** A tensor to be written. */
export interface TensorToWrite {
  readonly name: string;
  readonly dtype: DType;
  /** Row-major, outermost first. */
  readonly shape: readonly number[];
  readonly data: TensorData;
}

/**
 * Bytes that a tensor takes.
 *
 * @throws {WeightFileError} if the shape is none, or its rows are no whole blocks
 */
export function sizeOfTensor(file: string, tensor: TensorToWrite): number {
  const { name, dtype, shape } = tensor;
  const isShape = shape.every((dim) => Number.isSafeInteger(dim) && dim >= 0);
  const elements = isShape ? elementCount(shape) : null;
  if (elements === null) {
    throw usage(file, name, `has shape [${shape.join(', ')}]; expected whole numbers from 0`);
  }
  try {
    rowBytes(dtype, shape.at(-1) ?? 1);
    return rowBytes(dtype, elements);
  } catch (cause) {
    if (!(cause instanceof DTypeError)) throw cause;
    throw usage(file, name, cause.message, {}, cause);
  }
}

/** @throws {WeightFileError} if a name appears twice */
export function checkUniqueNames(file: string, tensors: readonly TensorToWrite[]): void {
  const names = new Set<string>();
  for (const { name } of tensors) {
    if (names.has(name)) throw usage(file, name, 'is given twice');
    names.add(name);
  }
}

/**
 * Streams the tensor's bytes.
 *
 * @throws {WeightFileError} if they are not exactly `sizeBytes`
 */
export async function appendTensor(
  path: string,
  appender: FileAppender,
  tensor: TensorToWrite,
  sizeBytes: number,
): Promise<void> {
  const { data } = tensor;
  const chunks = typeof data === 'function' ? data() : [data];
  let produced = 0;
  for await (const chunk of chunks) {
    produced += chunk.length;
    if (produced > sizeBytes) break;
    await appender.append(chunk);
  }
  if (produced === sizeBytes) return;
  const amount = produced > sizeBytes ? `at least ${produced}` : `${produced}`;
  throw usage(
    path,
    tensor.name,
    `its data has ${amount} bytes, but ${tensor.dtype} of shape [${tensor.shape.join(', ')}] takes ${sizeBytes}`,
    { producedBytes: produced, sizeBytes },
  );
}

function usage(
  file: string,
  tensor: string,
  message: string,
  values: Readonly<Record<string, number>> = {},
  cause?: unknown,
): WeightFileError {
  return new WeightFileError(message, { fault: 'usage', file, tensor, values, cause });
}
