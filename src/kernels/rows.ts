/**
 * The loops that row-wise kernels share: which rows and columns a chunk is, and walking them.
 *
 * A matrix is row-major with a row stride in bytes. Params `numRows` and `rowsPerChunk` are always there; the other names come from the kernel.
 * Nothing here reads past the width of a row. Knows nothing of what is done with the values.
 */
import { Q8_BLOCK_BYTES, Q8_BLOCK_VALUES } from './activation-format.ts';
import type { KernelBuilder } from './builder.ts';
import { requireCount } from './errors.ts';
import type { Address, Scalar } from './kernel-ir.ts';

/** A matrix by the names of its params: the address of row 0, and the row stride in bytes. */
export interface RowStream {
  readonly base: string;
  readonly stride: string;
}

/** base `name`, stride `nameStride` */
export function rowStream(name: string): RowStream {
  return { base: name, stride: `${name}Stride` };
}

/**
 * Runs `body` for every row r of the chunk, rowsPerChunk rows from chunk * rowsPerChunk on (the last chunk has fewer).
 * body gets the address of row r of each stream; it must not change them.
 */
export function forEachRow(
  k: KernelBuilder,
  streams: readonly RowStream[],
  body: (rows: readonly Scalar[]) => void,
): void {
  const rowsPerChunk = k.arg('rowsPerChunk');
  const first = k.mul(k.chunk, rowsPerChunk);
  const pointers = streams.map(({ base, stride }) =>
    k.add(k.arg(base), k.mul(first, k.arg(stride))),
  );
  const count = k.min(k.sub(k.arg('numRows'), first), rowsPerChunk);
  k.loop(count, () => {
    body(pointers);
    streams.forEach(({ stride }, i) => {
      k.addTo(pointers[i]!, k.arg(stride));
    });
  });
}

/** One vector's worth of columns. */
export interface ColumnGroup {
  /** Which of `unroll` vectors of an iteration this is. */
  readonly slot: number;
  /** Columns, `lanes` or fewer at the end of the row. */
  readonly count: number;
  /** Where the group stands in the f32 row that starts at `row`. */
  at(row: Scalar): Address;
}

/**
 * Visits the `width` f32 columns of a row a vector at a time, `unroll` vectors per iteration, in ascending order. Vector i has slot i % unroll.
 */
export function forEachColumnGroup(
  k: KernelBuilder,
  width: number,
  unroll: number,
  body: (group: ColumnGroup) => void,
): void {
  const { lanes } = k;
  const perIteration = unroll * lanes;
  const iterations = Math.floor(width / perIteration);
  const rest = width - iterations * perIteration;
  const fixed = (column: number, slot: number, count: number): ColumnGroup => ({
    slot,
    count,
    at: (row) => k.at(row, 4 * column),
  });
  if (iterations <= 1) {
    for (let column = 0, i = 0; column < width; column += lanes, i++) {
      body(fixed(column, i % unroll, Math.min(lanes, width - column)));
    }
    return;
  }
  const offset = k.const(0);
  k.loop(iterations, () => {
    for (let slot = 0; slot < unroll; slot++) {
      body({ slot, count: lanes, at: (row) => k.at(row, 4 * slot * lanes, offset) });
    }
    k.addTo(offset, 4 * perIteration);
  });
  for (let done = 0, slot = 0; done < rest; done += lanes, slot++) {
    body(fixed(width - rest + done, slot, Math.min(lanes, rest - done)));
  }
}

export type RowElement = 'f32' | 'q8';

/** Bytes of 32 columns. */
export function bytesPer32(element: RowElement): number {
  return element === 'f32' ? 4 * Q8_BLOCK_VALUES : Q8_BLOCK_BYTES;
}

/**
 * Columns in use of each vector of a block of 32 that has `columns` of them: full vectors, then fewer, then 0.
 */
function vectorCounts(lanes: number, columns: number): readonly number[] {
  return Array.from({ length: Q8_BLOCK_VALUES / lanes }, (_, i) =>
    Math.max(0, Math.min(lanes, columns - i * lanes)),
  );
}

/**
 * Runs `body` for the blocks of 32 columns of one row. `rows` are addresses of the row and are left as they are.
 * body gets the address of the block in each stream and the columns in use per vector.
 */
