/**
 * Two or more q8 activation rows times a packed quantized matrix: prefill, batched decode and speculative verification.
 *
 * A block of weights (16 or fewer rows by 32 inputs) is taken apart once into registers, and all activation rows of a tile go by it: each dot reads its
 * activations from memory, so the codes are neither stored nor loaded again. The order of work keeps what is reused near: activation rows in blocks that
 * stay in the second cache, inside them the row groups of the chunk (which stay in the first one), inside these tiles of equal size.
 * Same operations in the same order per output as matvec.ts, whatever the tile (one answer, bit for bit).
 */
import { Q8_BLOCK_BYTES, Q8_D_OFFSET, q8RowBytes } from './activation-format.ts';
import { KernelBuilder, type ScalarSlot } from './builder.ts';
import {
  ActivationSums,
  DotAccumulator,
  type DotCodes,
  type DotConstants,
  dotConstants,
  splitCodes,
  splitsCodes,
} from './dot.ts';
import type { Address, KernelProgram, Scalar, Vector, VectorMachine } from './kernel-ir.ts';
import { type BlockPlace, PackedCodes } from './packed-codes.ts';
import { type QuantizedPackedFormat, ROW_GROUP } from './packed-format.ts';

/** How far ahead of its reads the kernel asks for weights that it walks over once, as matvec.ts does. */
const PREFETCH_BYTES = 2048;
const CACHE_LINE = 64;
/** Rows of a batch that 8-bit dots take side by side, since each dot waits for the one before it. */
const INTERLEAVED_ROWS = 4;
/** Bytes of activation rows that are used for all row groups of a chunk before the next ones: less than half of a second cache of 1 MB. */
const ROW_BLOCK_BYTES = 384 * 1024;

export interface MatmulQ8Shape {
  readonly format: QuantizedPackedFormat;
  readonly bias: boolean;
  readonly residual: boolean;
}

/** Activation rows that one walk over the weights of a chunk takes: what the plan gives as `rowsPerBlock`. */
export function matmulQ8RowsPerBlock(columns: number): number {
  const rows = Math.floor(ROW_BLOCK_BYTES / q8RowBytes(columns) / 16) * 16;
  return Math.max(32, rows);
}

/**
 * Activation rows of a tile: a batch of up to `batchRows`, then whole batches as far as the tile goes. So there is code for every size of the first batch,
 * and that of whole ones is skipped where a tile is smaller.
 */
export interface MatmulQ8Tile {
  readonly batchRows: number;
  readonly maxRows: number;
}

export function matmulQ8Tile(machine: VectorMachine): MatmulQ8Tile {
  // Registers hold the sums of 16 rows beside the codes with 8-bit dots only; where they are few anyway, sums are in scratch.
  return machine.hasInt8Dot || isNarrow(machine)
    ? { batchRows: 4, maxRows: 16 }
    : { batchRows: 8, maxRows: 8 };
}

function isNarrow({ vectorRegisters }: VectorMachine): boolean {
  return vectorRegisters < 32;
}

/**
 * Rows up to which this kernel is the fastest, or null for any number. Where 16-bit sums are widened, matmul.ts, which shares each activation between two
 * vectors of expanded weights, does many rows faster; codes that are taken apart it takes apart for each of them.
 */
export function matmulQ8MaxRows(
  machine: VectorMachine,
  format: QuantizedPackedFormat,
): number | null {
  if (machine.hasInt8Dot) return null;
  if (machine.lanes === 8) return 32;
  return splitsCodes(machine, format) ? 16 : 8;
}

/**
 * out[t][r] = weight row r · x[t] [+ bias[r]] [+ residual[t][r]] for all rows t.
 *
 * Params: weight, groupStride, numGroups, groupsPerChunk, numBlocks (of 32 inputs), x, xStride, out, outStride, numRows, rowsPerBlock (`matmulQ8RowsPerBlock`),
 * bias, residual, residualStride if asked for; strides in bytes. Chunk c does the row groups [c * groupsPerChunk, (c + 1) * groupsPerChunk).
 * `out` may not overlap `residual`.
 */
export function matmulQ8Kernel(machine: VectorMachine, shape: MatmulQ8Shape): KernelProgram {
  return new MatmulQ8Emitter(machine, shape).emit();
}

/** Matrices of rows as deep as the activations: where the rows in hand begin. Kept in scratch, since the inner loops need the registers. */
interface RowPlace {
  readonly x: ScalarSlot;
  readonly out: ScalarSlot;
  readonly residual: ScalarSlot | null;
}

