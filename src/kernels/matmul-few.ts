/**
 * A few q8 activation rows times a packed quantized matrix: batched decode and speculative verification.
 *
 * Like matvec.ts it streams the packed weights once and takes them apart in registers, now for several rows at a time; matmul.ts, which expands weights into
 * scratch first, pays off only when that is shared by many more rows. Same operations in the same order per output as both (one answer, bit for bit).
 */
import { Q8_BLOCK_BYTES, Q8_D_OFFSET } from './activation-format.ts';
import { KernelBuilder, type ScalarSlot } from './builder.ts';
import { ActivationSums, DotAccumulator, type DotConstants, dotConstants } from './dot.ts';
import type { Address, KernelProgram, Scalar, Vector, VectorMachine } from './kernel-ir.ts';
import { type BlockPlace, PackedCodes } from './packed-codes.ts';
import { type QuantizedPackedFormat, ROW_GROUP } from './packed-format.ts';

const PREFETCH_BYTES = 2048;
const CACHE_LINE = 64;

export interface MatmulFewShape {
  readonly format: QuantizedPackedFormat;
  readonly bias: boolean;
  readonly residual: boolean;
}

/** Activation rows that are taken at a time. */
export function fewRowsTile(machine: VectorMachine, format: QuantizedPackedFormat): number {
  const perSum = machine.hasInt8Dot || format.maxCode === 15 ? 1 : 2;
  if (machine.vectorRegisters >= 32) return perSum === 1 ? 8 : 6;
  return perSum === 1 ? 4 : 2;
}

/**
 * out[t][r] = weight row r · x[t] [+ bias[r]] [+ residual[t][r]] for all rows t, meant for up to some 16.
 *
 * Params: weight, groupStride, numGroups, groupsPerChunk, numBlocks (of 32 inputs), x, xStride, out, outStride, numRows, bias, residual, residualStride if
 * asked for; strides in bytes. Chunk c does the row groups [c * groupsPerChunk, (c + 1) * groupsPerChunk). `out` may not overlap `residual`.
 */
export function matmulFewKernel(machine: VectorMachine, shape: MatmulFewShape): KernelProgram {
  return new FewRowsEmitter(machine, shape).emit();
}

/** Where a tile stands, in scratch between uses. */
interface TilePlace {
  readonly x: ScalarSlot;
  readonly out: ScalarSlot;
  readonly residual: ScalarSlot | null;
  readonly weight: ScalarSlot;
  /** Bytes from the start of an output row to the row group. */
  readonly outOffset: ScalarSlot;
}

class FewRowsEmitter {
  readonly #k: KernelBuilder;
  readonly #shape: MatmulFewShape;
  readonly #codes: PackedCodes;
  readonly #constants: DotConstants;
  readonly #tileRows: number;

  constructor(machine: VectorMachine, shape: MatmulFewShape) {
    const suffix = `${shape.bias ? '_b' : ''}${shape.residual ? '_r' : ''}`;
    this.#k = new KernelBuilder(`matmulFew_${shape.format.name}${suffix}`, machine);
    this.#shape = shape;
    this.#codes = new PackedCodes(this.#k, shape.format);
    this.#constants = dotConstants(this.#k, shape.format, this.#codes.nibbleMask);
    this.#tileRows = fewRowsTile(machine, shape.format);
  }

