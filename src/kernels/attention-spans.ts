/**
 * Spans of a context, and the softmax state of a query row over some of them.
 *
 * A context is cut into spans of 256 tokens counted from position 0. A row's attention over one span gives (m, l, o): the largest score rounded to a
 * whole number, the sum of p = 2^(score - m), and the sum of p * V. A row's result is the fold of its spans in ascending order,
 *
 *     m' = max(m, mₛ)    l' = l 2^(m - m') + lₛ 2^(mₛ - m')    o' = o 2^(m - m') + oₛ 2^(mₛ - m')
 *
 * by `mergeSpan` and by nothing else. So it does not matter for its bits whether one thread walks all spans or each is done by a thread of its own and
 * merged later (docs/architecture.md, principle 5). A span of which a row sees nothing has m = LOWEST_MAX, l = 0, o = 0 and changes nothing.
 *
 * Also the list entries that say which tile of queries sees which spans. Knows nothing of keys and values.
 *
 * Split over the context: Dao et al. 2023, "Flash-Decoding for long-context inference".
 */
import { rotationSize } from '../tensor/kv-row.ts';
import type { KernelBuilder } from './builder.ts';
import type { Scalar, Vector } from './kernel-ir.ts';
import { rotateHead } from './kv-elements.ts';
import { valueRowElements } from './kv-layout.ts';
import { wholeExp2 } from './math.ts';
import { storeQ8Block } from './quantize.ts';
import { bytesPer32, forEachBlockOfRow, type RowElement } from './rows.ts';
import { SPAN_TOKENS, TILE_ENTRY } from './tile-entry.ts';

const SPAN_SHIFT: number = Math.log2(SPAN_TOKENS);

/** The running maximum before the first token. Scores of more than 2^21 in magnitude have no meaning, and no place in a model. */
export const LOWEST_MAX: number = -(2 ** 21);

/** Bytes of a row's state over some spans: o f32 `[valueRowElements]`, m, l, and padding. */
export function spanStateBytes(headDim: number): number {
  return 4 * valueRowElements(headDim) + 64;
}

const maxOffset = (headDim: number): number => 4 * valueRowElements(headDim);
const sumOffset = (headDim: number): number => maxOffset(headDim) + 4;

/** A row's state over one span: m and l in every lane, o as it lies in memory. */
export interface SpanState {
  readonly max: Vector;
  readonly sum: Vector;
  readonly output: Scalar;
}

export function loadSpanState(k: KernelBuilder, headDim: number, from: Scalar): SpanState {
  return {
    max: k.broadcast(k.at(from, maxOffset(headDim))),
    sum: k.broadcast(k.at(from, sumOffset(headDim))),
    output: from,
  };
}

/** The state at `to` becomes that of the first span. */
export function storeSpan(k: KernelBuilder, headDim: number, to: Scalar, span: SpanState): void {
  k.unrolledLanes(valueRowElements(headDim), (d) => {
    k.store(k.at(to, 4 * d), k.load(k.at(span.output, 4 * d)));
  });
  k.store(k.at(to, maxOffset(headDim)), span.max, 'bits', 1);
  k.store(k.at(to, sumOffset(headDim)), span.sum, 'bits', 1);
}

/** The state at `to` takes in the next span. */
export function mergeSpan(k: KernelBuilder, headDim: number, to: Scalar, span: SpanState): void {
  const before = loadSpanState(k, headDim, to);
  const max = k.maxF(before.max, span.max);
  const keep = wholeExp2(k, k.subF(before.max, max));
  const take = wholeExp2(k, k.subF(span.max, max));
  const sum = k.mulF(before.sum, keep);
  k.fmaInto(sum, span.sum, take);
  k.store(k.at(to, maxOffset(headDim)), max, 'bits', 1);
  k.store(k.at(to, sumOffset(headDim)), sum, 'bits', 1);
  k.unrolledLanes(valueRowElements(headDim), (d) => {
    const output = k.mulF(k.load(k.at(to, 4 * d)), keep);
    k.fmaInto(output, k.load(k.at(span.output, 4 * d)), take);
    k.store(k.at(to, 4 * d), output);
  });
}

/**
 * out = o / l for the head at `from`, or H o / (n l) if values are rotated (tensor/kv-row.ts; o is used up). A zero is positive, whatever the walk or
 * merge that led to it.
 */
export function finishHead(
  k: KernelBuilder,
  { headDim, output, isRotated }: HeadOutput,
  from: Scalar,
  out: Scalar,
): void {
  if (isRotated) rotateHead(k, headDim, from);
  const total = k.broadcast(k.at(from, sumOffset(headDim)));
  const factor = k.divF(k.splatF32(isRotated ? 1 / rotationSize(headDim) : 1), total);
  const scaled = (value: Vector): Vector => {
    const result = k.zero();
    k.fmaInto(result, value, factor);
    return result;
  };
  if (output === 'q8') {
    forEachBlockOfRow(k, headDim, [from, out], ['f32', 'q8'], ([o, block], counts) => {
      const values = counts.map((_, i) => scaled(k.load(k.at(o!, 4 * i * k.lanes))));
      storeQ8Block(k, block!, values);
    });
    return;
  }
  k.unrolledLanes(headDim, (d, count) => {
    k.store(k.at(out, 4 * d), scaled(k.load(k.at(from, 4 * d))), 'bits', count);
  });
}

export interface HeadOutput {
  readonly headDim: number;
  readonly output: RowElement;
  readonly isRotated: boolean;
}

/** Bytes of a head in a row of the output. */
export function outputHeadBytes(headDim: number, output: RowElement): number {
  return (headDim / 32) * bytesPer32(output);
}

/** What an entry says of where its queries stand. */
export interface TilePlace {
  readonly sequence: Scalar;
  readonly firstToken: Scalar;
  readonly numTokens: Scalar;
  /** Positions in the sequence of its first and last token. */
  readonly firstPosition: Scalar;
  readonly lastPosition: Scalar;
  /** Lowest position that any of its tokens sees. */
  readonly lowest: Scalar;
  /** Spans in use, [firstSpan, endSpan). */
  readonly firstSpan: Scalar;
  readonly endSpan: Scalar;
}

/** Reads an entry. Params: contextLens queryStarts. */
export function locateTile(k: KernelBuilder, entry: Scalar, window: number | null): TilePlace {
  const field = (offset: number): Scalar => k.loadScalar(32, k.at(entry, offset));
  const sequence = field(TILE_ENTRY.sequence);
  const firstToken = field(TILE_ENTRY.firstToken);
  const numTokens = field(TILE_ENTRY.numTokens);
  // The sequence's last token of the step stands at contextLens - 1; from there back to the tile's first.
  const contextLen = k.loadScalar(32, k.at(k.arg('contextLens'), 0, sequence, 4));
  const queryEnd = k.loadScalar(32, k.at(k.arg('queryStarts'), 4, sequence, 4));
  const firstPosition = k.sub(k.add(contextLen, firstToken), queryEnd);
  const lastPosition = k.add(k.add(firstPosition, numTokens), -1);
  const lowest = window === null ? k.const(0) : k.max(k.add(firstPosition, 1 - window), 0);
  const firstSpan = k.max(field(TILE_ENTRY.firstSpan), k.shr(lowest, SPAN_SHIFT));
  const endSpan = k.min(field(TILE_ENTRY.endSpan), k.add(k.shr(lastPosition, SPAN_SHIFT), 1));
  return {
    sequence,
    firstToken,
    numTokens,
    firstPosition,
    lastPosition,
    lowest,
    firstSpan,
    endSpan,
  };
}