/** A block of activation rows, which all row groups of the chunk go by. */
interface RowBlock extends RowPlace {
  readonly numTiles: ScalarSlot;
  /** Rows of the smaller tiles, and how many tiles have one more. */
  readonly leastRows: ScalarSlot;
  readonly largerTiles: ScalarSlot;
  /** From the weights in hand to those that are asked for, bytes, and by how much that moves on with every block of weights. */
  readonly aheadDistance: ScalarSlot;
  readonly aheadStep: ScalarSlot;
}

/** Where a tile stands. */
interface TilePlace extends RowPlace {
  readonly weight: ScalarSlot;
  /** Bytes from the start of an output row to the row group. */
  readonly outOffset: ScalarSlot;
  /** Batches of the tile behind the first one. */
  readonly wholeBatches: ScalarSlot;
  /** The weights to ask for next. */
  readonly ahead: ScalarSlot;
  readonly aheadStep: ScalarSlot;
}

class MatmulQ8Emitter {
  readonly #k: KernelBuilder;
  readonly #shape: MatmulQ8Shape;
  readonly #codes: PackedCodes;
  readonly #constants: DotConstants;
  readonly #tile: MatmulQ8Tile;
  /** Rows whose dots run side by side. */
  readonly #interleaved: number;
  /** Offset in scratch of the float sums of a tile, where registers are too few for them. */
  readonly #sumsAt: number | null;
  /** Offset in scratch of the integer sums of the quads before, where registers are too few for all codes of a group. */
  readonly #partsAt: number | null;

  constructor(machine: VectorMachine, shape: MatmulQ8Shape) {
    const { format } = shape;
    const suffix = `${shape.bias ? '_b' : ''}${shape.residual ? '_r' : ''}`;
    const k = new KernelBuilder(`matmulQ8_${format.name}${suffix}`, machine);
    this.#k = k;
    this.#shape = shape;
    this.#codes = new PackedCodes(k, format);
    this.#constants = dotConstants(k, format, this.#codes.nibbleMask);
    this.#tile = matmulQ8Tile(machine);
    const sumsPerRow = format.maxCode === 15 ? 1 : 2;
    this.#interleaved = machine.hasInt8Dot ? INTERLEAVED_ROWS : 2 / sumsPerRow;
    const sumsBytes = this.#tile.maxRows * 4 * k.lanes;
    this.#sumsAt = isNarrow(machine) ? k.reserveScratch(sumsBytes) : null;
    this.#partsAt =
      isNarrow(machine) && splitsCodes(machine, format) ? k.reserveScratch(sumsBytes) : null;
  }

  emit(): KernelProgram {
    const k = this.#k;
    const perChunk = k.arg('groupsPerChunk');
    const first = k.mul(k.chunk, perChunk);
    const groups = k.slot();
    groups.set(k.min(perChunk, k.sub(k.arg('numGroups'), first)));
    const firstWeight = k.slot();
    firstWeight.set(k.add(k.arg('weight'), k.mul(first, k.arg('groupStride'))));
    const firstOutOffset = k.slot();
    firstOutOffset.set(k.shl(first, 6));
    const block: RowBlock = {
      ...this.#rowPlace(),
      numTiles: k.slot(),
      leastRows: k.slot(),
      largerTiles: k.slot(),
      aheadDistance: k.slot(),
      aheadStep: k.slot(),
    };
    block.x.set(k.arg('x'));
    block.out.set(k.arg('out'));
    block.residual?.set(k.arg('residual'));
    const rowsLeft = k.slot();
    rowsLeft.set(k.arg('numRows'));
    const place: TilePlace = {
      ...this.#rowPlace(),
      weight: k.slot(),
      outOffset: k.slot(),
      wholeBatches: k.slot(),
      ahead: k.slot(),
      aheadStep: block.aheadStep,
    };
    const rowsPerBlock = k.arg('rowsPerBlock');
    k.loop(
      k.div(k.sub(k.add(k.arg('numRows'), rowsPerBlock), 1), rowsPerBlock),
      () => {
        const rows = k.slot();
        rows.set(k.min(rowsLeft.get(), k.arg('rowsPerBlock')));
        this.#startBlock(rows.get(), block);
        place.weight.set(firstWeight.get());
        place.outOffset.set(firstOutOffset.get());
        k.loop(groups.get(), () => this.#rowGroup(block, place), { counterInMemory: true });
        this.#advance(block, rows.get());
        rowsLeft.set(k.sub(rowsLeft.get(), rows.get()));
      },
      { counterInMemory: true },
    );
    return k.finish();
  }

  #rowPlace(): RowPlace {
    const k = this.#k;
    return { x: k.slot(), out: k.slot(), residual: this.#shape.residual ? k.slot() : null };
  }

  #advance(place: RowPlace, rows: Scalar): void {
    const k = this.#k;
    place.x.addTo(k.mul(k.arg('xStride'), rows));
    place.out.addTo(k.mul(k.arg('outStride'), rows));
    place.residual?.addTo(k.mul(k.arg('residualStride'), rows));
  }

