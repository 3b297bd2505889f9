/**
 * One q8 activation row times a packed quantized matrix: the decode kernel.
 *
 * Bound by memory: it reads each weight once, straight on, and keeps everything else in registers and L1. Lane = row, so there is no horizontal sum.
 * For each output it does the same operations in the same order as the others do for many rows, so results are equal bit for bit (docs/architecture.md, principle 5).
 */
import { Q8_BLOCK_BYTES, Q8_D_OFFSET } from './activation-format.ts';
import { KernelBuilder } from './builder.ts';
import { ActivationSums, DotAccumulator, type DotConstants, dotConstants } from './dot.ts';
import type { KernelProgram, Scalar, Vector, VectorMachine } from './kernel-ir.ts';
import { type BlockPlace, PackedCodes } from './packed-codes.ts';
import { type QuantizedPackedFormat, ROW_GROUP } from './packed-format.ts';

/** How far ahead of its reads the kernel asks for weights: 7 to 30 % on machines whose prefetcher stops at page ends. */
const PREFETCH_BYTES = 2048;
const CACHE_LINE = 64;
/** Chunks of as many bytes are read in two places side by side, 6 % faster on Zen 4; shorter ones at one, since every place takes its time to get going. */
const PAIRED_BYTES = 512 * 1024;

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
  const dots = new BlockDots(k, format);
  const { blockBytes, headerBytes, blocksPerSuper } = dots.codes.layout;
  const numVectors = ROW_GROUP / k.lanes;

  const perChunk = k.arg('groupsPerChunk');
  const first = k.mul(k.chunk, perChunk);
  const count = k.min(perChunk, k.sub(k.arg('numGroups'), first));
  const groupStride = k.arg('groupStride');
  const weight = k.add(k.arg('weight'), k.mul(first, groupStride));
  const outOffset = k.shl(first, 6);
  const groups = (of: readonly Stream[]): void => {
    const x = k.arg('x');
    const sums = of.map(() => Array.from({ length: numVectors }, () => k.zero()));
    const block = (headers: readonly Scalar[]): void => {
      of.forEach(({ weight }, i) => {
        prefetchLines(k, weight, blockBytes);
        dots.addBlock({ weight, header: headers[i]!, x, sums: sums[i]! });
        k.addTo(weight, blockBytes);
      });
      k.addTo(x, Q8_BLOCK_BYTES);
    };
    k.loop(
      k.div(k.arg('numBlocks'), blocksPerSuper),
      () => {
        if (headerBytes === 0) {
          block(of.map(({ weight }) => weight));
          return;
        }
        const headers = of.map(({ weight }) => k.copy(weight));
        for (const { weight } of of) {
          prefetchLines(k, weight, headerBytes);
          k.addTo(weight, headerBytes);
        }
        k.loop(blocksPerSuper, () => block(headers));
      },
      { countIsPositive: true },
    );
    of.forEach(({ outOffset }, i) => {
      sums[i]!.forEach((sum, v) => {
        const offset = 4 * k.lanes * v;
        if (shape.bias) k.addF(sum, k.load(k.at(k.arg('bias'), offset, outOffset)), sum);
        if (shape.residual) k.addF(sum, k.load(k.at(k.arg('residual'), offset, outOffset)), sum);
        k.store(k.at(k.arg('out'), offset, outOffset), sum);
      });
      k.addTo(outOffset, 4 * ROW_GROUP);
    });
  };
  const begin = { weight, outOffset };
  // Registers may be too few for the sums of two.
  if (machine.vectorRegisters < 32 && format.values !== null) {
    k.loop(count, () => groups([begin]));
    return k.finish();
  }
  const half = k.const(0);
  k.if(k.mul(count, groupStride), 'ge', PAIRED_BYTES, () => k.setScalar(half, k.shr(count, 1)));
  const middle = {
    weight: k.add(weight, k.mul(half, groupStride)),
    outOffset: k.add(outOffset, k.shl(half, 6)),
  };
  const rest = k.sub(count, k.shl(half, 1));
  k.loop(half, () => groups([begin, middle]));
  k.loop(rest, () => groups([middle]));
  return k.finish();
}

/** Row groups that are read one after another. */
interface Stream {
  readonly weight: Scalar;
  /** Bytes from the start of the output to the group's. */
  readonly outOffset: Scalar;
}

/** Asks for as many bytes as are read next, some way ahead of them. */
function prefetchLines(k: KernelBuilder, weight: Scalar, bytes: number): void {
  for (let line = 0; line < bytes; line += CACHE_LINE) {
    k.prefetch(k.at(weight, PREFETCH_BYTES + line));
  }
}

interface BlockStep {
  readonly weight: Scalar;
  readonly header: Scalar;
  readonly x: Scalar;
  readonly sums: readonly Vector[];
}

