/**
 * RMSNorm (Zhang & Sennrich 2019, arXiv:1910.07467) and LayerNorm (Ba et al. 2016, arXiv:1607.06450) of rows.
 *
 * Sums are taken in NUM_SUMS vectors, vector i of the row into sum i % NUM_SUMS, then added up in one fixed order, so a row gives the same bits however
 * rows are split over chunks.
 */
import { Q8_BLOCK_VALUES } from './activation-format.ts';
import { KernelBuilder } from './builder.ts';
import { KernelShapeError, requireCount } from './errors.ts';
import type { KernelProgram, Scalar, Vector, VectorMachine } from './kernel-ir.ts';
import { loadBlock, storeBlock } from './quantize.ts';
import {
  type ColumnGroup,
  forEachBlockOfRow,
  forEachColumnGroup,
  forEachRow,
  type RowElement,
  rowStream,
} from './rows.ts';

const NUM_SUMS = 4;

/** Sum over the columns of a row of what `accumulate` adds to the running sum; in every lane. */
function rowSum(
  k: KernelBuilder,
  width: number,
  accumulate: (sum: Vector, group: ColumnGroup) => void,
): Vector {
  const sums = Array.from({ length: NUM_SUMS }, () => k.zero());
  forEachColumnGroup(k, width, NUM_SUMS, (group) => {
    accumulate(sums[group.slot]!, group);
  });
  const [a, b, c, d] = sums;
  return k.unary('f32.reduceAdd', k.addF(k.addF(a!, b!), k.addF(c!, d!)));
}

/** 1 / sqrt(sum / width + eps) */
function inverseRoot(k: KernelBuilder, sum: Vector, width: number, eps: number): Vector {
  const mean = k.divF(sum, k.splatF32(width));
  return k.divF(k.splatF32(1), k.unary('f32.sqrt', k.addF(mean, k.splatF32(eps))));
}

export interface RmsNormShape {
  readonly width: number;
  /** Columns that are normalised together; the width for a model norm, headDim for q/k norms. */
  readonly groupSize: number;
  readonly eps: number;
  /** Adds a second matrix to the result. */
  readonly residual: boolean;
  readonly output: RowElement;
}

/**
 * x f32 `[numRows, width]` → out = x / rms(x) * weight (+ residual), each group of `groupSize` columns by itself; f32 or q8.
 *
 * weight f32 `[groupSize]`. out may be x or residual if it is f32.
 * Params: x xStride weight [residual residualStride] out outStride numRows rowsPerChunk. Chunk: rowsPerChunk rows. No scratch.
 * @throws {KernelShapeError} if the groups do not fill the row, or q8 blocks would straddle groups
 */
