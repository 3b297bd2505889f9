/** Files of bitsandbytes: NF4 and FP4 with their state as JSON beside them, and int8 with the largest magnitude of each row (`SCB`). */
import type { CodebookName, CodebookTensor } from '../../tensor/codebook.ts';
import type { WeightSource } from '../contract.ts';
import type { IndexedMatrix } from '../hf-packed.ts';
import {
  type ForeignMatrix,
  type FoundMatrices,
  int8Dtype,
  int8Matrix,
  type Refuse,
  shapeOf,
} from './foreign-matrix.ts';

/** Bytes of JSON beside the weights. */
interface QuantState {
  readonly quant_type: string;
  readonly blocksize: number;
  readonly shape: readonly number[];
  readonly nested_blocksize?: number;
  readonly nested_offset?: number;
}

export function bitsandbytesMatrices(source: WeightSource, refuse: Refuse): FoundMatrices {
  const matrices = new Map<string, ForeignMatrix>();
  const parts = new Set<string>();
  for (const name of source.tensors.keys()) {
    const match = /^(.*\.weight)\.quant_state\.bitsandbytes__(\w+)$/.exec(name);
    if (match === null) continue;
    const [, weight, type] = match as unknown as [string, string, string];
    if (type !== 'nf4' && type !== 'fp4')
      refuse(`bitsandbytes type "${type}"; accepted: nf4, fp4, int8`);
    for (const part of ['', '.absmax', '.quant_map', '.nested_absmax', '.nested_quant_map']) {
      parts.add(weight + part);
    }
    parts.add(name);
    const state = JSON.parse(new TextDecoder().decode(source.readRows(name))) as QuantState;
    const [rows, columns] = state.shape;
    if (state.shape.length !== 2 || rows === undefined || columns === undefined) {
      refuse(`tensor "${weight}" has shape [${state.shape.join(', ')}]; expected a matrix`);
    }
    const [numRows, width] = [rows!, columns!];
    const read = (): CodebookTensor => ({
      ...{ name: type as CodebookName, numElements: numRows * width, blockSize: state.blocksize },
      ...{ packed: source.readRows(weight), absmax: absmaxOf(source, weight, state) },
    });
    const hasWholeBlocks = width % 32 === 0 && state.blocksize % 32 === 0;
    const dtype = hasWholeBlocks ? (type as CodebookName) : 'f32';
    matrices.set(weight, { rows: numRows, columns: width, dtype, read });
  }
  for (const name of source.tensors.keys()) {
    if (!name.endsWith('.SCB')) continue;
    const weight = `${name.slice(0, -'.SCB'.length)}.weight`;
    const [rows, columns] = shapeOf(source, weight, refuse);
    for (const part of [name, weight, `${weight}_format`]) parts.add(part);
    const read = (): IndexedMatrix => {
      const scales = source.readF32(name).map((largest) => largest / 127);
      return int8Matrix(source, weight, { rows, columns, scales, zeroPoints: null });
    };
    matrices.set(weight, { rows, columns, dtype: int8Dtype(columns), read });
  }
  return { matrices, parts };
}

/** The scales of blocks; with double quantization they are 8-bit indices into a map themselves. */
function absmaxOf(source: WeightSource, weight: string, state: QuantState): Float32Array {
  const nested = `${weight}.nested_absmax`;
  if (!source.tensors.has(nested)) return source.readF32(`${weight}.absmax`);
  const indices = source.readRows(`${weight}.absmax`);
  const map = source.readF32(`${weight}.nested_quant_map`);
  const outer = source.readF32(nested);
  const size = state.nested_blocksize ?? 256;
  const offset = Math.fround(state.nested_offset ?? 0);
  // bitsandbytes rounds the product before it adds.
  return Float32Array.from(
    indices,
    (index, i) => Math.fround(map[index]! * outer[Math.floor(i / size)]!) + offset,
  );
}
