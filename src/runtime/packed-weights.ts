/**
 * Fills a weight image: reads the stored rows of each weight once and packs them, row group by row group, in the order of the image.
 *
 * Knows the plan's list of weights and a weight source; not where the image ends up.
 */
import { RowGroupPacker } from '../compiler/pack.ts';
import type { PlannedWeight } from '../compiler/plan.ts';
import type { WeightPart } from '../graph/ir.ts';
import { ROW_GROUP } from '../kernels/packed-format.ts';
import { InternalError } from '../platform/errors.ts';
import { type DType, rowBytes } from '../tensor/dtype.ts';
import type { WeightSource } from '../weights/contract.ts';

/** A piece of the image, ready: `bytes` at `offsetBytes`; the array is used again for the next piece. */
export type TakePiece = (offsetBytes: number, bytes: Uint8Array) => void;

/** Row groups that are packed between two pieces: some 100 kB, small beside a cache. */
const TARGET_PIECE_BYTES = 1 << 20;

/**
 * Packs all weights; `take` gets consecutive pieces in ascending order. Bytes between them are to be zero.
 * @param onProgress image bytes done so far
 */
export function packWeights(
  weights: readonly PlannedWeight[],
  source: WeightSource,
  take: TakePiece,
  onProgress?: (doneBytes: number) => void,
): void {
  for (const weight of weights) {
    if (weight.kind === 'matrix') packMatrix(weight, source, take, onProgress);
    else take(weight.offsetBytes, packVector(weight, source));
  }
}

function packVector(
  weight: Exclude<PlannedWeight, { kind: 'matrix' }>,
  source: WeightSource,
): Uint8Array {
  if (weight.kind === 'columns') return new Uint8Array(Int32Array.from(weight.columns).buffer);
  const values = new Float32Array(weight.sizeBytes / 4);
  let at = 0;
  for (const { tensor, rowStart, rowEnd } of weight.ref.parts) {
    const stored = source.readF32(tensor);
    values.set(stored.subarray(rowStart, rowEnd), at);
    at += rowEnd - rowStart;
  }
  const { scale, offset } = weight.ref;
  if (scale !== 1 || offset !== 0) {
    for (let i = 0; i < weight.rows; i++) values[i] = values[i]! * scale + offset;
  }
  return new Uint8Array(values.buffer);
}

function packMatrix(
  weight: Extract<PlannedWeight, { kind: 'matrix' }>,
  source: WeightSource,
  take: TakePiece,
  onProgress: ((doneBytes: number) => void) | undefined,
): void {
  const dtype = weight.dtype as DType;
  const bytesPerRow = rowBytes(dtype, weight.columns);
  const packer = new RowGroupPacker(dtype, weight.format, weight.columns);
  const groupsPerPiece = Math.max(1, Math.floor(TARGET_PIECE_BYTES / packer.groupBytes));
  const rows = new StoredRows(weight, source, bytesPerRow, groupsPerPiece * ROW_GROUP);
  const piece = new Uint8Array(groupsPerPiece * packer.groupBytes);
  const numGroups = weight.sizeBytes / packer.groupBytes;
  for (let group = 0; group < numGroups; group += groupsPerPiece) {
    const count = Math.min(groupsPerPiece, numGroups - group);
    piece.fill(0);
    const stored = rows.next(count * ROW_GROUP);
    for (let g = 0; g < count; g++) {
      const numRows = Math.max(0, Math.min(ROW_GROUP, stored.count - g * ROW_GROUP));
      packer.packGroup(
        stored.bytes,
        g * ROW_GROUP * bytesPerRow,
        numRows,
        piece,
        g * packer.groupBytes,
      );
    }
    const offset = weight.offsetBytes + group * packer.groupBytes;
    take(offset, piece.subarray(0, count * packer.groupBytes));
    onProgress?.(offset + count * packer.groupBytes);
  }
}

/** The rows of all parts of a matrix, one below the other, read some at a time. */
class StoredRows {
  readonly #parts: readonly WeightPart[];
  readonly #source: WeightSource;
  readonly #bytesPerRow: number;
  readonly #buffer: Uint8Array;
  #part = 0;
  #row: number;

  constructor(
    weight: Extract<PlannedWeight, { kind: 'matrix' }>,
    source: WeightSource,
    bytesPerRow: number,
    maxRows: number,
  ) {
    this.#parts = weight.ref.parts;
    this.#source = source;
    this.#bytesPerRow = bytesPerRow;
    this.#buffer = new Uint8Array(maxRows * bytesPerRow);
    this.#row = this.#parts[0]!.rowStart;
  }

  /** Up to `wanted` rows; fewer only at the end. */
  next(wanted: number): { bytes: Uint8Array; count: number } {
    let count = 0;
    while (count < wanted && this.#part < this.#parts.length) {
      const part = this.#parts[this.#part]!;
      const order = this.#rowOrder(part);
      const take = order ? 1 : Math.min(wanted - count, part.rowEnd - this.#row);
      const row = order ? part.rowStart + order[this.#row - part.rowStart]! : this.#row;
      const into = this.#buffer.subarray(
        count * this.#bytesPerRow,
        (count + take) * this.#bytesPerRow,
      );
      const read = this.#source.readRows(part.tensor, row, row + take, into);
      if (read.length !== into.length) {
        throw new InternalError(
          `${part.tensor}: ${read.length} bytes read, expected ${into.length}`,
        );
      }
      this.#row += take;
      count += take;
      if (this.#row === part.rowEnd) this.#row = this.#parts[++this.#part]?.rowStart ?? 0;
    }
    return { bytes: this.#buffer, count };
  }

  /** Null where rows stand as they are stored. */
  #rowOrder({ rowOrderOf }: WeightPart): Int32Array | null {
    if (rowOrderOf === undefined) return null;
    const order = this.#source.tensors.get(rowOrderOf)?.columnOrder;
    if (order === undefined) throw new InternalError(`"${rowOrderOf}" has no order`);
    return order.columns;
  }
}
