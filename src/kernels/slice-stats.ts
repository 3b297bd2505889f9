/** Statistics of slices of the logits: what sampling needs without reading the whole vocabulary. */
import { KernelBuilder } from './builder.ts';
import { requireCount } from './errors.ts';
import type { Address, KernelProgram, Vector, VectorMachine } from './kernel-ir.ts';
import { exp } from './math.ts';

const LARGEST_F32 = 3.4028234e38;

export interface SliceStatsShape {
  readonly vocabSize: number;
  /** Logits of a slice, a multiple of 16; the last slice may be shorter. */
  readonly sliceSize: number;
}

/**
 * Per slice of `sliceSize` logits of a row: the largest, and the sum of exp((logit - largest) * inverseTemperature).
 *
 * logits f32 `[numRows, vocabSize]`, sliceMax and sliceExpSum f32 `[numRows, ceil(vocabSize / sliceSize)]`, inverseTemperatures f32 `[numRows]`. A slice of nothing but -infinity has sum 0.
 * A NaN among the logits makes the sum of its slice NaN.
 * Params: logits logitsStride inverseTemperatures sliceMax sliceExpSum statsStride (of both, bytes) slicesPerChunk.
 * Chunk: row * ceil(numSlices / slicesPerChunk) + part, slicesPerChunk slices from part * slicesPerChunk on. No scratch.
 */
export function sliceStatsKernel(machine: VectorMachine, shape: SliceStatsShape): KernelProgram {
  const { vocabSize, sliceSize } = shape;
  requireCount('sliceStats', 'vocabSize', vocabSize);
  requireCount('sliceStats', 'sliceSize', sliceSize, 16);
  const k = new KernelBuilder(`sliceStats_${vocabSize}_${sliceSize}`, machine);
  const numSlices = Math.ceil(vocabSize / sliceSize);
  const wholeSlices = Math.floor(vocabSize / sliceSize);

  const slicesPerChunk = k.arg('slicesPerChunk');
  const chunksPerRow = k.div(k.add(slicesPerChunk, numSlices - 1), slicesPerChunk);
  const row = k.div(k.chunk, chunksPerRow);
  const first = k.mul(k.sub(k.chunk, k.mul(row, chunksPerRow)), slicesPerChunk);
  const x = k.add(k.arg('logits'), k.mul(row, k.arg('logitsStride')));
  k.addTo(x, k.mul(first, 4 * sliceSize));
  const statsOffset = k.add(k.mul(row, k.arg('statsStride')), k.shl(first, 2));
  const inverseTemperature = k.add(k.arg('inverseTemperatures'), k.shl(row, 2));
  const sliceMax = k.add(k.arg('sliceMax'), statsOffset);
  const sliceExpSum = k.add(k.arg('sliceExpSum'), statsOffset);

  const slice = (length: number): void => {
    const forEachVector = (body: (value: Vector) => void): void => {
      const offset = k.const(0);
      k.loop(Math.floor(length / k.lanes), () => {
        body(k.load(k.at(x, 0, offset)));
        k.addTo(offset, 4 * k.lanes);
      });
      const count = length % k.lanes;
      if (count > 0) body(loadOrLowest(k, k.at(x, 4 * (length - count)), count));
    };
    const lowest = k.splatF32(Number.NEGATIVE_INFINITY);
    forEachVector((value) => k.maxF(lowest, value, lowest));
    const largest = k.unary('f32.reduceMax', lowest);
    const shift = k.maxF(largest, k.splatF32(-LARGEST_F32));
    const scale = k.broadcast(k.at(inverseTemperature));
    const sum = k.zero();
    forEachVector((value) => k.addF(sum, exp(k, k.mulF(k.subF(value, shift), scale)), sum));
    k.store(k.at(sliceMax), largest, 'bits', 1);
    k.store(k.at(sliceExpSum), k.unary('f32.reduceAdd', sum), 'bits', 1);
  };

  k.loop(k.min(k.sub(k.const(wholeSlices), first), slicesPerChunk), () => {
    slice(sliceSize);
    k.addTo(x, 4 * sliceSize);
    k.addTo(sliceMax, 4);
    k.addTo(sliceExpSum, 4);
  });
  if (numSlices > wholeSlices) {
    k.if(k.add(first, slicesPerChunk), 'ge', numSlices, () => {
      slice(vocabSize - wholeSlices * sliceSize);
    });
  }
  return k.finish();
}

/** `count` values; the other lanes are far below every logit. */
function loadOrLowest(k: KernelBuilder, address: Address, count: number): Vector {
  const value = k.load(address, 'bits', count);
  const lane = k.unary('f32.fromI32', k.laneIndex());
  const limit = k.mulF(k.subF(k.splatF32(count - 0.5), lane), k.splatF32(LARGEST_F32 / 32));
  return k.minF(limit, value);
}