  emit(): KernelProgram {
    const k = this.#k;
    const place: TilePlace = {
      x: k.slot(),
      out: k.slot(),
      residual: this.#shape.residual ? k.slot() : null,
      weight: k.slot(),
      outOffset: k.slot(),
    };
    const fullTiles = k.slot();
    const restRows = k.slot();
    const full = k.div(k.arg('numRows'), this.#tileRows);
    fullTiles.set(full);
    restRows.set(k.sub(k.arg('numRows'), k.mul(full, this.#tileRows)));
    const perChunk = k.arg('groupsPerChunk');
    const first = k.mul(k.chunk, perChunk);
    const count = k.min(perChunk, k.sub(k.arg('numGroups'), first));
    place.weight.set(k.add(k.arg('weight'), k.mul(first, k.arg('groupStride'))));
    place.outOffset.set(k.shl(first, 6));
    k.loop(
      count,
      () => {
        place.x.set(k.arg('x'));
        place.out.set(k.add(k.arg('out'), place.outOffset.get()));
        place.residual?.set(k.add(k.arg('residual'), place.outOffset.get()));
        k.loop(
          fullTiles.get(),
          () => {
            this.#tile(this.#tileRows, place);
            place.x.addTo(k.mul(k.arg('xStride'), this.#tileRows));
            place.out.addTo(k.mul(k.arg('outStride'), this.#tileRows));
            place.residual?.addTo(k.mul(k.arg('residualStride'), this.#tileRows));
          },
          { counterInMemory: true },
        );
        for (let n = 1; n < this.#tileRows; n++) {
          k.if(restRows.get(), 'eq', n, () => this.#tile(n, place));
        }
        place.weight.addTo(k.arg('groupStride'));
        place.outOffset.addTo(4 * ROW_GROUP);
      },
      { counterInMemory: true },
    );
    return k.finish();
  }

  /** `rows` activation rows by one row group, a vector of it at a time. */
  #tile(rows: number, place: TilePlace): void {
    const k = this.#k;
    const { groupsPerBlock, blockBytes, headerBytes, blocksPerSuper } = this.#codes.layout;
    for (let lane = 0; lane < ROW_GROUP; lane += k.lanes) {
      const sums = Array.from({ length: rows }, () => k.zero());
      const weight = place.weight.get();
      const stride = rows > 1 ? k.arg('xStride') : null;
      const pointers = [place.x.get()];
      for (let r = 3; r < rows; r += 3) {
        const before = pointers.at(-1)!;
        pointers.push(k.add(k.add(k.add(before, stride!), stride!), stride!));
      }
      const at = (row: number, offset: number): Address => {
        const base = pointers[Math.floor(row / 3)]!;
        return row % 3 === 0 ? k.at(base, offset) : k.at(base, offset, stride!, (row % 3) as 1 | 2);
      };
      const prefetch = (bytes: number): void => {
        for (let line = 0; lane === 0 && line < bytes; line += CACHE_LINE) {
          k.prefetch(k.at(weight, PREFETCH_BYTES + line));
        }
      };
      const block = (header: Scalar): void => {
        prefetch(blockBytes);
        const from = {
          at: (offset: number) => k.at(weight, offset),
          header: (offset: number) => k.at(header, offset),
          lane,
        };
        for (let group = 0; group < groupsPerBlock; group++) {
          this.#block({ place: from, group, at, sums });
        }
        k.addTo(weight, blockBytes);
        for (const pointer of pointers) k.addTo(pointer, Q8_BLOCK_BYTES);
      };
      k.loop(
        k.div(k.arg('numBlocks'), blocksPerSuper),
        () => {
          if (headerBytes === 0) {
            block(weight);
            return;
          }
          const header = k.copy(weight);
          prefetch(headerBytes);
          k.addTo(weight, headerBytes);
          k.loop(blocksPerSuper, () => block(header));
        },
        { countIsPositive: true, counterInMemory: headerBytes > 0 },
      );
      this.#finish(sums, lane, place);
    }
  }

  #block({ place, group, at, sums }: BlockStep): void {
    const k = this.#k;
    const { format, layout } = this.#codes;
    const sumsOfX = sums.map((_, row) => new ActivationSums(k, format, group, (o) => at(row, o)));
    const dots = sumsOfX.map((s) => new DotAccumulator(k, format, this.#constants, s.makeStart));
    const codes = this.#codes.group(place, group);
    const numQuads = format.groupSize / 4;
    for (let j = 0; j < layout.vectorsPerGroup; j++) {
      for (let quad = j; quad < numQuads; quad += layout.vectorsPerGroup) {
        const weights = codes.quad(quad);
        dots.forEach((dot, row) => {
          dot.add(weights, k.broadcast(at(row, group * format.groupSize + 4 * quad)));
        });
      }
    }
    const scales = this.#codes.scales(place, group);
    dots.forEach((dot, row) => {
      const total = dot.finish();
      const value = k.mulF(k.unary('f32.fromI32', total, total), scales, total);
      k.fmaBroadcastInto(sums[row]!, value, at(row, Q8_D_OFFSET));
    });
    const mins = this.#codes.mins(place, group);
    if (!mins) return;
    sums.forEach((sum, row) => {
      sumsOfX[row]!.addMins(sum, mins);
    });
  }

  #finish(sums: readonly Vector[], lane: number, place: TilePlace): void {
    const k = this.#k;
    if (this.#shape.bias) {
      const bias = k.load(k.at(k.add(k.arg('bias'), place.outOffset.get()), 4 * lane));
      for (const sum of sums) k.addF(sum, bias, sum);
    }
    const residual = place.residual?.get();
    const out = place.out.get();
    sums.forEach((sum, row) => {
      if (residual) k.addF(sum, k.load(k.at(residual, 4 * lane)), sum);
      k.store(k.at(out, 4 * lane), sum);
      if (row + 1 === sums.length) return;
      k.addTo(out, k.arg('outStride'));
      if (residual) k.addTo(residual, k.arg('residualStride'));
    });
  }
}

interface BlockStep {
  readonly place: BlockPlace;
  /** Which group of weights inside this block of 32 activations. */
  readonly group: number;
  readonly at: (row: number, offset: number) => Address;
  readonly sums: readonly Vector[];
}
