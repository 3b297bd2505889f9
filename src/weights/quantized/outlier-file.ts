/**
 * `outliers.safetensors` beside a model in bitsandbytes' int8: which input columns of its linears have outliers, and their weights in 16 bits (LLM.int8, arXiv:2208.07339).
 * The model's own files have these columns in 8 bits like the others, so a reader that does not know this file loses nothing but the exactness.
 *
 *     X.outlier_columns  i32 [k]        ascending
 *     X.outliers         f16 [rows, k]
 */
import type { OutlierColumns, WeightSource } from '../contract.ts';
import { WeightFileError } from '../errors.ts';

export const OUTLIER_FILE = 'outliers.safetensors';

export const outliersName = (prefix: string): string => `${prefix}outliers`;
export const outlierColumnsName = (prefix: string): string => `${prefix}outlier_columns`;

const COLUMNS_SUFFIX = outlierColumnsName('.');

/**
 * @param shapeOf `[rows, columns]` of the model's int8 matrices by name; undefined for what is none
 * @returns by the name of the matrix
 * @throws {WeightFileError} if the file says anything that does not fit the model
 */
export function outliersIn(
  file: WeightSource,
  shapeOf: (matrix: string) => readonly [number, number] | undefined,
): ReadonlyMap<string, OutlierColumns> {
  const found = new Map<string, OutlierColumns>();
  for (const name of file.tensors.keys()) {
    if (!name.endsWith(COLUMNS_SUFFIX)) continue;
    const prefix = name.slice(0, -COLUMNS_SUFFIX.length + 1);
    const shape = shapeOf(`${prefix}weight`);
    if (shape === undefined) throw broken(file, name, `the model has no int8 "${prefix}weight"`);
    const tensor = outliersName(prefix);
    const columns = readColumns(file, name, shape[1]);
    checkWeights(file, tensor, [shape[0], columns.length]);
    found.set(`${prefix}weight`, { columns, tensor });
  }
  return found;
}

function readColumns(file: WeightSource, name: string, width: number): readonly number[] {
  const { dtype, shape } = file.tensors.get(name)!;
  const [count] = shape;
  if (dtype !== 'i32' || shape.length !== 1 || count === undefined || count < 1 || count > width) {
    const seen = `${dtype} [${shape.join(', ')}]`;
    throw broken(file, name, `is ${seen}; expected i32 [1 to ${width}]`);
  }
  const columns = [...new Int32Array(file.readRows(name).slice().buffer)];
  columns.forEach((column, i) => {
    const least = i === 0 ? 0 : columns[i - 1]! + 1;
    if (column >= least && column < width) return;
    throw broken(file, name, `has ${column} at ${i}; expected ${least} to ${width - 1}, ascending`);
  });
  return columns;
}

function checkWeights(file: WeightSource, name: string, shape: readonly number[]): void {
  const tensor = file.tensors.get(name);
  if (tensor?.dtype === 'f16' && tensor.shape.join() === shape.join()) return;
  const seen = tensor ? `is ${tensor.dtype} [${tensor.shape.join(', ')}]` : 'is missing';
  throw broken(file, name, `${seen}; expected f16 [${shape.join(', ')}]`);
}

function broken(file: WeightSource, tensor: string, message: string): WeightFileError {
  return new WeightFileError(message, { fault: 'corrupt', file: file.path, tensor });
}
