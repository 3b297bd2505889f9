/** The cos and sin table of rotary position embeddings: its layout, for the kernel that reads it and for those who fill it. */

export interface RopeShape {
  /** `half`: pairs (j, j + rotaryDim/2). `interleaved`: pairs (2j, 2j+1). */
  readonly style: 'half' | 'interleaved';
  /** Values of each head that are rotated, the first ones; even. */
  readonly rotaryDim: number;
}

/** f32 values in one row of the cosSin table. */
export function cosSinRowElements({ style, rotaryDim }: RopeShape): number {
  return style === 'half' ? rotaryDim : 2 * rotaryDim;
}

/**
 * The row of the cosSin table for one position, from the angle of each pair.
 *
 *     half         cos[rotaryDim/2], sin[rotaryDim/2]
 *     interleaved  cos of every pair twice [rotaryDim], then -sin, +sin of every pair [rotaryDim]
 */
export function cosSinRow(
  { style, rotaryDim }: RopeShape,
  angles: readonly number[],
  magnitude: number,
): Float32Array {
  const row = new Float32Array(cosSinRowElements({ style, rotaryDim }));
  angles.forEach((angle, j) => {
    const cos = Math.cos(angle) * magnitude;
    const sin = Math.sin(angle) * magnitude;
    if (style === 'half') {
      row[j] = cos;
      row[rotaryDim / 2 + j] = sin;
    } else {
      row[2 * j] = cos;
      row[2 * j + 1] = cos;
      row[rotaryDim + 2 * j] = -sin;
      row[rotaryDim + 2 * j + 1] = sin;
    }
  });
  return row;
}

/** Bytes of one position in the table, a multiple of a cache line. */
export function cosSinRowBytes(rope: RopeShape): number {
  return Math.ceil((4 * cosSinRowElements(rope)) / 64) * 64;
}
