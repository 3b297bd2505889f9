/**
 * Embedding lookup in a packed matrix (packed-format.ts): rows are interleaved there by 16, so the codes of one row are gathered word by word into scratch
 * and decoded from there. Values are those of the stored row, rounded once.
 */
import { KernelBuilder } from './builder.ts';
import { requireCount } from './errors.ts';
import type { KernelProgram, Scalar, Vector, VectorMachine } from './kernel-ir.ts';
import { planeMask } from './packed-codes.ts';
import {
  BLOCK_INPUTS,
  type BlockLayout,
  blockLayout,
  type FloatPackedFormat,
  type PackedFormat,
  PLANE_BITS,
  pieceInputs,
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
  requireCount('embed', 'width', width, pieceInputs(format));
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
  shape: EmbedShape,
  format: QuantizedPackedFormat,
  { group: weight, lane }: RowPlace,
  out: Scalar,
  gathered: number,
): void {
  const layout = blockLayout(format);
  const block = (header: Scalar, place: RowPlace): void => {
    for (let group = 0; group < layout.groupsPerBlock; group++) {
      const row = new RowCodes(k, format, place, group);
      row.gather(gathered);
      const { scale, min } = row.factors(header);
      k.unrolledLanes(format.groupSize, (input, count) => {
        const codes = k.load(k.at(k.scratch, gathered + input), 'u8', count);
        const centred =
          format.zero === 0 ? codes : k.binary('i32.sub', codes, k.splatBits(format.zero));
        const code = k.unary('f32.fromI32', centred);
        let value: Vector;
        if (min) {
          value = k.unary('move', min);
          k.fmaInto(value, code, scale);
        } else value = k.mulF(code, scale);
        const column = group * format.groupSize + input;
        k.store(k.at(out, 4 * column), scaled(k, value, shape.scale), 'bits', count);
      });
    }
    k.addTo(place.group, layout.blockBytes);
    k.addTo(out, 4 * BLOCK_INPUTS);
  };
  const step = (): void => {
    if (layout.headerBytes === 0) {
      block(weight, { group: weight, lane });
      return;
    }
    const header = k.copy(weight);
    k.addTo(weight, layout.headerBytes);
    k.loop(layout.blocksPerSuper, () => block(header, { group: weight, lane }));
  };
  k.loop(shape.width / pieceInputs(format), step, { counterInMemory: true });
}

/** One row of a group of a block: what packed-codes.ts is for all 16. */
class RowCodes {
  readonly #k: KernelBuilder;
  readonly #format: QuantizedPackedFormat;
  readonly #layout: BlockLayout;
  readonly #place: RowPlace;
  readonly #group: number;

  constructor(k: KernelBuilder, format: QuantizedPackedFormat, place: RowPlace, group: number) {
    this.#k = k;
    this.#format = format;
    this.#layout = blockLayout(format);
    this.#place = place;
    this.#group = group;
  }

  /** Writes the codes as bytes in the order of inputs: two at a time, since scalar shifts are of unsigned halves. */
  gather(offset: number): void {
    const k = this.#k;
    const { vectorsPerGroup, codesOffset } = this.#layout;
    const { groupSize, codes, values } = this.#format;
    const first = this.#group * vectorsPerGroup;
    for (let half = 0; half < 2 * vectorsPerGroup; half++) {
      const pair = this.#half(codesOffset, first, half);
      const put = (at: number, bytes: Scalar): void =>
        k.storeScalar(16, k.at(k.scratch, offset + 2 * at), bytes);
      if (codes === 'u8') {
        put(half, pair);
        continue;
      }
      const high = half + 2 * vectorsPerGroup;
      put(half, this.#withUpperBits(k.and(pair, 0x0f0f), half));
      put(high, this.#withUpperBits(k.and(k.shr(pair, 4), 0x0f0f), high));
    }
    if (!values) return;
    const table = k.table16(values);
    k.unrolledLanes(groupSize / 4, (word, count) => {
      const at = k.at(k.scratch, offset + 4 * word);
      k.store(at, k.binary('i8.lookup16', table, k.load(at, 'bits', count)), 'bits', count);
    });
  }

  /** @param half which pair of inputs of the group the nibbles are */
  #withUpperBits(nibbles: Scalar, half: number): Scalar {
    const k = this.#k;
    const { planesPerGroup, planesOffset } = this.#layout;
    if (planesPerGroup === 0) return nibbles;
    const bit = (half >> 1) * PLANE_BITS[this.#format.codes];
    const plane = this.#half(planesOffset, this.#group * planesPerGroup + (bit >> 3), half & 1);
    const shift = (bit & 7) - 4;
    const moved = shift > 0 ? k.shr(plane, shift) : k.shl(plane, -shift);
    return k.add(nibbles, k.and(moved, planeMask(this.#format) & 0xffff));
  }

  /** Two bytes of the row's four in a vector; halves of the vectors that follow count on. */
  #half(offset: number, vector: number, half: number): Scalar {
    const { group, lane } = this.#place;
    const from = offset + 64 * (vector + (half >> 1)) + 2 * (half & 1);
    return this.#k.loadScalar(16, this.#k.at(group, from, lane, 4));
  }

  factors(header: Scalar): { readonly scale: Vector; readonly min: Vector | null } {
    return {
      scale: this.#factor(header, 0, 0),
      min: this.#format.hasMin
        ? this.#factor(header, this.#layout.minsOffset, 2 * ROW_GROUP)
        : null,
    };
  }

  #factor(header: Scalar, offset: number, headerOffset: number): Vector {
    const k = this.#k;
    const { group, lane } = this.#place;
    const { scaleBytes } = this.#layout;
    const from = k.at(group, offset + this.#group * ROW_GROUP * scaleBytes, lane, scaleBytes);
    if (scaleBytes === 2) return k.broadcast(from, 'f16');
    // Sign-extended by way of an unsigned byte: ((b + 128) & 255) - 128.
    const byte = k.loadScalar(8, from);
    const whole = k.sub(k.and(k.add(byte, 128), 255), 128);
    const d = k.broadcast(k.at(header, headerOffset, lane, 2), 'f16');
    return k.mulF(k.unary('f32.fromI32', k.splatScalar(whole)), d);
  }
}
