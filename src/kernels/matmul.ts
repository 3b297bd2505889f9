/**
 * Many activation rows times a packed matrix: f32 activations, and q8 ones where matmul-q8.ts is not faster.
 *
 * The weights of a unit (16 or 32 rows) are expanded once per block of inputs into thread scratch that stays in L1 (u8 codes and f32 scales for q8 activations,
 * f32 values for f32 ones), and then used for all activation rows, a register tile of up to `tileColumns` at a time. A new weight format only needs
 * an expander. Partial sums over the blocks of inputs stand in the output.
 *
 * Order of operations per output: blocks ascending, `sum += (dot * scale) * d`, `sum += min * dsum`, then bias, then residual: as in matvec.ts and matmul-q8.ts, whatever the tile.
 */
import { Q8_BLOCK_BYTES, Q8_BLOCK_VALUES, Q8_D_OFFSET } from './activation-format.ts';
import { KernelBuilder, type ScalarSlot } from './builder.ts';
import { ActivationSums, DotAccumulator, type DotConstants, dotConstants } from './dot.ts';
import type { Address, KernelProgram, Scalar, Vector, VectorMachine } from './kernel-ir.ts';
import { type ExpandedLayout, expandCodes, expandedLayout, expandFloats } from './matmul-expand.ts';
import { type PackedFormat, pieceInputs, type QuantizedPackedFormat } from './packed-format.ts';

export interface MatmulShape {
  readonly format: PackedFormat;
  readonly activation: 'q8' | 'f32';
  readonly bias: boolean;
  readonly residual: boolean;
  /** Asks for the weights of the next block while this one is computed: for few rows, where reading weights is most of the time. */
  readonly prefetch: boolean;
}

/** Most inputs expanded at a time, so that the expanded weights stay in a 32 KiB L1 beside the activations. */
const MAX_BLOCK_INPUTS = { q8: 640, f32: 128 } as const;

/** Inputs of a block are a multiple of this; weights with super-blocks of 256 by f32 activations do not fit a small L1. */
function blockInputsUnit(format: PackedFormat): number {
  return Math.max(Q8_BLOCK_VALUES, pieceInputs(format));
}

function maxBlockInputs(activation: 'q8' | 'f32', format: PackedFormat): number {
  const unit = blockInputsUnit(format);
  return Math.max(unit, Math.floor(MAX_BLOCK_INPUTS[activation] / unit) * unit);
}

/** Inputs of a block: as few blocks as fit, of about equal size. What the plan gives as `blockInputs`. */
export function matmulBlockInputs(
  activation: 'q8' | 'f32',
  format: PackedFormat,
  inputs: number,
): number {
  const most = maxBlockInputs(activation, format);
  const unit = blockInputsUnit(format);
  const numBlocks = Math.ceil(inputs / most);
  return Math.min(most, Math.ceil(inputs / numBlocks / unit) * unit);
}
const CACHE_LINE = 64;

/** The register tile: `vectors` vectors of weight rows by up to `columns` activation rows. */
export interface MatmulTile {
  readonly vectors: number;
  readonly columns: number;
  /** Weight rows of a unit of work. */
  readonly unitRows: 16 | 32;
  /** Float sums stand in scratch, since integer sums take the registers. */
  readonly sumsInMemory: boolean;
}

export function matmulTile(
  machine: VectorMachine,
  shape: Pick<MatmulShape, 'format' | 'activation'>,
): MatmulTile {
  const wide = machine.vectorRegisters >= 32;
  const unitRows = machine.lanes === 16 ? 32 : 16;
  const vectors = unitRows / machine.lanes;
  if (shape.activation === 'f32')
    return { vectors, unitRows, columns: wide ? 6 : 4, sumsInMemory: false };
  const format = shape.format as QuantizedPackedFormat;
  const perSum = machine.hasInt8Dot || format.maxCode === 15 ? 1 : 2;
  if (wide) return { vectors, unitRows, columns: perSum === 1 ? 6 : 4, sumsInMemory: false };
  return { vectors, unitRows, columns: perSum === 1 ? 4 : 2, sumsInMemory: true };
}

/**
 * out[t][r] = weight row r · x[t] [+ bias[r]] [+ residual[t][r]] for all rows t.
 *
 * Params: weight, groupStride, numUnits, unitsPerChunk, inputs (number of inputs, a multiple of 32 for quantized weights), blockInputs (`matmulBlockInputs`), x, xStride, out, outStride, numRows,
 * bias, residual, residualStride if asked for; strides in bytes. Chunk c does the units [c * unitsPerChunk, (c + 1) * unitsPerChunk).
 * `out` may not overlap `residual`.
 */