  /**
   * How a block is cut: in as few tiles as there may be, whose sizes differ by one at most. And where weights are asked for while a row group is done. One
   * walk over it: some way ahead. Several walks: those of the next group, a part of them in each, so that memory is busy all the time and not in the
   * first walk only.
   */
  #startBlock(rows: Scalar, block: RowBlock): void {
    const k = this.#k;
    const { maxRows } = this.#tile;
    const numTiles = k.div(k.add(rows, maxRows - 1), maxRows);
    const least = k.div(rows, numTiles);
    block.numTiles.set(numTiles);
    block.leastRows.set(least);
    block.largerTiles.set(k.sub(rows, k.mul(least, numTiles)));
    const numWalks = k.mul(numTiles, ROW_GROUP / k.lanes);
    block.aheadStep.set(k.div(k.add(numWalks, this.#bytesPerBlock - 1), numWalks));
    const distance = k.const(PREFETCH_BYTES);
    k.if(numWalks, 'gt', 1, () => k.setScalar(distance, k.arg('groupStride')));
    block.aheadDistance.set(distance);
  }

  /** All activation rows of a block by one row group. */
  #rowGroup(block: RowBlock, place: TilePlace): void {
    const k = this.#k;
    const outOffset = place.outOffset.get();
    place.x.set(block.x.get());
    place.out.set(k.add(block.out.get(), outOffset));
    if (block.residual) place.residual!.set(k.add(block.residual.get(), outOffset));
    const { batchRows } = this.#tile;
    place.ahead.set(k.add(place.weight.get(), block.aheadDistance.get()));
    const largerTiles = k.slot();
    largerTiles.set(block.largerTiles.get());
    const tileRows = k.slot();
    k.loop(
      block.numTiles.get(),
      () => {
        tileRows.set(block.leastRows.get());
        k.if(largerTiles.get(), 'gt', 0, () => {
          tileRows.addTo(1);
          largerTiles.addTo(-1);
        });
        const wholeBatches = k.div(k.sub(tileRows.get(), 1), batchRows);
        this.#prefetchResults(tileRows, place);
        place.wholeBatches.set(wholeBatches);
        const rest = k.slot();
        rest.set(k.sub(tileRows.get(), k.mul(wholeBatches, batchRows)));
        for (let n = 1; n <= batchRows; n++) {
          k.if(rest.get(), 'eq', n, () => this.#rowTile(n, place));
        }
        this.#advance(place, tileRows.get());
      },
      { countIsPositive: true, counterInMemory: true },
    );
    place.weight.addTo(k.arg('groupStride'));
    place.outOffset.addTo(4 * ROW_GROUP);
  }

  /** Bytes of a row group per block of 32 inputs, headers included. */
  get #bytesPerBlock(): number {
    const { superBytes, blocksPerSuper } = this.#codes.layout;
    return Math.ceil(superBytes / blocksPerSuper);
  }

  /** Asks for the weights of a block, or for the part of them that is this walk's. */
  #prefetchAhead({ ahead, aheadStep }: TilePlace): void {
    const k = this.#k;
    const at = ahead.get();
    for (let line = 0; line < this.#bytesPerBlock; line += CACHE_LINE) k.prefetch(k.at(at, line));
    ahead.set(k.add(at, aheadStep.get()));
  }

  /** Asks for what `#finish` reads and writes: a line in each row, which no prefetcher of the machine foresees. */
  #prefetchResults(tileRows: ScalarSlot, place: TilePlace): void {
    const k = this.#k;
    const out = place.out.get();
    const residual = place.residual?.get();
    k.loop(tileRows.get(), () => {
      k.prefetch(k.at(out, 0));
      k.addTo(out, k.arg('outStride'));
      if (!residual) return;
      k.prefetch(k.at(residual, 0));
      k.addTo(residual, k.arg('residualStride'));
    });
  }