export function rmsNormKernel(machine: VectorMachine, shape: RmsNormShape): KernelProgram {
  const { width, groupSize, eps, residual, output } = shape;
  requireCount('rmsNorm', 'groupSize', groupSize);
  requireCount('rmsNorm', 'width', width, groupSize);
  if (output === 'q8' && groupSize !== width && groupSize % Q8_BLOCK_VALUES !== 0) {
    throw new KernelShapeError(
      'rmsNorm',
      `groups of ${groupSize} columns with q8 output; accepted: the whole row (${width}) or a multiple of ${Q8_BLOCK_VALUES}`,
    );
  }
  const k = new KernelBuilder(`rmsNorm_${width}_${groupSize}_${output}`, machine);
  const inputs = residual ? ['x', 'out', 'residual'] : ['x', 'out'];
  const elements: RowElement[] = ['f32', output, 'f32'];
  forEachRow(k, inputs.map(rowStream), (rows) => {
    const groups = groupSize === width ? rows : rows.map((row) => k.copy(row));
    k.loop(width / groupSize, () => {
      const x = groups[0]!;
      const sum = rowSum(k, groupSize, (partial, group) => {
        const value = k.load(group.at(x), 'bits', group.count);
        k.fmaInto(partial, value, value);
      });
      const factor = inverseRoot(k, sum, groupSize, eps);
      const weight = k.arg('weight');
      const normalise = (value: Vector, scale: Vector, added: Vector | undefined): Vector => {
        const result = k.mulF(k.mulF(value, factor), scale);
        return added ? k.addF(result, added) : result;
      };
      if (output === 'f32') {
        forEachColumnGroup(k, groupSize, 2, ({ at, count }) => {
          const value = k.load(at(x), 'bits', count);
          const added = residual ? k.load(at(groups[2]!), 'bits', count) : undefined;
          const result = normalise(value, k.load(at(weight), 'bits', count), added);
          k.store(at(groups[1]!), result, 'bits', count);
        });
      } else {
        const streams = [...groups, weight];
        const types: RowElement[] = [...elements.slice(0, groups.length), 'f32'];
        forEachBlockOfRow(k, groupSize, streams, types, (blocks, counts) => {
          const values = loadBlock(k, blocks[0]!, counts).map((value, i) => {
            const count = counts[i]!;
            if (count === 0) return value;
            const at = (block: Scalar) => k.at(block, 4 * i * k.lanes);
            const added = residual ? k.load(at(blocks[2]!), 'bits', count) : undefined;
            return normalise(value, k.load(at(blocks.at(-1)!), 'bits', count), added);
          });
          storeBlock(k, 'q8', blocks[1]!, values, counts);
        });
      }
      if (groupSize === width) return;
      groups.forEach((pointer, i) => {
        const blocks = groupSize / Q8_BLOCK_VALUES;
        k.addTo(pointer, elements[i] === 'q8' ? blocks * 48 : 4 * groupSize);
      });
    });
  });
  return k.finish();
}

export interface LayerNormShape {
  readonly width: number;
  readonly eps: number;
  readonly output: RowElement;
}

/**
 * x f32 `[numRows, width]` → out = (x - mean) / sqrt(variance + eps) * weight + bias; f32 or q8.
 *
 * weight, bias f32 `[width]`. out may be x if it is f32. The variance is taken around the mean, in a pass of its own.
 * Params: x xStride weight bias out outStride numRows rowsPerChunk. Chunk: rowsPerChunk rows. No scratch.
 */
export function layerNormKernel(machine: VectorMachine, shape: LayerNormShape): KernelProgram {
  const { width, eps, output } = shape;
  requireCount('layerNorm', 'width', width);
  const k = new KernelBuilder(`layerNorm_${width}_${output}`, machine);
  const lanesInUse = (count: number): Vector => {
    const ones = k.splatF32(1);
    const left = k.subF(k.splatF32(count - 1), k.unary('f32.fromI32', k.laneIndex()));
    return k.keepWhereGe(ones, left, k.zero());
  };
  forEachRow(k, [rowStream('x'), rowStream('out')], (rows) => {
    const x = rows[0]!;
    const total = rowSum(k, width, (partial, { at, count }) => {
      k.addF(partial, k.load(at(x), 'bits', count), partial);
    });
    const mean = k.divF(total, k.splatF32(width));
    const squares = rowSum(k, width, (partial, { at, count }) => {
      const value = k.subF(k.load(at(x), 'bits', count), mean);
      const inUse = count < k.lanes ? k.mulF(value, lanesInUse(count)) : value;
      k.fmaInto(partial, inUse, inUse);
    });
    const factor = inverseRoot(k, squares, width, eps);
    const streams = [x, rows[1]!, k.arg('weight'), k.arg('bias')];
    forEachBlockOfRow(k, width, streams, ['f32', output, 'f32', 'f32'], (blocks, counts) => {
      const values = loadBlock(k, blocks[0]!, counts).map((value, i) => {
        const count = counts[i]!;
        if (count === 0) return value;
        const at = (block: Scalar) => k.at(block, 4 * i * k.lanes);
        const scale = k.load(at(blocks[2]!), 'bits', count);
        const result = k.load(at(blocks[3]!), 'bits', count);
        // Lanes behind the row have scale and bias 0, so they become 0.
        k.fmaInto(result, k.mulF(k.subF(value, mean), factor), scale);
        return result;
      });
      storeBlock(k, output, blocks[1]!, values, counts);
    });
  });
  return k.finish();
}
