/** Which formats are encoded on native code, and the kernel of each. */
import type { DType } from '../../tensor/dtype.ts';
import { KernelBuilder } from '../builder.ts';
import type { KernelProgram, VectorMachine } from '../kernel-ir.ts';
import { forEachUnit } from '../units.ts';
import { AffineBlocks, type AffineFormat } from './affine-blocks.ts';
import { Q2_K, Q4_K, Q5_K } from './affine-formats.ts';
import { BlockFrame, type BlockShape, type OpenBlock } from './block-frame.ts';
import { IQ4_FORMATS, Iq4Blocks, type Iq4Format } from './iq4-blocks.ts';
import { Q3_SHAPE, Q3Blocks } from './q3-blocks.ts';
import { Q6_SHAPE, Q6Blocks } from './q6-blocks.ts';
import { SMALL_FORMATS, SmallBlocks, type SmallFormat } from './small-blocks.ts';

/** What an encoder emits of itself. */
interface BlockEmitter {
  /** Of the blocks of all lanes, what does not stand by itself. */
  fit(): void;
  write(block: OpenBlock): void;
}

interface EncodedFormat {
  readonly shape: BlockShape;
  emitter(frame: BlockFrame): BlockEmitter;
}

const affine = (format: AffineFormat): EncodedFormat => ({
  shape: format.shape,
  emitter: (frame) => new AffineBlocks(frame, format),
});

const small = (format: SmallFormat): EncodedFormat => ({
  shape: format.shape,
  emitter: (frame) => new SmallBlocks(frame, format),
});

const iq4 = (format: Iq4Format): EncodedFormat => ({
  shape: format.shape,
  emitter: (frame) => new Iq4Blocks(frame, format),
});

const FORMATS: ReadonlyMap<DType, EncodedFormat> = new Map<DType, EncodedFormat>([
  ['q4_0', small(SMALL_FORMATS.q4_0)],
  ['q4_1', small(SMALL_FORMATS.q4_1)],
  ['q5_0', small(SMALL_FORMATS.q5_0)],
  ['q5_1', small(SMALL_FORMATS.q5_1)],
  ['q8_0', small(SMALL_FORMATS.q8_0)],
  ['iq4_nl', iq4(IQ4_FORMATS.iq4_nl)],
  ['iq4_xs', iq4(IQ4_FORMATS.iq4_xs)],
  ['q2_k', affine(Q2_K)],
  ['q3_k', { shape: Q3_SHAPE, emitter: (frame) => new Q3Blocks(frame) }],
  ['q4_k', affine(Q4_K)],
  ['q5_k', affine(Q5_K)],
  ['q6_k', { shape: Q6_SHAPE, emitter: (frame) => new Q6Blocks(frame) }],
]);

/** All that have a kernel. */
export const ENCODED_DTYPES: readonly DType[] = [...FORMATS.keys()];

/** Null for formats without a kernel. */
export function encodedShape(dtype: DType): BlockShape | null {
  return FORMATS.get(dtype)?.shape ?? null;
}

export interface EncodeShape {
  readonly dtype: DType;
  readonly isWeighted: boolean;
}

/**
 * Blocks of f32 values, encoded.
 *
 * Params: values f32 `[numUnits * lanes, elements]`; out `[numUnits * lanes, blockBytes]`; where weighted, importance f32 `[blocksPerRow, elements]` and
 * blocksPerRow, for rows one after another, and for shapes whose importance is `ofRows` rowMeans f32, the mean square of each row; numUnits unitsPerChunk, a unit
 * being as many blocks as there are lanes.
 */
export function encodeBlocksKernel(
  machine: VectorMachine,
  { dtype, isWeighted }: EncodeShape,
): KernelProgram {
  const { shape, emitter } = FORMATS.get(dtype)!;
  const k = new KernelBuilder(`encode_${dtype}${isWeighted ? '_weighted' : ''}`, machine);
  const frame = new BlockFrame(k, shape, isWeighted);
  const blocks = emitter(frame);
  forEachUnit(k, (unit) => {
    frame.gather(unit);
    blocks.fit();
    frame.forEachBlock(unit, (block) => blocks.write(block));
  });
  return k.finish();
}