  /** A tile by one row group, a vector of it at a time. */
  #rowTile(firstRows: number, place: TilePlace): void {
    const k = this.#k;
    const { groupsPerBlock, blockBytes, headerBytes, blocksPerSuper } = this.#codes.layout;
    const batches = this.#batches(firstRows);
    const numRows = batches.at(-1)!.at(-1)! + 1;
    for (let lane = 0; lane < ROW_GROUP; lane += k.lanes) {
      const sums = new RowSums(k, numRows, this.#sumsAt);
      const weight = place.weight.get();
      const { pointers, at } = this.#rowAddresses(numRows, place.x.get());
      const block = (header: Scalar): void => {
        this.#prefetchAhead(place);
        const from = {
          at: (offset: number) => k.at(weight, offset),
          header: (offset: number) => k.at(header, offset),
          lane,
        };
        for (let group = 0; group < groupsPerBlock; group++) {
          this.#group({ place: from, group, at, sums, batches, wholeBatches: place.wholeBatches });
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
          k.addTo(weight, headerBytes);
          k.loop(blocksPerSuper, () => block(header), { counterInMemory: true });
        },
        { countIsPositive: true, counterInMemory: headerBytes > 0 },
      );
      this.#finish(sums, batches, lane, place);
    }
  }

  /** The rows of each batch, the first with `firstRows` of them. */
  #batches(firstRows: number): readonly (readonly number[])[] {
    const { batchRows, maxRows } = this.#tile;
    const rows = (first: number, count: number): number[] =>
      Array.from({ length: count }, (_, i) => first + i);
    const batches = [rows(0, firstRows)];
    for (let first = firstRows; first + batchRows <= maxRows; first += batchRows) {
      batches.push(rows(first, batchRows));
    }
    return batches;
  }

  /** `body` for the batches that the tile has. */
  #eachBatch(
    batches: readonly (readonly number[])[],
    wholeBatches: ScalarSlot,
    body: (rows: readonly number[]) => void,
  ): void {
    batches.forEach((rows, i) => {
      if (i === 0) body(rows);
      else this.#k.if(wholeBatches.get(), 'ge', i, () => body(rows));
    });
  }

  /** Addresses in the rows of a tile: a pointer for every three rows, to be stepped on together. */
  #rowAddresses(
    rows: number,
    x: Scalar,
  ): { pointers: readonly Scalar[]; at: (row: number, offset: number) => Address } {
    const k = this.#k;
    const stride = rows > 1 ? k.arg('xStride') : null;
    const pointers = [x];
    for (let r = 3; r < rows; r += 3) {
      const before = pointers.at(-1)!;
      pointers.push(k.add(k.add(k.add(before, stride!), stride!), stride!));
    }
    const at = (row: number, offset: number): Address => {
      const base = pointers[Math.floor(row / 3)]!;
      return row % 3 === 0 ? k.at(base, offset) : k.at(base, offset, stride!, (row % 3) as 1 | 2);
    };
    return { pointers, at };
  }

  /** One group of weights by all rows of the tile. */
  #group(step: GroupStep): void {
    const { format } = this.#codes;
    const numQuads = format.groupSize / 4;
    const scales = this.#codes.scales(step.place, step.group);
    const mins = this.#codes.mins(step.place, step.group);
    const numParts = this.#partsAt === null ? 1 : 2;
    for (let part = 0; part < numParts; part++) {
      const quads = Array.from({ length: numQuads }, (_, quad) => quad).slice(
        (part * numQuads) / numParts,
        ((part + 1) * numQuads) / numParts,
      );
      const held = this.#hold(step, quads);
      const position = { isFirst: part === 0, isLast: part + 1 === numParts };
      this.#eachBatch(step.batches, step.wholeBatches, (batch) => {
        for (let first = 0; first < batch.length; first += this.#interleaved) {
          const rows = batch.slice(first, first + this.#interleaved);
          this.#rows(step, { held, rows, scales, mins, ...position });
        }
      });
    }
  }

  /** The codes of these quads in registers. */
  #hold({ place, group }: GroupStep, quads: readonly number[]): ReadonlyMap<number, DotCodes> {
    const codes = this.#codes.group(place, group);
    const { vectorsPerGroup } = this.#codes.layout;
    // Quads of the same vector of nibbles one after the other: it is loaded once.
    const order = [...quads].sort((x, y) => (x % vectorsPerGroup) - (y % vectorsPerGroup));
    return new Map(
      order.map((quad) => [
        quad,
        splitCodes(this.#k, this.#codes.format, this.#constants, codes.quad(quad)),
      ]),
    );
  }

  /** Held codes by some rows of the tile: the last part of a group adds its sum to those of the rows. */
  #rows(step: GroupStep, { held, rows, scales, mins, isFirst, isLast }: HeldCodes): void {
    const k = this.#k;
    const { format } = this.#codes;
    const sumsOfX = rows.map(
      (row) => new ActivationSums(k, format, step.group, (offset) => step.at(row, offset)),
    );
    const part = (row: number): Address => k.at(k.scratch, this.#partsAt! + 4 * k.lanes * row);
    const dots = rows.map((row, i) => {
      const makeStart = isFirst ? sumsOfX[i]!.makeStart : () => k.load(part(row));
      return new DotAccumulator(k, format, this.#constants, makeStart);
    });
    for (const [quad, codes] of held) {
      const offset = step.group * format.groupSize + 4 * quad;
      rows.forEach((row, i) => {
        dots[i]!.addAt(codes, step.at(row, offset));
      });
    }
    rows.forEach((row, i) => {
      const total = dots[i]!.finish();
      if (!isLast) {
        k.store(part(row), total);
        return;
      }
      const value = k.mulF(k.unary('f32.fromI32', total, total), scales, total);
      step.sums.update(row, (sum) => {
        k.fmaBroadcastInto(sum, value, step.at(row, Q8_D_OFFSET));
        if (mins) sumsOfX[i]!.addMins(sum, mins);
      });
    });
  }

  #finish(
    sums: RowSums,
    batches: readonly (readonly number[])[],
    lane: number,
    place: TilePlace,
  ): void {
    const k = this.#k;
    const bias = this.#shape.bias
      ? k.load(k.at(k.add(k.arg('bias'), place.outOffset.get()), 4 * lane))
      : null;
    const residual = place.residual?.get();
    const out = place.out.get();
    this.#eachBatch(batches, place.wholeBatches, (rows) => {
      for (const row of rows) {
        const sum = sums.get(row);
        if (bias) k.addF(sum, bias, sum);
        if (residual) k.addF(sum, k.load(k.at(residual, 4 * lane)), sum);
        k.store(k.at(out, 4 * lane), sum);
        k.addTo(out, k.arg('outStride'));
        if (residual) k.addTo(residual, k.arg('residualStride'));
      }
    });
  }
}