export function forEachBlockOfRow(
  k: KernelBuilder,
  width: number,
  rows: readonly Scalar[],
  elements: readonly RowElement[],
  body: (blocks: readonly Scalar[], counts: readonly number[]) => void,
): void {
  const blocks = rows.map((row) => k.copy(row));
  k.loop(Math.floor(width / Q8_BLOCK_VALUES), () => {
    body(blocks, vectorCounts(k.lanes, Q8_BLOCK_VALUES));
    blocks.forEach((block, i) => {
      k.addTo(block, bytesPer32(elements[i]!));
    });
  });
  const rest = width % Q8_BLOCK_VALUES;
  if (rest > 0) body(blocks, vectorCounts(k.lanes, rest));
}

/** How a matrix is cut into chunks by rows and columns. */
export interface SegmentShape {
  readonly width: number;
  /** Columns of one chunk, a multiple of 32; the last segment of a row may have fewer. Left out: whole rows. */
  readonly segmentColumns?: number;
}

/** Segments of one row. The chunks of a kernel are segmentsPerRow * ceil(numRows / rowsPerChunk). */
export function segmentsPerRow({ width, segmentColumns }: SegmentShape): number {
  return segmentColumns === undefined ? 1 : Math.ceil(width / segmentColumns);
}

/** A stream with the type of its elements; `wholeRow` stays at the beginning of its row, whichever the segment. */
export interface TypedStream extends RowStream {
  readonly element: RowElement | 'wholeRow';
}

/** Walks the blocks of 32 columns of a row segment: body gets the address of the block in each stream and the columns in use per vector. */
export type VisitBlocks = (
  starts: readonly Scalar[],
  elements: readonly RowElement[],
  body: (blocks: readonly Scalar[], counts: readonly number[]) => void,
) => void;

/**
 * Runs `body` for every row of the chunk: chunk = rowGroup * segmentsPerRow + segment, where a row group is rowsPerChunk rows.
 * body gets the address of the row's segment in each stream, which it must not change, and the means to walk the segment's blocks.
 */
export function forEachRowSegment(
  k: KernelBuilder,
  kernel: string,
  shape: SegmentShape,
  streams: readonly TypedStream[],
  body: (starts: readonly Scalar[], visitBlocks: VisitBlocks) => void,
): void {
  const { width } = shape;
  const segmentColumns = columnsOfSegment(shape);
  requireCount(kernel, 'width', width);
  requireCount(kernel, 'segmentColumns', segmentColumns, Q8_BLOCK_VALUES);
  const segments = segmentsPerRow(shape);
  const blocksPerSegment = segmentColumns / Q8_BLOCK_VALUES;
  const wholeBlocks = Math.floor(width / Q8_BLOCK_VALUES);
  const rest = width % Q8_BLOCK_VALUES;

  const rowGroup = segments === 1 ? k.chunk : k.div(k.chunk, segments);
  const segment = segments === 1 ? k.const(0) : k.sub(k.chunk, k.mul(rowGroup, segments));
  const firstRow = k.mul(rowGroup, k.arg('rowsPerChunk'));
  const firstBlock = k.mul(segment, blocksPerSegment);
  const rows = streams.map(({ base, stride, element }) => {
    const row = k.add(k.arg(base), k.mul(firstRow, k.arg(stride)));
    if (element !== 'wholeRow') k.addTo(row, k.mul(firstBlock, bytesPer32(element)));
    return row;
  });
  const blockCount = k.min(k.sub(k.const(wholeBlocks), firstBlock), blocksPerSegment);
  const rowCount = k.min(k.sub(k.arg('numRows'), firstRow), k.arg('rowsPerChunk'));

  const visitBlocks: VisitBlocks = (starts, elements, visit) => {
    const blocks = starts.map((start) => k.copy(start));
    k.loop(blockCount, () => {
      visit(blocks, vectorCounts(k.lanes, Q8_BLOCK_VALUES));
      blocks.forEach((block, i) => {
        k.addTo(block, bytesPer32(elements[i]!));
      });
    });
    if (rest === 0) return;
    k.if(segment, 'eq', segments - 1, () => {
      visit(blocks, vectorCounts(k.lanes, rest));
    });
  };
  k.loop(rowCount, () => {
    body(rows, visitBlocks);
    streams.forEach(({ stride }, i) => {
      k.addTo(rows[i]!, k.arg(stride));
    });
  });
}

/** Columns of a segment, a multiple of 32 for a shape that is accepted. */
export function columnsOfSegment({ width, segmentColumns }: SegmentShape): number {
  return segmentColumns ?? Math.ceil(width / Q8_BLOCK_VALUES) * Q8_BLOCK_VALUES;
}