export function matmulKernel(machine: VectorMachine, shape: MatmulShape): KernelProgram {
  return new MatmulEmitter(machine, shape).emit();
}

class MatmulEmitter {
  readonly #k: KernelBuilder;
  readonly #shape: MatmulShape;
  readonly #tile: MatmulTile;
  readonly #expanded: ExpandedLayout;
  readonly #expandedAt: number;
  readonly #sumsAt: number;
  readonly #constants: DotConstants | null;
  /** Whole column tiles of the activation rows, and what is left. */
  readonly #fullTiles: ScalarSlot;
  readonly #restColumns: ScalarSlot;

  constructor(machine: VectorMachine, shape: MatmulShape) {
    const name = `matmul_${shape.format.name}_${shape.activation}${shape.bias ? '_b' : ''}${shape.residual ? '_r' : ''}${shape.prefetch ? '_p' : ''}`;
    const k = new KernelBuilder(name, machine);
    this.#k = k;
    this.#shape = shape;
    this.#tile = matmulTile(machine, shape);
    this.#expanded = expandedLayout(shape.format, shape.activation, this.#tile.vectors, k.lanes);
    this.#expandedAt = k.reserveScratch(
      (maxBlockInputs(shape.activation, shape.format) / this.#expanded.stepInputs) *
        this.#expanded.stepBytes,
    );
    this.#sumsAt = this.#tile.sumsInMemory
      ? k.reserveScratch(this.#tile.vectors * this.#tile.columns * 4 * k.lanes)
      : 0;
    this.#fullTiles = k.slot();
    this.#restColumns = k.slot();
    this.#constants =
      shape.activation === 'q8' ? dotConstants(k, shape.format as QuantizedPackedFormat) : null;
  }

  emit(): KernelProgram {
    const k = this.#k;
    const unitBytes = 4 * this.#tile.unitRows;
    const outUnit = k.slot();
    const weightUnit = k.slot();
    const weight = k.slot();
    const x = k.slot();
    const done = k.slot();
    const blockInputs = k.slot();
    const ahead = this.#shape.prefetch ? k.slot() : null;

    const { columns } = this.#tile;
    const fullTiles = k.div(k.arg('numRows'), columns);
    this.#fullTiles.set(fullTiles);
    this.#restColumns.set(k.sub(k.arg('numRows'), k.mul(fullTiles, columns)));
    const perChunk = k.arg('unitsPerChunk');
    const first = k.mul(k.chunk, perChunk);
    const count = k.min(perChunk, k.sub(k.arg('numUnits'), first));
    outUnit.set(k.mul(first, unitBytes));
    const unitStride = k.mul(k.arg('groupStride'), this.#tile.unitRows / 16);
    weightUnit.set(k.add(k.arg('weight'), k.mul(first, unitStride)));
    const unitBody = (): void => {
      weight.set(weightUnit.get());
      x.set(k.arg('x'));
      done.set(k.const(0));
      const size = k.arg('blockInputs');
      const numBlocks = k.div(k.sub(k.add(k.arg('inputs'), size), 1), size);
      k.loop(
        numBlocks,
        () => {
          blockInputs.set(k.min(k.sub(k.arg('inputs'), done.get()), k.arg('blockInputs')));
          this.#expand(weight.get(), blockInputs.get());
          ahead?.set(this.#nextWeights(weight, weightUnit, { done, blockInputs }));
          this.#columns(x, outUnit, { done, blockInputs, ahead });
          weight.addTo(this.#weightBytes(blockInputs.get()));
          x.addTo(this.#activationBytes(blockInputs.get()));
          done.addTo(blockInputs.get());
        },
        { countIsPositive: true, counterInMemory: true },
      );
      outUnit.addTo(unitBytes);
      weightUnit.addTo(k.mul(k.arg('groupStride'), this.#tile.unitRows / 16));
    };
    k.loop(count, unitBody, { counterInMemory: true });
    return k.finish();
  }

  /** Where the weights of the next block of inputs begin, in the first row group of its unit; after the last block those of the next unit. */
  #nextWeights(
    weight: ScalarSlot,
    weightUnit: ScalarSlot,
    { done, blockInputs }: Omit<BlockState, 'ahead'>,
  ): Scalar {
    const k = this.#k;
    const next = k.add(weight.get(), this.#weightBytes(blockInputs.get()));
    k.if(k.add(done.get(), blockInputs.get()), 'ge', k.arg('inputs'), () => {
      const unitStride = k.mul(k.arg('groupStride'), this.#tile.unitRows / 16);
      k.setScalar(next, k.add(weightUnit.get(), unitStride));
    });
    return next;
  }

  /** Bytes of a row group over `inputs` inputs. */
  #weightBytes(inputs: Scalar): Scalar {
    const k = this.#k;
    const { sourceStepBytes, stepInputs } = this.#expanded;
    return k.mul(k.div(inputs, stepInputs), sourceStepBytes);
  }

  #activationBytes(inputs: Scalar): Scalar {
    const k = this.#k;
    return this.#shape.activation === 'q8'
      ? k.mul(k.div(inputs, Q8_BLOCK_VALUES), Q8_BLOCK_BYTES)
      : k.shl(inputs, 2);
  }

  #expand(weight: Scalar, inputs: Scalar): void {
    const k = this.#k;
    const target = k.add(k.scratch, this.#expandedAt);
    const { format, activation } = this.#shape;
    const options = { format, layout: this.#expanded, vectors: this.#tile.vectors };
    const second = this.#tile.unitRows === 32 ? k.add(weight, k.arg('groupStride')) : null;
    k.loop(
      k.div(inputs, this.#expanded.stepInputs),
      () => {
        if (activation === 'q8') expandCodes(k, { ...options, weight, second, target });
        else expandFloats(k, { ...options, weight, second, target });
        k.addTo(weight, this.#expanded.sourceStepBytes);
        if (second) k.addTo(second, this.#expanded.sourceStepBytes);
        k.addTo(target, this.#expanded.stepBytes);
      },
      { countIsPositive: true },
    );
  }

  #columns(x: ScalarSlot, outOffset: ScalarSlot, block: BlockState): void {
    const k = this.#k;
    const { columns } = this.#tile;
    const place: TilePlace = {
      x: k.slot(),
      out: k.slot(),
      residual: this.#shape.residual ? k.slot() : null,
      outOffset,
      block,
    };
    place.x.set(x.get());
    place.out.set(k.add(k.arg('out'), outOffset.get()));
    place.residual?.set(k.add(k.arg('residual'), outOffset.get()));
    k.loop(
      this.#fullTiles.get(),
      () => {
        this.#tileOf(columns, place);
        place.x.addTo(k.mul(k.arg('xStride'), columns));
        place.out.addTo(k.mul(k.arg('outStride'), columns));
        place.residual?.addTo(k.mul(k.arg('residualStride'), columns));
      },
      { counterInMemory: true },
    );
    for (let n = 1; n < columns; n++) {
      k.if(this.#restColumns.get(), 'eq', n, () => this.#tileOf(n, place));
    }
  }

  /** `columns` activation rows by all vectors of the unit, over the expanded block of inputs. */
  #tileOf(columns: number, place: TilePlace): void {
    const k = this.#k;
    const { vectors } = this.#tile;
    const sums = new TileSums(k, this.#tile, columns, this.#sumsAt);
    k.if(
      place.block.done.get(),
      'eq',
      0,
      () => sums.setZero(),
      () => {
        this.#eachColumn(place.out.get(), 'outStride', columns, (column, at) =>
          sums.load(column, (v) => k.at(at, 4 * k.lanes * v)),
        );
      },
    );
    sums.park();

    const xStride = k.arg('xStride');
    const x0 = place.x.get();
    const x3 = columns > 3 ? k.add(k.add(k.add(x0, xStride), xStride), xStride) : null;
    const column = (c: number, offset: number): Address => {
      const base = c < 3 ? x0 : x3!;
      return c % 3 === 0 ? k.at(base, offset) : k.at(base, offset, xStride, (c % 3) as 1 | 2);
    };
    const expanded = k.add(k.scratch, this.#expandedAt);
    const ahead = place.block.ahead?.get() ?? null;
    const inputs = place.block.blockInputs.get();
    const step = { columns, sums, column, expanded, x0, x3, inputs, ahead };
    if (this.#shape.activation === 'q8') this.#q8Blocks(step);
    else this.#f32Inputs(step);

    const left = k.sub(
      k.sub(k.arg('inputs'), place.block.done.get()),
      place.block.blockInputs.get(),
    );
    sums.unpark();
    k.if(left, 'eq', 0, () => {
      if (this.#shape.bias) {
        const bias = k.add(k.arg('bias'), place.outOffset.get());
        for (let v = 0; v < vectors; v++) {
          const value = k.load(k.at(bias, 4 * k.lanes * v));
          for (let c = 0; c < columns; c++) k.addF(sums.at(c, v), value, sums.at(c, v));
        }
      }
      if (place.residual) {
        this.#eachColumn(place.residual.get(), 'residualStride', columns, (c, at) => {
          for (let v = 0; v < vectors; v++) {
            k.addF(sums.at(c, v), k.load(k.at(at, 4 * k.lanes * v)), sums.at(c, v));
          }
        });
      }
    });
    this.#eachColumn(place.out.get(), 'outStride', columns, (c, at) => {
      for (let v = 0; v < vectors; v++) k.store(k.at(at, 4 * k.lanes * v), sums.at(c, v));
    });
  }

  #eachColumn(
    start: Scalar,
    strideName: string,
    columns: number,
    body: (column: number, at: Scalar) => void,
  ): void {
    const k = this.#k;
    const at = k.copy(start);
    const stride = columns > 1 ? k.arg(strideName) : null;
    for (let c = 0; c < columns; c++) {
      body(c, at);
      if (c + 1 < columns) k.addTo(at, stride!);
    }
  }

  #q8Blocks(step: TileStep): void {
    const k = this.#k;
    const format = this.#shape.format as QuantizedPackedFormat;
    k.loop(
      k.div(step.inputs, Q8_BLOCK_VALUES),
      () => {
        if (step.ahead) this.#prefetchAhead(step.ahead);
        for (let sub = 0; sub < Q8_BLOCK_VALUES / format.groupSize; sub++) {
          this.#q8Block(step, format, sub);
        }
        k.addTo(step.expanded, this.#expanded.groupBytes * (Q8_BLOCK_VALUES / format.groupSize));
        k.addTo(step.x0, Q8_BLOCK_BYTES);
        if (step.x3) k.addTo(step.x3, Q8_BLOCK_BYTES);
      },
      { countIsPositive: true },
    );
  }

  /** Asks for the packed weights of 32 inputs in each row group of the unit and steps on. */
  #prefetchAhead(ahead: Scalar): void {
    const k = this.#k;
    const { sourceStepBytes, stepInputs } = this.#expanded;
    const bytes = (sourceStepBytes / stepInputs) * Q8_BLOCK_VALUES;
    const second = this.#tile.unitRows === 32 ? k.add(ahead, k.arg('groupStride')) : null;
    for (let line = 0; line < bytes; line += CACHE_LINE) {
      k.prefetch(k.at(ahead, line));
      if (second) k.prefetch(k.at(second, line));
    }
    k.addTo(ahead, bytes);
  }

  #q8Block(step: TileStep, format: QuantizedPackedFormat, sub: number): void {
    const k = this.#k;
    const { vectors } = this.#tile;
    const { columns, column, sums } = step;
    const base = sub * this.#expanded.groupBytes;
    const vectorBytes = 4 * k.lanes;
    const sumsOfX = Array.from(
      { length: columns },
      (_, c) => new ActivationSums(k, format, sub, (offset) => column(c, offset)),
    );
    const dots: DotAccumulator[][] = [];
    for (let c = 0; c < columns; c++) {
      dots.push(
        Array.from(
          { length: vectors },
          () => new DotAccumulator(k, format, this.#constants!, sumsOfX[c]!.makeStart),
        ),
      );
    }
    for (let j = 0; j < format.groupSize / 4; j++) {
      const codes = Array.from({ length: vectors }, (_, v) =>
        k.load(k.at(step.expanded, base + (j * vectors + v) * vectorBytes)),
      );
      for (let c = 0; c < columns; c++) {
        const x = k.broadcast(column(c, sub * format.groupSize + 4 * j));
        for (let v = 0; v < vectors; v++) dots[c]![v]!.add(codes[v]!, x);
      }
    }
    for (let v = 0; v < vectors; v++) {
      const scales = k.load(
        k.at(step.expanded, base + this.#expanded.scalesOffset + v * vectorBytes),
      );
      for (let c = 0; c < columns; c++) {
        const total = dots[c]![v]!.finish();
        const value = k.mulF(k.unary('f32.fromI32', total, total), scales, total);
        sums.update(c, v, (sum) => k.fmaBroadcastInto(sum, value, column(c, Q8_D_OFFSET)));
      }
      if (!format.hasMin) continue;
      const mins = k.load(k.at(step.expanded, base + this.#expanded.minsOffset + v * vectorBytes));
      for (let c = 0; c < columns; c++) {
        sums.update(c, v, (sum) => sumsOfX[c]!.addMins(sum, mins));
      }
    }
  }

  #f32Inputs(step: TileStep): void {
    const k = this.#k;
    const { vectors } = this.#tile;
    const vectorBytes = 4 * k.lanes;
    const unroll = 4;
    const inputs = (n: number): void => {
      for (let i = 0; i < n; i++) {
        const weights = Array.from({ length: vectors }, (_, v) =>
          k.load(k.at(step.expanded, (i * vectors + v) * vectorBytes)),
        );
        for (let c = 0; c < step.columns; c++) {
          const x = k.broadcast(step.column(c, 4 * i));
          for (let v = 0; v < vectors; v++) k.fmaInto(step.sums.at(c, v), weights[v]!, x);
        }
      }
      k.addTo(step.expanded, n * vectors * vectorBytes);
      k.addTo(step.x0, 4 * n);
      if (step.x3) k.addTo(step.x3, 4 * n);
    };
    k.loop(k.shr(step.inputs, 2), () => inputs(unroll));
    k.loop(k.and(step.inputs, unroll - 1), () => inputs(1));
  }
}

interface BlockState {
  /** Inputs summed before this block. */
  readonly done: ScalarSlot;
  readonly blockInputs: ScalarSlot;
  /** Weights to ask for while the block is computed. */
  readonly ahead: ScalarSlot | null;
}

/** Where a tile stands; kept in scratch, since the block loop needs the registers. */
interface TilePlace {
  readonly x: ScalarSlot;
  readonly out: ScalarSlot;
  readonly residual: ScalarSlot | null;
  /** Bytes from the start of an output row to the unit. */
  readonly outOffset: ScalarSlot;
  readonly block: BlockState;
}

interface TileStep {
  readonly columns: number;
  readonly sums: TileSums;
  readonly column: (column: number, offset: number) => Address;
  readonly expanded: Scalar;
  readonly x0: Scalar;
  readonly x3: Scalar | null;
  readonly inputs: Scalar;
  readonly ahead: Scalar | null;
}

/** The float sums of a tile: in registers, or parked in scratch while the block loop runs and fetched one at a time. */
class TileSums {
  readonly #k: KernelBuilder;
  readonly #vectors: number;
  readonly #columns: number;
  readonly #inMemory: boolean;
  readonly #offset: number;
  #registers: Vector[];

  constructor(k: KernelBuilder, tile: MatmulTile, columns: number, scratchOffset: number) {
    this.#k = k;
    this.#vectors = tile.vectors;
    this.#columns = columns;
    this.#inMemory = tile.sumsInMemory;
    this.#offset = scratchOffset;
    this.#registers = Array.from({ length: tile.vectors * columns }, () => k.vector());
  }

  at(column: number, vector: number): Vector {
    return this.#registers[column * this.#vectors + vector]!;
  }

  setZero(): void {
    for (const sum of this.#registers) this.#k.setZero(sum);
  }

  load(column: number, address: (vector: number) => Address): void {
    for (let v = 0; v < this.#vectors; v++) {
      this.#k.load(address(v), 'bits', this.#k.lanes, this.at(column, v));
    }
  }

  #address(index: number): Address {
    return this.#k.at(this.#k.scratch, this.#offset + 4 * this.#k.lanes * index);
  }

  park(): void {
    if (!this.#inMemory) return;
    for (const [i, sum] of this.#registers.entries()) this.#k.store(this.#address(i), sum);
  }

  /** After this the sums are in (new) registers again. */
  unpark(): void {
    if (!this.#inMemory) return;
    this.#registers = Array.from({ length: this.#vectors * this.#columns }, (_, i) =>
      this.#k.load(this.#address(i)),
    );
  }

  update(column: number, vector: number, body: (sum: Vector) => void): void {
    if (!this.#inMemory) {
      body(this.at(column, vector));
      return;
    }
    const address = this.#address(column * this.#vectors + vector);
    const sum = this.#k.load(address);
    body(sum);
    this.#k.store(address, sum);
  }
}