interface GroupStep {
  readonly place: BlockPlace;
  /** Which group of weights inside this block of 32 activations. */
  readonly group: number;
  readonly at: (row: number, offset: number) => Address;
  readonly sums: RowSums;
  readonly batches: readonly (readonly number[])[];
  readonly wholeBatches: ScalarSlot;
}

interface HeldCodes {
  readonly held: ReadonlyMap<number, DotCodes>;
  readonly rows: readonly number[];
  readonly scales: Vector;
  readonly mins: Vector | null;
  /** Whether these are the first and the last quads of the group. */
  readonly isFirst: boolean;
  readonly isLast: boolean;
}

/** The float sums of a tile, one vector per activation row: in registers, or in scratch and fetched one at a time. They begin as zero. */
class RowSums {
  readonly count: number;
  readonly #k: KernelBuilder;
  readonly #scratchOffset: number | null;
  readonly #registers: readonly Vector[];

  /** @param scratchOffset where they stand, or null for registers */
  constructor(k: KernelBuilder, count: number, scratchOffset: number | null) {
    this.#k = k;
    this.count = count;
    this.#scratchOffset = scratchOffset;
    if (scratchOffset === null) {
      this.#registers = Array.from({ length: count }, () => k.zero());
      return;
    }
    this.#registers = [];
    const zero = k.zero();
    for (let row = 0; row < count; row++) k.store(this.#address(row), zero);
  }

  #address(row: number): Address {
    return this.#k.at(this.#k.scratch, this.#scratchOffset! + 4 * this.#k.lanes * row);
  }

  get(row: number): Vector {
    return this.#registers[row] ?? this.#k.load(this.#address(row));
  }

  update(row: number, body: (sum: Vector) => void): void {
    const sum = this.get(row);
    body(sum);
    if (this.#scratchOffset !== null) this.#k.store(this.#address(row), sum);
  }
}
