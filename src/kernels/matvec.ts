/**
 * One q8 activation row times a packed quantized matrix: the decode kernel.
 *
 * Bound by memory: it reads each weight once, straight on, and keeps everything else in registers and L1. Lane = row, so there is no horizontal sum.
 * For each output it does the same operations in the same order as matmul.ts does for many rows, so results are equal bit for bit (docs/architecture.md, principle 5).
 */
import { Q8_BLOCK_BYTES, Q8_BLOCK_VALUES, Q8_D_OFFSET } from './activation-format.ts';
import { KernelBuilder } from './builder.ts';
import { ActivationSums, DotAccumulator, type DotConstants, dotConstants } from './dot.ts';
import type { KernelProgram, Scalar, Vector, VectorMachine } from './kernel-ir.ts';
import {
  type BlockLayout,
  blockLayout,
  type QuantizedPackedFormat,
  ROW_GROUP,
} from './packed-format.ts';

/** How far ahead of its reads the kernel asks for weights: 7 to 30 % on machines whose prefetcher stops at page ends. */
const PREFETCH_BYTES = 2048;
const CACHE_LINE = 64;

export interface MatvecShape {
  readonly format: QuantizedPackedFormat;
  readonly bias: boolean;
  readonly residual: boolean;
}

/**
 * out[r] = sum over blocks of (weight row r · x) [+ bias[r]] [+ residual[r]]
 *
 * Params: weight, groupStride (bytes of a row group), numGroups, groupsPerChunk, numBlocks (of 32 inputs), x (q8 row), out (f32), bias and residual (f32) if asked for.
 * Chunk c does the row groups [c * groupsPerChunk, (c + 1) * groupsPerChunk).
 */
export function matvecKernel(machine: VectorMachine, shape: MatvecShape): KernelProgram {
  const { format } = shape;
  const k = new KernelBuilder(
    `matvec_${format.name}${shape.bias ? '_b' : ''}${shape.residual ? '_r' : ''}`,
    machine,
  );
  const layout = blockLayout(format);
  const constants = dotConstants(k, format, format.codes === 'u4');
  const numVectors = ROW_GROUP / k.lanes;

  const perChunk = k.arg('groupsPerChunk');
  const first = k.mul(k.chunk, perChunk);
  const count = k.min(perChunk, k.sub(k.arg('numGroups'), first));
  const weight = k.add(k.arg('weight'), k.mul(first, k.arg('groupStride')));
  const outOffset = k.shl(first, 6);
  k.loop(count, () => {
    const x = k.arg('x');
    const sums = Array.from({ length: numVectors }, () => k.zero());
    k.loop(
      k.arg('numBlocks'),
      () => {
        const stepBytes = layout.blockBytes * (Q8_BLOCK_VALUES / format.groupSize);
        for (let line = 0; line < stepBytes; line += CACHE_LINE) {
          k.prefetch(k.at(weight, PREFETCH_BYTES + line));
        }
        for (let sub = 0; sub < Q8_BLOCK_VALUES / format.groupSize; sub++) {
          addBlock(k, { format, layout, constants, weight, x, sums, sub });
        }
        k.addTo(weight, stepBytes);
        k.addTo(x, Q8_BLOCK_BYTES);
      },
      { countIsPositive: true },
    );
    sums.forEach((sum, v) => {
      const offset = 4 * k.lanes * v;
      if (shape.bias) k.addF(sum, k.load(k.at(k.arg('bias'), offset, outOffset)), sum);
      if (shape.residual) k.addF(sum, k.load(k.at(k.arg('residual'), offset, outOffset)), sum);
      k.store(k.at(k.arg('out'), offset, outOffset), sum);
    });
    k.addTo(outOffset, 4 * ROW_GROUP);
  });
  return k.finish();
}

interface BlockStep {
  readonly format: QuantizedPackedFormat;
  readonly layout: BlockLayout;
  readonly constants: DotConstants;
  readonly weight: Scalar;
  readonly x: Scalar;
  readonly sums: readonly Vector[];
  /** Which block of weights inside this block of 32 activations. */
  readonly sub: number;
}

function addBlock(k: KernelBuilder, step: BlockStep): void {
  const { format, layout, weight, x, sums, sub } = step;
  const base = sub * layout.blockBytes;
  const activation = (input: number): Vector =>
    k.broadcast(k.at(x, sub * format.groupSize + input));
  const sumsOfX = new ActivationSums(k, format, sub, (offset) => k.at(x, offset));
  const half = format.groupSize / 2;
  sums.forEach((sum, v) => {
    const offset = base + layout.codesOffset + 4 * k.lanes * v;
    const dot = new DotAccumulator(k, format, step.constants, sumsOfX.makeStart);
    // With 8-bit dots the high nibbles stay where they are (times 16) and are shifted once at the end.
    const high = k.machine.hasInt8Dot && format.codes === 'u4' ? k.zero() : null;
    for (let j = 0; j < layout.numCodeVectors; j++) {
      const codes = k.load(k.at(weight, offset + CACHE_LINE * j));
      if (format.codes === 'u8') {
        dot.add(codes, activation(4 * j));
        continue;
      }
      const mask = step.constants.nibbleMask!;
      dot.add(k.binary('bits.and', codes, mask), activation(4 * j));
      if (high) k.dotU8I8Into(high, k.binary('bits.andNot', mask, codes), activation(half + 4 * j));
      else
        dot.add(k.binary('bits.and', k.shift('i16.shr', codes, 4), mask), activation(half + 4 * j));
    }
    const total = dot.finish();
    if (high) k.binary('i32.add', total, k.shift('i32.sar', high, 4, high), total);
    const lane = k.lanes * v * layout.scaleBytes;
    const scaleFormat = format.scaleType === 'f16' ? 'f16' : 'bits';
    const scales = k.load(k.at(weight, base + lane), scaleFormat);
    const value = k.mulF(k.unary('f32.fromI32', total, total), scales, total);
    k.fmaBroadcastInto(sum, value, k.at(x, Q8_D_OFFSET));
    if (format.hasMin) {
      const mins = k.load(k.at(weight, base + layout.minsOffset + lane), scaleFormat);
      sumsOfX.addMins(sum, mins);
    }
  });
}
