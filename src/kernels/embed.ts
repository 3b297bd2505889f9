/**
 * Embedding lookup in a packed matrix (packed-format.ts): rows are interleaved there by 16, so the codes of one row are gathered word by word into scratch
 * and decoded from there. Values are those of the stored row, rounded once.
 */
import { KernelBuilder } from './builder.ts';
import { requireCount } from './errors.ts';
import type { KernelProgram, Scalar, Vector, VectorMachine } from './kernel-ir.ts';
import {
  blockLayout,
  type FloatPackedFormat,
  type PackedFormat,
  type QuantizedPackedFormat,
  ROW_GROUP,
  rowGroupBytes,
} from './packed-format.ts';
import { forEachRow, rowStream } from './rows.ts';

export interface EmbedShape {
  readonly width: number;
  /** Factor on every value; 1 for most models. */
  readonly scale: number;
  readonly format: PackedFormat;
}

/** Columns of floats that are gathered at a time. */
const FLOAT_STEP = 16;

/** Where a row stands: the address of its row group, and which of the 16 it is. */
interface RowPlace {
  readonly group: Scalar;
  readonly lane: Scalar;
}

/**
 * out row i = scale * table row tokenIds[i]; f32 `[numRows, width]`, tokenIds i32 `[numRows]`.
 *
 * Params: table tokenIds out outStride numRows rowsPerChunk. Chunk: rowsPerChunk tokens. Scratch: one block of one row. Ids are not checked here.
 * @throws {KernelShapeError} if the width is not whole blocks of a quantized format
 */
export function embedKernel(machine: VectorMachine, shape: EmbedShape): KernelProgram {
  const { width, format } = shape;
  requireCount('embed', 'width', width, format.kind === 'quantized' ? format.groupSize : 1);
  const k = new KernelBuilder(`embed_${width}_${format.name}`, machine);
  // Narrow loads of a few codes read a whole vector's bytes.
  const gathered = k.reserveScratch(128);
  const ids = k.add(k.arg('tokenIds'), k.shl(k.mul(k.chunk, k.arg('rowsPerChunk')), 2));
  forEachRow(k, [rowStream('out')], ([row]) => {
    const id = k.loadScalar(32, k.at(ids));
    const offset = k.mul(k.shr(id, 4), rowGroupBytes(format, width));
    const place = { group: k.add(k.arg('table'), offset), lane: k.and(id, ROW_GROUP - 1) };
    const out = k.copy(row!);
    if (format.kind === 'float') embedFloats(k, shape, format, place, out, gathered);
    else embedCodes(k, shape, format, place, out, gathered);
    k.addTo(ids, 4);
  });
  return k.finish();
}

function scaled(k: KernelBuilder, value: Vector, scale: number): Vector {
  return scale === 1 ? value : k.mulF(value, k.splatF32(scale));
}

function embedFloats(
  k: KernelBuilder,
  { width, scale }: EmbedShape,
  { element }: FloatPackedFormat,
  { group, lane }: RowPlace,
  out: Scalar,
  gathered: number,
): void {
  const bytes = element === 'f32' ? 4 : 2;
  const step = (columns: number): void => {
    for (let i = 0; i < columns; i++) {
      const value = k.loadScalar(
        bytes === 4 ? 32 : 16,
        k.at(group, i * ROW_GROUP * bytes, lane, bytes),
      );
      k.storeScalar(bytes === 4 ? 32 : 16, k.at(k.scratch, gathered + i * bytes), value);
    }
    k.unrolledLanes(columns, (i, count) => {
      const format = element === 'f32' ? 'bits' : element;
      const value = k.load(k.at(k.scratch, gathered + i * bytes), format, count);
      k.store(k.at(out, 4 * i), scaled(k, value, scale), 'bits', count);
    });
  };
  k.loop(Math.floor(width / FLOAT_STEP), () => {
    step(FLOAT_STEP);
    k.addTo(group, FLOAT_STEP * ROW_GROUP * bytes);
    k.addTo(out, 4 * FLOAT_STEP);
  });
  if (width % FLOAT_STEP > 0) step(width % FLOAT_STEP);
}

function embedCodes(
  k: KernelBuilder,
  { width, scale }: EmbedShape,
  format: QuantizedPackedFormat,
  { group: block, lane }: RowPlace,
  out: Scalar,
  gathered: number,
): void {
  const { groupSize } = format;
  const layout = blockLayout(format);
  const scaleFormat = format.scaleType === 'f16' ? 'f16' : 'bits';
  k.loop(width / groupSize, () => {
    for (let j = 0; j < layout.numCodeVectors; j++) {
      const word = k.loadScalar(32, k.at(block, layout.codesOffset + 64 * j, lane, 4));
      k.storeScalar(32, k.at(k.scratch, gathered + 4 * j), word);
    }
    const d = k.broadcast(k.at(block, 0, lane, layout.scaleBytes), scaleFormat);
    const min = format.hasMin
      ? k.broadcast(k.at(block, layout.minsOffset, lane, layout.scaleBytes), scaleFormat)
      : undefined;
    const emit = (codes: Vector, column: number, count: number): void => {
      const centred =
        format.zero === 0 ? codes : k.binary('i32.sub', codes, k.splatBits(format.zero));
      const code = k.unary('f32.fromI32', centred);
      let value: Vector;
      if (min) {
        value = k.unary('move', min);
        k.fmaInto(value, code, d);
      } else value = k.mulF(code, d);
      k.store(k.at(out, 4 * column), scaled(k, value, scale), 'bits', count);
    };
    k.unrolledLanes(4 * layout.numCodeVectors, (byte, count) => {
      const codes = k.load(k.at(k.scratch, gathered + byte), 'u8', count);
      if (format.codes === 'u8') {
        emit(codes, byte, count);
        return;
      }
      emit(k.binary('bits.and', codes, k.splatBits(15)), byte, count);
      emit(k.shift('i32.shr', codes, 4), groupSize / 2 + byte, count);
    });
    k.addTo(block, layout.blockBytes);
    k.addTo(out, 4 * groupSize);
  });
}