/** Sums of a block of packed weights times a block of activations. */
class BlockDots {
  readonly codes: PackedCodes;
  readonly #k: KernelBuilder;
  readonly #constants: DotConstants;
  /** The low and the high nibbles of the values that codes stand for, where dots take codes apart. */
  readonly #splitValues: { readonly low: Vector; readonly high: Vector } | null;

  constructor(k: KernelBuilder, format: QuantizedPackedFormat) {
    const { values } = format;
    const splits = values !== null && !k.machine.hasInt8Dot;
    this.#k = k;
    this.codes = new PackedCodes(k, format, { looksUp: !splits });
    this.#constants = dotConstants(k, format, this.codes.nibbleMask);
    this.#splitValues = splits
      ? {
          low: k.table16(values.map((value) => value & 15)),
          high: k.table16(values.map((value) => value >> 4)),
        }
      : null;
  }

  addBlock({ weight, header, x, sums }: BlockStep): void {
    const k = this.#k;
    const { groupsPerBlock } = this.codes.layout;
    const places = sums.map((_, v) => ({
      at: (offset: number) => k.at(weight, offset),
      header: (offset: number) => k.at(header, offset),
      lane: k.lanes * v,
    }));
    for (let group = 0; group < groupsPerBlock; group++) {
      const sumsOfX = new ActivationSums(k, this.codes.format, group, (offset) => k.at(x, offset));
      const totals = this.#splitValues ? this.#splitDots(places, group, x, sumsOfX) : null;
      sums.forEach((sum, v) => {
        const place = places[v]!;
        const total = totals ? totals[v]! : this.#dot(place, group, x, sumsOfX);
        const value = k.unary('f32.fromI32', total, total);
        k.mulF(value, this.codes.scales(place, group), value);
        k.fmaBroadcastInto(sum, value, k.at(x, Q8_D_OFFSET));
        const mins = this.codes.mins(place, group);
        if (mins) sumsOfX.addMins(sum, mins);
      });
    }
  }

  #activation(group: number, x: Scalar, quad: number): Vector {
    const k = this.#k;
    return k.broadcast(k.at(x, group * this.codes.format.groupSize + 4 * quad));
  }

  /** The exact sums over a group for all vectors of rows, as i32, with values looked up as two nibbles: side by side, since lookups take long. */
  #splitDots(
    places: readonly BlockPlace[],
    group: number,
    x: Scalar,
    sumsOfX: ActivationSums,
  ): Vector[] {
    const k = this.#k;
    const { format, layout } = this.codes;
    const { low, high } = this.#splitValues!;
    const parts = places.map((place) => ({
      codes: this.codes.group(place, group),
      dot: new DotAccumulator(k, format, this.#constants, sumsOfX.makeStart),
    }));
    eachPair(layout.vectorsPerGroup, (quad) => {
      const activations = this.#activation(group, x, quad);
      for (const { codes, dot } of parts) {
        const nibbles = codes.nibbles(quad);
        const upper = k.binary('i8.lookup16', high, nibbles);
        dot.addSplit(k.binary('i8.lookup16', low, nibbles, nibbles), upper, activations);
      }
    });
    return parts.map(({ dot }) => dot.finish());
  }

  /** The exact sum over a group, as i32. */
  #dot(place: BlockPlace, group: number, x: Scalar, sumsOfX: ActivationSums): Vector {
    const k = this.#k;
    const { format, layout } = this.codes;
    const codes = this.codes.group(place, group);
    const dot = new DotAccumulator(k, format, this.#constants, sumsOfX.makeStart);
    const numVectors = layout.vectorsPerGroup;
    const mask = this.codes.nibbleMask;
    if (k.machine.hasInt8Dot && mask && !format.values) {
      // High nibbles stay where they are (times 16) and are shifted once at the end; upper bits are added as they are.
      const highSum = k.zero();
      eachPair(numVectors, (quad) => {
        const activations = this.#activation(group, x, quad);
        if (quad < numVectors) dot.add(codes.nibbles(quad), activations);
        else {
          const stored = codes.stored(quad - numVectors);
          k.dotU8I8Into(highSum, k.binary('bits.andNot', mask, stored), activations);
        }
        const upper = codes.upperBits(quad);
        if (upper) dot.add(upper, activations);
      });
      const total = dot.finish();
      return k.binary('i32.add', total, k.shift('i32.sar', highSum, 4, highSum), total);
    }
    const add = (quad: number): void => dot.add(codes.quad(quad), this.#activation(group, x, quad));
    if (mask) eachPair(numVectors, add);
    else for (let quad = 0; quad < numVectors; quad++) add(quad);
    return dot.finish();
  }
}

/** The two quads of each vector of nibbles, one after the other. */
function eachPair(numVectors: number, body: (quad: number) => void): void {
  for (let j = 0; j < numVectors; j++) {
    body(j);
    body(j + numVectors);
  }
}
