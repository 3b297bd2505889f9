/**
 * The frame of an encoder from f32 to ggml's blocks. A unit is as many blocks as a vector has lanes: their weights are transposed, so that lanes are blocks;
 * a format looks for its scales there, in plain order within each lane; then block after block is rounded and packed, lanes being neighbouring weights again.
 * What formats do is in the siblings; what comes out are the bytes of tensor/rows.ts's `encodeRow` and `encodeRowWeighted`.
 */
import type { KernelBuilder, ScalarSlot, VectorSlot } from '../builder.ts';
import type { Scalar, Vector } from '../kernel-ir.ts';
import { LaneArray } from './lane-array.ts';

export interface BlockShape {
  /** Elements of a block. */
  readonly elements: 32 | 256;
  readonly blockBytes: number;
  /** Elements of a group. */
  readonly size: 16 | 32;
  /** Whether an importance makes a difference; `ofRows`: together with the mean square of the block's row. */
  readonly importance: 'unused' | 'used' | 'ofRows';
}

/** A group of each lane's block. */
export interface LaneGroup {
  /** f32 `[size, lanes]` */
  readonly x: Scalar;
  /** Of the same columns; null without an importance. */
  readonly importance: Scalar | null;
  /** Row of the group in arrays of a row per group, in bytes. */
  readonly row: Scalar;
}

/** A block, when it is written. */
export interface OpenBlock {
  /** f32 `[elements]` */
  readonly x: ScalarSlot;
  readonly out: ScalarSlot;
  /** Bytes to its lane in an array. */
  readonly lane: ScalarSlot;
}

/** Given how to read what an array has for the group, in all lanes: what makes codes of weights; it may overwrite them. */
export type GroupRounder = (of: (array: LaneArray) => Vector) => (weights: Vector) => Vector;

export class BlockFrame {
  readonly k: KernelBuilder;
  readonly shape: BlockShape;
  readonly isWeighted: boolean;
  /** f32 `[elements, lanes]` */
  readonly x: LaneArray;
  /** Mean square of each block's row; null where it is not asked for. */
  readonly rowMeans: VectorSlot | null;
  readonly #importance: LaneArray | null;
  readonly #group: ScalarSlot;
  readonly #lane: ScalarSlot;
  readonly #open: OpenBlock;

  constructor(k: KernelBuilder, shape: BlockShape, isWeighted: boolean) {
    this.k = k;
    this.shape = shape;
    this.isWeighted = isWeighted;
    this.x = new LaneArray(k, shape.elements);
    this.#importance = isWeighted ? new LaneArray(k, shape.elements) : null;
    this.rowMeans = isWeighted && shape.importance === 'ofRows' ? k.vectorSlot() : null;
    this.#group = k.slot();
    this.#lane = k.slot();
    this.#open = { x: k.slot(), out: k.slot(), lane: k.slot() };
  }

  get numGroups(): number {
    return this.shape.elements / this.shape.size;
  }

