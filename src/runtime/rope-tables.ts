/** cos and sin of every position, one table per rotation; rows are filled when a step first needs them. */

import type { RopeSpec } from '../graph/ir.ts';
import { cosSinRow, cosSinRowBytes } from '../kernels/rope-table.ts';
import { allocate, f32, type NativeRegion } from '../platform/native-memory.ts';

/** Rows made at a time, so that growing is rare. */
const STEP_ROWS = 256;

export class RopeTables implements Disposable {
  readonly #ropes: readonly RopeSpec[];
  readonly #maxRows: number;
  readonly #regions: NativeRegion[];
  #rows = 0;

  constructor(ropes: readonly RopeSpec[], maxModelLen: number) {
    this.#ropes = ropes;
    this.#maxRows = maxModelLen;
    this.#regions = ropes.map((rope) => allocate(cosSinRowBytes(rope) * maxModelLen));
  }

  address(table: number): bigint {
    return this.#regions[table]!.address;
  }

  /** Makes the rows of positions below `count`. */
  ensure(count: number): void {
    if (count <= this.#rows) return;
    const end = Math.min(this.#maxRows, Math.ceil(count / STEP_ROWS) * STEP_ROWS);
    this.#ropes.forEach((rope, i) => {
      const stride = cosSinRowBytes(rope) / 4;
      const table = f32(this.#regions[i]!.address, stride * this.#maxRows);
      for (let position = this.#rows; position < end; position++) {
        const angles = rope.frequencies.map((frequency) => position * frequency);
        table.set(cosSinRow(rope, angles, rope.magnitude), position * stride);
      }
    });
    this.#rows = end;
  }

  [Symbol.dispose](): void {
    for (const region of this.#regions) region.free();
  }
}