  /** Blocks of the unit to lanes. */
  gather(unit: ScalarSlot): void {
    const { k } = this;
    this.#lane.set(k.const(0));
    k.loop(
      k.lanes,
      () => {
        const block = k.add(k.mul(unit.get(), k.lanes), this.#lane.get());
        this.#transpose(k.arg('values'), block, this.x);
        if (this.#importance !== null) {
          const perRow = k.arg('blocksPerRow');
          const row = k.div(block, perRow);
          if (this.rowMeans !== null) {
            const mean = k.loadScalar(32, k.at(k.arg('rowMeans'), 0, row, 4));
            const lane = this.#lane.get();
            k.storeScalar(32, { ...this.rowMeans.address, index: lane, scale: 4 }, mean);
          }
          this.#transpose(k.arg('importance'), k.sub(block, k.mul(row, perRow)), this.#importance);
        }
        this.#lane.addTo(1);
      },
      { counterInMemory: true },
    );
  }

  /** A block of `from` into a lane. */
  #transpose(from: Scalar, block: Scalar, into: LaneArray): void {
    const { k } = this;
    const unrolled = 8;
    const source = k.add(from, k.mul(block, 4 * this.shape.elements));
    const target = k.add(into.pointer(), k.shl(this.#lane.get(), 2));
    k.loop(this.shape.elements / unrolled, () => {
      for (let i = 0; i < unrolled; i++) {
        const bits = k.loadScalar(32, k.at(source, 4 * i));
        k.storeScalar(32, k.at(target, 4 * k.lanes * i), bits);
      }
      k.addTo(source, 4 * unrolled);
      k.addTo(target, 4 * k.lanes * unrolled);
    });
  }

  /** Groups of all lanes' blocks. */
  forEachGroup(body: (group: LaneGroup) => void): void {
    const { k } = this;
    const rowBytes = 4 * k.lanes;
    this.#group.set(k.const(0));
    k.loop(
      this.numGroups,
      () => {
        const first = k.mul(this.#group.get(), this.shape.size * rowBytes);
        const place = (array: LaneArray): Scalar => k.pointer(array.behind(first));
        const importance = this.#importance === null ? null : place(this.#importance);
        const row = k.mul(this.#group.get(), rowBytes);
        body({ x: place(this.x), importance, row });
        this.#group.addTo(1);
      },
      { counterInMemory: true },
    );
  }

  /** Blocks of the unit one after another. */
  forEachBlock(unit: ScalarSlot, body: (block: OpenBlock) => void): void {
    const { k } = this;
    const { x, out, lane } = this.#open;
    const first = k.mul(unit.get(), k.lanes);
    x.set(k.add(k.arg('values'), k.mul(first, 4 * this.shape.elements)));
    out.set(k.add(k.arg('out'), k.mul(first, this.shape.blockBytes)));
    lane.set(k.const(0));
    k.loop(
      k.lanes,
      () => {
        body(this.#open);
        x.addTo(4 * this.shape.elements);
        out.addTo(this.shape.blockBytes);
        lane.addTo(4);
      },
      { counterInMemory: true },
    );
  }

  /**
   * Codes of a block, i32 `[elements]`: by the scales as they are stored, or where one is 0, those that the search found.
   *
   * @param scales f32 `[numGroups, lanes]`
   * @param round found codes may be given themselves, i32 `[elements, lanes]`
   */
  roundBlock(
    { x, lane }: OpenBlock,
    scales: LaneArray,
    codes: Scalar,
    round: { readonly byScale: GroupRounder; readonly asFound: GroupRounder | LaneArray },
  ): void {
    const { k } = this;
    const values = x.get();
    const into = k.copy(codes);
    const row = lane.get();
    const of = (array: LaneArray): Vector => k.broadcast(array.behind(row));
    const roundAll = (emitter: (value: Vector) => Vector): void =>
      k.unrolledLanes(this.shape.size, (element) => {
        k.store(k.at(into, 4 * element), emitter(k.load(k.at(values, 4 * element))));
      });
    k.loop(this.numGroups, () => {
      // Without its sign.
      const bits = k.and(k.loadScalar(32, scales.behind(row)), 0x7fffffff);
      k.if(
        bits,
        'ne',
        0,
        () => roundAll(round.byScale(of)),
        () => {
          if (!(round.asFound instanceof LaneArray)) roundAll(round.asFound(of));
          else this.#copyFound(round.asFound, lane.get(), row, into);
        },
      );
      k.addTo(values, 4 * this.shape.size);
      k.addTo(into, 4 * this.shape.size);
      k.addTo(row, 4 * k.lanes);
    });
  }

  /** Codes of a lane's group, whose row in arrays of a row per group is `row`. */
  #copyFound(from: LaneArray, lane: Scalar, row: Scalar, into: Scalar): void {
    const { k } = this;
    const first = k.add(lane, k.mul(k.sub(row, lane), this.shape.size));
    for (let i = 0; i < this.shape.size; i++) {
      const { base, offsetBytes } = from.at(i);
      k.storeScalar(32, k.at(into, 4 * i), k.loadScalar(32, k.at(base, offsetBytes, first)));
    }
  }
}
