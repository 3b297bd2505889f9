/**
 * Attention over the paged KV cache: tiled, with online softmax, no matrix of all scores.
 *
 * A chunk is a tile of query tokens of one sequence and one KV head. Its rows are (token, query head that shares the KV head), so that a key or value is
 * loaded once for all of them. The context is walked span by span (attention-spans.ts), and a span in KV tiles of 64 tokens, at fixed boundaries counted
 * from position 0; per KV tile
 *
 *     scores   lane = token:      s[row][64]  = q[row] · K        one vector of 16 tokens per dimension, times broadcast q
 *     softmax  per row:           m' = max(m, round(max s)), p = 2^(s - m'), l = l * 2^(m - m') + p, per lane
 *     values   lane = dimension:  o[row][d]   = o[row][d] * 2^(m - m') + Σ p[t] * V[t][d]
 *
 * and at the end of a span (m, Σ l, o) is folded into the state of the spans before it; in the end out = o / l. Scores carry a factor log2 e, so that the
 * exponential is one of 2; with m a whole number what is known so far is only ever scaled by powers of two, which is exact.
 *
 * Quantized keys and values are read as codes: the scales of 16 tokens are a vector, which the finished dots of keys are multiplied by, and which goes into
 * p after its sum was taken. These are of rotated heads: the queries are rotated too, and what comes out is rotated back once, behind the last span.
 * Keys by channel (q4) become minimum + scale * code in registers, for all rows at once; with more rows than that a KV tile is taken apart in scratch first
 * (unpack-kv.ts), which gives the same values. There a query sees its own group of 32 positions in f16
 * (open-group.ts): as a last KV tile of its last span, behind those of blocks, which end before the group. No tile of queries has two groups.
 *
 * One answer bit for bit (docs/architecture.md, principle 5): boundaries do not depend on the tile, tokens are summed in ascending order, and a token that a row does
 * not see has p exactly 0; a KV tile that a row does not see at all leaves (m, l, o) as they are. So a row does not depend on its tile, chunk or batch.
 * With few tiles and long contexts a tile is listed once per span; the states of the spans are then written to memory and folded by merge-attention.ts.
 *
 * PagedAttention: Kwon et al. 2023, arXiv:2309.06180. Online softmax: Milakov & Gimelshein 2018, arXiv:1805.02867.
 * Tiling: Dao 2023, arXiv:2307.08691.
 */

import { InternalError } from '../platform/errors.ts';
import { rotationSize } from '../tensor/kv-row.ts';
import {
  finishHead,
  LOWEST_MAX,
  locateTile,
  mergeSpan,
  outputHeadBytes,
  type SpanState,
  spanStateBytes,
  storeSpan,
} from './attention-spans.ts';
import { KernelBuilder, type ScalarSlot } from './builder.ts';
import { KernelShapeError, requireCount } from './errors.ts';
import type { KernelProgram, Scalar, Vector, VectorMachine } from './kernel-ir.ts';
import { loadKv, rotateHead } from './kv-elements.ts';
import {
  hasOpenGroups,
  hasRotatedKeys,
  hasRotatedValues,
  hasTokenScales,
  KV_GROUP_TOKENS,
  KV_SCALE_BYTES,
  type KvElement,
  type KvShape,
  type KvType,
  keyBlockBytes,
  keyBytes,
  keyHeadBytes,
  keyPlace,
  kvElements,
  valueBlockBytes,
  valueHeadBytes,
  valuePlace,
  valueRowBytes,
  valueRowElements,
} from './kv-layout.ts';
import { KV_TILE, KvPart } from './kv-part.ts';
import { exp2Base, exp2From, wholeExp2 } from './math.ts';
import { openGroupAddress, openKeysBytes } from './open-group.ts';
import { forEachColumnGroup, type RowElement } from './rows.ts';
import { SPAN_TOKENS, TILE_ENTRY } from './tile-entry.ts';
import { unpackedTileBytes, unpackKeyBlock, unpackValueBlock } from './unpack-kv.ts';

export interface PagedAttentionShape extends KvShape {
  readonly kvType: KvType;
  readonly numHeads: number;
  /** Factor on q · k, 1 / sqrt(headDim) for most. */
  readonly scale: number;
  /** Position i sees positions j with i - window < j <= i; null: all j <= i. */
  readonly window: number | null;
  /** Most query tokens of one tile. More rows per tile share one pass over the context; scratch grows with it. */
  readonly queryTokens: number;
  /** q8 only for head sizes that are multiples of 32. */
  readonly output: RowElement;
}

const LINE_BYTES = 64;
/** Half of it is what masked scores are pressed below; far below LOWEST_MAX. */
const MASK_STEP = 1e30;
const MAX_HEAD_DIM = 256;
const MAX_GROUP = 16;
/** Register tiles of rows up to which each takes codes apart for itself. */
const UNPACKED_ROWS = 2;

/**
 * Softmax state of a row within a span, in scratch, bytes:
 *
 *     0    f32 s, then p  [64 tokens]
 *     256  f32 l          [lanes], sum of p lane by lane
 *     320  f32 m          [lanes], largest score so far, rounded to a whole number; the same in every lane
 *     384  f32 correction [lanes], 2^(m before - m) of this KV tile
 *
 * All are stored and loaded as whole vectors: a masked store would be waited for.
 */
const STATE = { scores: 0, sum: 256, max: 320, correction: 384, bytes: 448 } as const;

/** What a KV tile needs of each of its blocks, in scratch, bytes. Blocks outside the range in use repeat the nearest one in use. */
const BLOCK = { key: 0, value: 8, tokens: 16, nextKey: 24, bytes: 32 } as const;
/** Most blocks of a KV tile. */
const MOST_BLOCKS = 4;

/** Bytes of scores of a block, per byte of its entry. */
function scoresPerEntry({ blockSize }: KvPart): 2 | 4 {
  return ((4 * blockSize) / BLOCK.bytes) as 2 | 4;
}

/** Register tile: rows, and vectors of tokens (scores) or dimensions (values) side by side. */
interface RegisterTile {
  readonly rows: number;
  readonly vectors: number;
}

/** vectors of keys + what they are made with, or one broadcast, + rows x vectors of sums fill the registers. */
function registerTile({ lanes, vectorRegisters }: VectorMachine, keys: KvElement): RegisterTile {
  const vectors = lanes === 8 ? 2 : 4;
  const numOthers = keys === 'c4' ? 4 : 1;
  const rows = Math.floor((vectorRegisters - vectors - numOthers) / vectors);
  return { vectors, rows: Math.min(6, rows) };
}

/** Row counts that the code is made for, descending: as many of the first as there are, and what is left of tiles of 1..queryTokens tokens. */
function rowBlockSizes(most: number, group: number, queryTokens: number): number[] {
  const sizes = new Set<number>();
  for (let tokens = 1; tokens <= queryTokens; tokens++) {
    const rows = tokens * group;
    if (rows >= most) sizes.add(most);
    if (rows % most > 0) sizes.add(rows % most);
  }
  return [...sizes].sort((a, b) => b - a);
}

/** The largest power of two that divides n. */
const greatestPower2 = (n: number): number => n & -n;

function requireShape(shape: PagedAttentionShape): void {
  const { numHeads, numKvHeads, headDim, window, queryTokens, output } = shape;
  requireCount('pagedAttention', 'numKvHeads', numKvHeads);
  requireCount('pagedAttention', 'numHeads', numHeads, numKvHeads);
  requireCount('pagedAttention', 'headDim', headDim, 8);
  if (output === 'q8') requireCount('pagedAttention', 'headDim (q8 output)', headDim, 32);
  requireCount('pagedAttention', 'queryTokens', queryTokens);
  if (window !== null) requireCount('pagedAttention', 'window', window);
  if (headDim > MAX_HEAD_DIM) {
    throw new KernelShapeError(
      'pagedAttention',
      `headDim is ${headDim}; accepted: up to ${MAX_HEAD_DIM}`,
    );
  }
  if (numHeads / numKvHeads > MAX_GROUP) {
    throw new KernelShapeError(
      'pagedAttention',
      `${numHeads} query heads on ${numKvHeads} KV heads; accepted: up to ${MAX_GROUP} to one`,
    );
  }
}

/** Everything of one kernel that is fixed while it is recorded. */
class PagedAttention {
  readonly #k: KernelBuilder;
  readonly #shape: PagedAttentionShape;
  readonly #group: number;
  readonly #tile: RegisterTile;
  readonly #sizes: readonly number[];
  /** What is in blocks, and the open group of those who have one. */
  readonly #blocksPart: KvPart;
  readonly #openPart: KvPart | null;
  /** Blocks of q4 taken apart, for tiles of more than `UNPACKED_ROWS` register tiles; null where there are none. */
  readonly #unpackedPart: KvPart | null;
  readonly #rowElements: number;

  // Scratch offsets: q [rows][headDim]; of the span o [rows][rowElements] and states [rows]; of the spans before it folded [rows]; blocks [4];
  // keys by channel: scales and minima of the blocks of a step [blocks][2][headDim]; keys, later values of a KV tile taken apart.
  readonly #q: number;
  readonly #o: number;
  readonly #states: number;
  readonly #folded: number;
  readonly #blocks: number;
  readonly #channels: number;
  readonly #unpacked: number;

  /** How many register tiles of each size the rows of this chunk make. */
  readonly #sizeCounts: readonly ScalarSlot[];
  readonly #numTokens: ScalarSlot;
  /** Position of the tile's first and last token. */
  readonly #firstPosition: ScalarSlot;
  readonly #lastPosition: ScalarSlot;
  /** Last position that is read from blocks. */
  readonly #lastInBlocks: ScalarSlot;
  /** The tile's open group. */
  readonly #openGroup: ScalarSlot;
  /** First position of the KV tile. */
  readonly #kvStart: ScalarSlot;
  /** First KV block that any row of the tile sees. */
  readonly #lowestBlock: ScalarSlot;
  /** Block ids of the sequence. */
  readonly #blockTable: ScalarSlot;
  readonly #kvHead: ScalarSlot;
  readonly #keyHead: ScalarSlot;
  readonly #valueHead: ScalarSlot;
  readonly #query: ScalarSlot;
  readonly #out: ScalarSlot;
  readonly #isPart: ScalarSlot;
  readonly #numSpans: ScalarSlot;
  /** Position of the tile's last token, counted from the span's last: above 0 if there are spans behind this one. */
  readonly #behindSpan: ScalarSlot;
  /** Nonzero until a span is done. */
  readonly #isFirstSpan: ScalarSlot;
  /** Where the folded state of the first row goes, and bytes from a token's rows to the next one's: scratch, or the parts. */
  readonly #target: ScalarSlot;
  readonly #targetStride: ScalarSlot;
  /** Of the KV tile's four blocks: bytes of `blocks` before the first in use, and how many are in use. */
  readonly #firstBlock: ScalarSlot;
  readonly #numBlocks: ScalarSlot;
  /** Lines are asked for ahead of use where keys and values of a block are of one size, so that a place in one tells that in the other. */
  readonly #prefetches: boolean;
  /** From the keys of a block to its values, bytes. */
  readonly #keyToValue: ScalarSlot;

  constructor(k: KernelBuilder, shape: PagedAttentionShape) {
    this.#k = k;
    this.#shape = shape;
    this.#group = shape.numHeads / shape.numKvHeads;
    const { keys } = kvElements(shape.kvType);
    this.#tile = registerTile(k.machine, keys);
    this.#blocksPart = new KvPart(shape, k.lanes, this.#tile.vectors);
    this.#openPart = hasOpenGroups(shape.kvType)
      ? new KvPart({ ...shape, kvType: 'open' }, k.lanes, this.#tile.vectors)
      : null;
    const mostRegisterTiles = (shape.queryTokens * this.#group) / this.#tile.rows;
    this.#unpackedPart =
      keys === 'c4' && mostRegisterTiles > UNPACKED_ROWS
        ? new KvPart({ ...shape, kvType: 'unpacked' }, k.lanes, this.#tile.vectors)
        : null;
    this.#sizes = rowBlockSizes(this.#tile.rows, this.#group, shape.queryTokens);
    this.#rowElements = valueRowElements(shape.headDim);

    const maxRows = shape.queryTokens * this.#group;
    this.#q = k.reserveScratch(4 * maxRows * shape.headDim);
    this.#o = k.reserveScratch(4 * maxRows * this.#rowElements);
    this.#states = k.reserveScratch(STATE.bytes * maxRows);
    this.#folded = k.reserveScratch(spanStateBytes(shape.headDim) * maxRows);
    this.#blocks = k.reserveScratch(BLOCK.bytes * MOST_BLOCKS);
    const mostChannels = this.#blocksPart.takesWholeTile ? this.#blocksPart.blocksPerTile : 1;
    this.#channels = k.reserveScratch(keys === 'c4' ? 8 * shape.headDim * mostChannels + 64 : 0);
    this.#unpacked = k.reserveScratch(this.#unpackedPart ? unpackedTileBytes(shape.headDim) : 0);
    this.#sizeCounts = this.#sizes.map(() => k.slot());
    this.#numTokens = k.slot();
    this.#firstPosition = k.slot();
    this.#lastPosition = k.slot();
    this.#lastInBlocks = k.slot();
    this.#openGroup = k.slot();
    this.#kvStart = k.slot();
    this.#lowestBlock = k.slot();
    this.#blockTable = k.slot();
    this.#kvHead = k.slot();
    this.#keyHead = k.slot();
    this.#valueHead = k.slot();
    this.#query = k.slot();
    this.#out = k.slot();
    this.#isPart = k.slot();
    this.#numSpans = k.slot();
    this.#behindSpan = k.slot();
    this.#isFirstSpan = k.slot();
    this.#target = k.slot();
    this.#targetStride = k.slot();
    this.#firstBlock = k.slot();
    this.#numBlocks = k.slot();
    this.#prefetches = this.#openPart === null && keyBlockBytes(shape) === valueBlockBytes(shape);
    this.#keyToValue = k.slot();
  }

  record(): void {
    const k = this.#k;
    this.#locate();
    k.if(this.#numSpans.get(), 'gt', 0, () => {
      if (this.#prefetches) this.#prefetchFirstKeys();
      this.#loadQueries();
      k.loop(this.#numSpans.get(), () => this.#span(), {
        countIsPositive: true,
        counterInMemory: true,
      });
      k.if(this.#isPart.get(), 'eq', 0, () => this.#finishRows());
    });
  }

  /** From kvStart to the end of its span. */
  #span(): void {
    const k = this.#k;
    this.#startRows();
    const start = this.#kvStart.get();
    const spanEnd = k.add(k.and(start, -SPAN_TOKENS), SPAN_TOKENS - 1);
    const end = k.min(this.#lastInBlocks.get(), spanEnd);
    const open = this.#openPart;
    if (open === null) this.#walkBlocks(start, end);
    else {
      this.#behindSpan.set(k.sub(this.#lastPosition.get(), spanEnd));
      // No block of the span may be in use: all before the group are hidden by the window, or the group begins the span.
      const begin = k.max(start, k.shl(this.#lowestBlock.get(), this.#blocksPart.blockShift));
      k.if(end, 'ge', begin, () => this.#walkBlocks(start, end));
      k.if(this.#behindSpan.get(), 'le', 0, () => {
        this.#locateOpenGroup();
        this.#kvTile(open);
      });
    }
    this.#foldSpan();
  }

  /** The KV tiles from `start` up to position `end`. */
  #walkBlocks(start: Scalar, end: Scalar): void {
    const k = this.#k;
    k.loop(
      k.add(k.shr(k.sub(end, start), 6), 1),
      () => {
        this.#locateBlocks();
        this.#kvTileOfBlocks();
        this.#kvStart.addTo(KV_TILE);
      },
      { countIsPositive: true, counterInMemory: true },
    );
  }

  #kvTile(part: KvPart): void {
    this.#scores(part);
    this.#softmax(part);
    this.#values(part);
  }

  #kvTileOfBlocks(): void {
    const k = this.#k;
    const unpacked = this.#unpackedPart;
    if (unpacked === null) {
      this.#kvTile(this.#blocksPart);
      return;
    }
    const numRows = k.mul(this.#numTokens.get(), this.#group);
    k.if(
      numRows,
      'gt',
      UNPACKED_ROWS * this.#tile.rows,
      () => {
        this.#unpack(BLOCK.key, unpackKeyBlock);
        this.#scores(unpacked);
        this.#softmax(this.#blocksPart);
        this.#unpack(BLOCK.value, unpackValueBlock);
        this.#values(unpacked);
      },
      () => this.#kvTile(this.#blocksPart),
    );
  }

  /** Keys or values of all blocks of the KV tile to scratch, where they are found from then on. */
  #unpack(field: number, unpackBlock: typeof unpackKeyBlock): void {
    const k = this.#k;
    const { headDim } = this.#shape;
    const block = this.#scratchAt(this.#blocks + field);
    const to = this.#scratchAt(this.#unpacked);
    const oneBlock = (): void => {
      const from = k.loadScalar(64, k.at(block));
      k.storeScalar(64, k.at(block), to);
      unpackBlock(k, headDim, from, to);
      k.addTo(block, BLOCK.bytes);
    };
    k.loop(this.#blocksPart.blocksPerTile, oneBlock, { counterInMemory: true });
  }

  #scratchAt(offset: number): Scalar {
    return this.#k.pointer(this.#k.at(this.#k.scratch, offset));
  }

  /** Finds the tile, its sequence and its place in it. */
  #locate(): void {
    const k = this.#k;
    const { numHeads, numKvHeads, headDim, window, output } = this.#shape;
    const tileIndex = k.div(k.chunk, numKvHeads);
    const kvHead = k.sub(k.chunk, k.mul(tileIndex, numKvHeads));
    const entry = k.add(k.arg('tiles'), k.mul(tileIndex, TILE_ENTRY.bytes));
    if (this.#openPart !== null) {
      const group = k.loadScalar(32, k.at(entry, TILE_ENTRY.openGroup));
      this.#openGroup.set(openGroupAddress(k, this.#shape, group));
    }
    const place = locateTile(k, entry, window);
    const { sequence, firstToken, numTokens } = place;
    this.#numTokens.set(numTokens);
    this.#firstPosition.set(place.firstPosition);
    this.#lastPosition.set(place.lastPosition);
    this.#lastInBlocks.set(
      this.#openPart === null
        ? place.lastPosition
        : k.sub(k.and(place.lastPosition, -KV_GROUP_TOKENS), 1),
    );
    this.#numSpans.set(k.sub(place.endSpan, place.firstSpan));
    const from = k.max(place.lowest, k.mul(place.firstSpan, SPAN_TOKENS));
    this.#lowestBlock.set(k.shr(from, this.#blocksPart.blockShift));
    this.#kvStart.set(k.and(from, -KV_TILE));

    const rows = k.mul(numTokens, this.#group);
    this.#sizes.forEach((size, i) => {
      if (size === this.#tile.rows) {
        const count = k.div(rows, size);
        this.#sizeCounts[i]!.set(count);
        k.subTo(rows, k.mul(count, size));
        return;
      }
      const count = k.const(0);
      k.if(rows, 'eq', size, () => k.setScalar(count, 1));
      this.#sizeCounts[i]!.set(count);
    });

    const tableOffset = k.shl(k.mul(sequence, k.arg('maxBlocksPerSeq')), 2);
    this.#blockTable.set(k.add(k.arg('blockTables'), tableOffset));
    this.#kvHead.set(kvHead);
    this.#keyHead.set(k.add(k.arg('keyCache'), k.mul(kvHead, keyHeadBytes(this.#shape))));
    this.#valueHead.set(k.add(k.arg('valueCache'), k.mul(kvHead, valueHeadBytes(this.#shape))));

    this.#keyToValue.set(k.sub(this.#valueHead.get(), this.#keyHead.get()));

    const query = k.add(k.arg('q'), k.mul(firstToken, k.arg('qStride')));
    this.#query.set(k.add(query, k.mul(kvHead, 4 * this.#group * headDim)));
    const out = k.add(k.arg('out'), k.mul(firstToken, k.arg('outStride')));
    const headBytes = outputHeadBytes(headDim, output);
    this.#out.set(k.add(out, k.mul(kvHead, this.#group * headBytes)));

    const stateBytes = spanStateBytes(headDim);
    const isPart = k.loadScalar(32, k.at(entry, TILE_ENTRY.isPart));
    this.#isPart.set(isPart);
    this.#isFirstSpan.set(k.const(1));
    this.#target.set(this.#scratchAt(this.#folded));
    this.#targetStride.set(k.const(this.#group * stateBytes));
    k.if(isPart, 'ne', 0, () => {
      const firstPart = k.loadScalar(32, k.at(entry, TILE_ENTRY.firstPart));
      const parts = k.add(k.arg('parts'), k.mul(firstPart, numHeads * stateBytes));
      this.#target.set(k.add(parts, k.mul(kvHead, this.#group * stateBytes)));
      this.#targetStride.set(k.const(numHeads * stateBytes));
    });
  }

  /** Asks for the keys of the first KV tile; what comes later is asked for on the way. */
  #prefetchFirstKeys(): void {
    const k = this.#k;
    const { blockShift, blocksPerTile } = this.#blocksPart;
    const first = k.shr(this.#kvStart.get(), blockShift);
    const last = k.shr(this.#lastInBlocks.get(), blockShift);
    const linesPerIteration = 4;
    for (let i = 0; i < blocksPerTile; i++) {
      const block = k.max(k.min(k.add(first, i), last), this.#lowestBlock.get());
      const id = k.loadScalar(32, k.at(this.#blockTable.get(), 0, block, 4));
      const key = k.add(this.#keyHead.get(), k.mul(id, keyBlockBytes(this.#shape)));
      k.loop(Math.ceil(keyHeadBytes(this.#shape) / LINE_BYTES / linesPerIteration), () => {
        for (let line = 0; line < linesPerIteration; line++) {
          k.prefetch(k.at(key, line * LINE_BYTES), 'l2');
        }
        k.addTo(key, linesPerIteration * LINE_BYTES);
      });
    }
  }

  /** Scaled queries to scratch. */
  #loadQueries(): void {
    const k = this.#k;
    const { headDim, kvType } = this.#shape;
    const from = this.#query.get();
    const to = this.#scratchAt(this.#q);
    const turns = hasRotatedKeys(kvType) ? rotationSize(headDim) : 1;
    const scale = k.splatF32((this.#shape.scale * Math.LOG2E) / turns);
    k.loop(
      this.#numTokens.get(),
      () => {
        forEachColumnGroup(k, this.#group * headDim, 4, ({ at, count }) => {
          k.store(at(to), k.mulF(k.load(at(from), 'bits', count), scale), 'bits', count);
        });
        k.addTo(to, 4 * this.#group * headDim);
        k.addTo(from, k.arg('qStride'));
      },
      { countIsPositive: true },
    );
    if (!hasRotatedKeys(kvType)) return;
    const head = this.#scratchAt(this.#q);
    k.loop(
      k.mul(this.#numTokens.get(), this.#group),
      () => {
        rotateHead(k, headDim, head);
        k.addTo(head, 4 * headDim);
      },
      { countIsPositive: true },
    );
  }

  /** m, l and o of every row before the span. */
  #startRows(): void {
    const k = this.#k;
    const rows = k.mul(this.#numTokens.get(), this.#group);
    const o = this.#scratchAt(this.#o);
    const state = this.#scratchAt(this.#states);
    const zero = k.zero();
    const lowest = k.splatF32(LOWEST_MAX);
    k.loop(
      rows,
      () => {
        k.unrolledLanes(this.#rowElements, (d) => {
          k.store(k.at(o, 4 * d), zero);
        });
        k.store(k.at(state, STATE.sum), zero);
        k.store(k.at(state, STATE.max), lowest);
        k.addTo(o, 4 * this.#rowElements);
        k.addTo(state, STATE.bytes);
      },
      { countIsPositive: true },
    );
  }

  /** Addresses of the KV tile's blocks, and which of them hold tokens that some row sees. */
  #locateBlocks(): void {
    const k = this.#k;
    const { blockShift, blockSize, blocksPerTile } = this.#blocksPart;
    const tileBlock = k.shr(this.#kvStart.get(), blockShift);
    const last = k.shr(this.#lastInBlocks.get(), blockShift);
    const lowest = k.max(this.#lowestBlock.get(), tileBlock);
    for (let i = 0; i < blocksPerTile; i++) {
      const block = k.max(k.min(k.add(tileBlock, i), last), lowest);
      const id = k.loadScalar(32, k.at(this.#blockTable.get(), 0, block, 4));
      const at = (field: number) => k.at(k.scratch, this.#blocks + i * BLOCK.bytes + field);
      const key = k.add(this.#keyHead.get(), k.mul(id, keyBlockBytes(this.#shape)));
      k.storeScalar(64, at(BLOCK.key), key);
      const value = k.add(this.#valueHead.get(), k.mul(id, valueBlockBytes(this.#shape)));
      k.storeScalar(64, at(BLOCK.value), value);
      const left = k.sub(k.add(this.#lastInBlocks.get(), 1), k.shl(block, blockShift));
      k.storeScalar(64, at(BLOCK.tokens), k.min(left, blockSize));
      if (!this.#prefetches) continue;
      const nextBlock = k.min(k.add(block, blocksPerTile), last);
      const nextId = k.loadScalar(32, k.at(this.#blockTable.get(), 0, nextBlock, 4));
      const nextKey = k.add(this.#keyHead.get(), k.mul(nextId, keyBlockBytes(this.#shape)));
      k.storeScalar(64, at(BLOCK.nextKey), nextKey);
    }
    const skipped = k.sub(lowest, tileBlock);
    this.#firstBlock.set(k.mul(skipped, BLOCK.bytes));
    const behind = k.min(k.add(k.sub(last, tileBlock), 1), blocksPerTile);
    this.#numBlocks.set(k.sub(behind, skipped));
  }

  /** The KV tile is the open group: one block, which begins with the group's first position. */
  #locateOpenGroup(): void {
    const k = this.#k;
    const open: KvShape = { ...this.#shape, kvType: 'open' };
    const at = (field: number) => k.at(k.scratch, this.#blocks + field);
    const group = this.#openGroup.get();
    const kvHead = this.#kvHead.get();
    k.storeScalar(64, at(BLOCK.key), k.add(group, k.mul(kvHead, keyHeadBytes(open))));
    const value = k.add(group, k.mul(kvHead, valueHeadBytes(open)));
    k.storeScalar(64, at(BLOCK.value), k.add(value, openKeysBytes(this.#shape)));
    this.#kvStart.set(k.add(this.#lastInBlocks.get(), 1));
    const numTokens = k.sub(this.#lastPosition.get(), this.#lastInBlocks.get());
    k.storeScalar(64, at(BLOCK.tokens), numTokens);
    this.#firstBlock.set(k.const(0));
    this.#numBlocks.set(k.const(1));
  }

  /** Runs `body` for each register tile of rows: how many rows, their queries, outputs or states from the pointers on. */
  #forEachRowBlock(
    offsets: readonly { readonly start: Scalar; readonly rowBytes: number }[],
    body: (rows: number, pointers: readonly Scalar[]) => void,
  ): void {
    const k = this.#k;
    const pointers = offsets.map(({ start }) => start);
    this.#sizes.forEach((size, i) => {
      k.loop(
        this.#sizeCounts[i]!.get(),
        () => {
          body(size, pointers);
          offsets.forEach(({ rowBytes }, j) => {
            k.addTo(pointers[j]!, size * rowBytes);
          });
        },
        { counterInMemory: true },
      );
    });
  }

  #scores(part: KvPart): void {
    const k = this.#k;
    if (part.takesWholeTile) {
      const ofFirst = (numBlocks: number): void => this.#scoresOfFirstBlocks(part, numBlocks);
      const { blocksPerTile } = part;
      // Keys by channel take too much code to be there twice.
      if (blocksPerTile === 1 || part.keys === 'c4') ofFirst(blocksPerTile);
      else {
        // What is behind the blocks in use is pressed below all others, written or not.
        const end = k.add(this.#firstBlock.get(), k.mul(this.#numBlocks.get(), BLOCK.bytes));
        const half = blocksPerTile / 2;
        const whole = (): void => ofFirst(blocksPerTile);
        k.if(end, 'le', half * BLOCK.bytes, () => ofFirst(half), whole);
      }
      return;
    }
    // One block at a time, only those in use.
    const offset = this.#firstBlock.get();
    const block = k.pointer(k.at(k.scratch, this.#blocks, offset));
    const scores = k.pointer(
      k.at(k.scratch, this.#states + STATE.scores, offset, scoresPerEntry(part)),
    );
    k.loop(
      this.#numBlocks.get(),
      () => {
        const key = k.loadScalar(64, k.at(block, BLOCK.key));
        this.#loadChannels(part, [key]);
        for (let step = 0; step < part.stepsPerBlock; step++) {
          this.#scoresOfStep(part, step, [key], k.copy(scores));
        }
        k.addTo(block, BLOCK.bytes);
        k.addTo(scores, 4 * part.blockSize);
      },
      { countIsPositive: true },
    );
  }

  /** Scores on the first blocks of a KV tile that is taken in one step. */
  #scoresOfFirstBlocks(part: KvPart, numBlocks: number): void {
    const k = this.#k;
    const keys = Array.from({ length: numBlocks }, (_, i) =>
      k.loadScalar(64, k.at(k.scratch, this.#blocks + i * BLOCK.bytes + BLOCK.key)),
    );
    this.#loadChannels(part, keys);
    this.#scoresOfStep(part, 0, keys, this.#scratchAt(this.#states + STATE.scores));
  }

  /** Scales and minima of keys by channel, as f32 to scratch. */
  #loadChannels(part: KvPart, keys: readonly Scalar[]): void {
    if (part.keys !== 'c4') return;
    const k = this.#k;
    const { headDim } = this.#shape;
    keys.forEach((key, i) => {
      k.unrolledLanes(2 * headDim, (channel, count) => {
        const loaded = k.load(k.at(key, KV_SCALE_BYTES * channel), 'f16', count);
        k.store(k.at(k.scratch, this.#channels + 4 * (2 * headDim * i + channel)), loaded);
      });
    });
  }

  /** Scores of all rows on tokens of the given key blocks; `scores` is where those of row 0 on the first block go. */
  #scoresOfStep(part: KvPart, step: number, keys: readonly Scalar[], scores: Scalar): void {
    const k = this.#k;
    const { headDim } = this.#shape;
    const vectors = part.takesWholeTile
      ? (part.vectors * keys.length) / part.blocksPerTile
      : part.vectors;
    const unroll = 4;
    const queries = { start: this.#scratchAt(this.#q), rowBytes: 4 * headDim };
    const states = { start: scores, rowBytes: STATE.bytes };
    const places = Array.from({ length: vectors }, (_, v) => part.place(step, v));
    this.#forEachRowBlock([queries, states], (rows, [q, state]) => {
      const sums = Array.from({ length: rows * vectors }, () => k.zero());
      const query = k.copy(q!);
      const offset = k.const(0);
      const isPrefetched = this.#prefetches && part === this.#blocksPart;
      const valueOffset = isPrefetched ? this.#keyToValue.get() : null;
      const stepBytes = keyBytes(part.kvType, unroll);
      const loadKeys = this.#keyLoader(part, places, keys, offset);
      k.loop(headDim / unroll, () => {
        if (valueOffset) {
          for (let line = 0; line < stepBytes; line += LINE_BYTES) {
            for (const key of keys) k.prefetch(k.at(key, line, valueOffset), 'l2');
          }
          k.addTo(valueOffset, stepBytes);
        }
        for (let d = 0; d < unroll; d++) {
          const key = loadKeys.load(d);
          for (let r = 0; r < rows; r++) {
            const factor = k.broadcast(k.at(query, 4 * (r * headDim + d)));
            for (let v = 0; v < vectors; v++) k.fmaInto(sums[r * vectors + v]!, key[v]!, factor);
          }
        }
        k.addTo(query, 4 * unroll);
        k.addTo(offset, stepBytes);
        loadKeys.advance(unroll);
      });
      places.forEach(({ block, token }, v) => {
        const scale = hasTokenScales(part.keys) ? this.#scales(keys[block]!, token) : null;
        for (let r = 0; r < rows; r++) {
          const sum = sums[r * vectors + v]!;
          if (scale) k.mulF(sum, scale, sum);
          const at = r * STATE.bytes + 4 * (block * part.blockSize + token);
          k.store(k.at(state!, at), sum);
        }
      });
    });
  }

  /** Loads the keys of one dimension, counted from `offset` bytes into the elements; `advance` goes with it, by dimensions. */
  #keyLoader(
    part: KvPart,
    places: readonly { readonly block: number; readonly token: number }[],
    keys: readonly Scalar[],
    offset: Scalar,
  ): { load(d: number): Vector[]; advance(dimensions: number): void } {
    const k = this.#k;
    const { kvType, keys: element } = part;
    const addressOf = (v: number, d: number) => {
      const { block, token } = places[v]!;
      const { offsetBytes } = keyPlace(kvType, d, token);
      return k.at(keys[block]!, part.keyScalesBytes + offsetBytes, offset);
    };
    if (element !== 'c4') {
      const load = (d: number) => places.map((_, v) => loadKv(k, element, addressOf(v, d), false));
      return { load, advance: () => {} };
    }
    const { headDim } = this.#shape;
    const channel = this.#scratchAt(this.#channels);
    const mask = k.splatBits(15);
    const load = (d: number): Vector[] => {
      const loaded: Vector[] = [];
      for (let v = 0; v < places.length; v += 2) {
        const at = 4 * (2 * headDim * places[v]!.block + d);
        const scale = k.broadcast(k.at(channel, at));
        const high = k.load(addressOf(v, d), 'u8');
        const low = k.binary('bits.and', high, mask);
        k.shift('i32.shr', high, 4, high);
        for (const code of [low, high]) {
          const key = k.broadcast(k.at(channel, at + 4 * headDim));
          k.fmaInto(key, k.unary('f32.fromI32', code, code), scale);
          loaded.push(key);
        }
      }
      return loaded;
    };
    return { load, advance: (dimensions) => k.addTo(channel, 4 * dimensions) };
  }

  /** Scales of the tokens from `token` on, of the block and head whose keys or values are at `head`. */
  #scales(head: Scalar, token: number): Vector {
    return this.#k.load(this.#k.at(head, KV_SCALE_BYTES * token), 'f16');
  }

  /** Masks the scores of each row, updates m and l, and turns scores into p. */
  #softmax(part: KvPart): void {
    const k = this.#k;
    const { window } = this.#shape;
    const state = this.#scratchAt(this.#states);
    // The last token of the KV tile that the row sees, counted from the tile's start; 63 and more: all.
    const limit = k.sub(this.#firstPosition.get(), this.#kvStart.get());
    const endsBefore = this.#openPart !== null && part === this.#blocksPart;
    k.loop(
      this.#numTokens.get(),
      () => {
        k.loop(this.#group, () => {
          // Of blocks before the group all rows see the same.
          const seen = endsBefore ? k.sub(this.#lastInBlocks.get(), this.#kvStart.get()) : limit;
          k.if(seen, 'lt', KV_TILE - 1, () => {
            const bound = k.max(seen, -1);
            this.#pressBelow(
              state,
              (lane) => k.subF(k.unary('f32.fromI32', k.splatScalar(bound)), lane),
              -1,
            );
          });
          if (window !== null) {
            const firstSeen = k.add(limit, 1 - window);
            k.if(firstSeen, 'gt', 0, () => {
              const bound = k.min(firstSeen, KV_TILE);
              this.#pressBelow(
                state,
                (lane) => k.subF(lane, k.unary('f32.fromI32', k.splatScalar(bound))),
                1,
              );
            });
          }
          this.#updateRow(part, state);
          k.addTo(state, STATE.bytes);
        });
        k.addTo(limit, 1);
      },
      { countIsPositive: true },
    );
  }

  /**
   * Presses the scores of tokens that are not seen far below every other. `distance` of a lane is whole and at least 0 where the token is seen;
   * a vector further on it changes by `direction` per token. Scores that were never written (NaN, garbage) are pressed all the same.
   */
  #pressBelow(state: Scalar, distance: (lane: Vector) => Vector, direction: 1 | -1): void {
    const k = this.#k;
    const lane = k.unary('f32.fromI32', k.laneIndex());
    const bound = k.mulF(k.addF(distance(lane), k.splatF32(0.5)), k.splatF32(MASK_STEP));
    const step = k.splatF32(direction * MASK_STEP * k.lanes);
    k.unrolledLanes(KV_TILE, (token) => {
      const address = k.at(state, STATE.scores + 4 * token);
      k.store(address, k.minF(k.load(address), bound));
      k.addF(bound, step, bound);
    });
  }

  #updateRow(part: KvPart, state: Scalar): void {
    const k = this.#k;
    const scoresAt = (token: number) => k.at(state, STATE.scores + 4 * token);
    const largest = k.load(scoresAt(0));
    for (let token = k.lanes; token < KV_TILE; token += k.lanes) {
      k.maxF(largest, k.load(scoresAt(token)), largest);
    }
    const before = k.load(k.at(state, STATE.max));
    const max = k.maxF(k.unary('f32.round', k.unary('f32.reduceMax', largest)), before);
    const correction = wholeExp2(k, k.subF(before, max));
    const base = exp2Base(k, max);
    k.store(k.at(state, STATE.max), max);
    k.store(k.at(state, STATE.correction), correction);
    const sum = k.mulF(k.load(k.at(state, STATE.sum)), correction);
    k.unrolledLanes(KV_TILE, (token) => {
      const p = exp2From(k, base, k.load(scoresAt(token)));
      k.addF(sum, p, sum);
      k.store(scoresAt(token), this.#scaledForValues(part, p, token));
    });
    k.store(k.at(state, STATE.sum), sum);
  }

  /** p of the tokens from `token` of the KV tile on, times the scales of their values. */
  #scaledForValues(part: KvPart, p: Vector, token: number): Vector {
    if (!hasTokenScales(part.values)) return p;
    const k = this.#k;
    const block = this.#blocks + Math.floor(token / part.blockSize) * BLOCK.bytes;
    const values = k.loadScalar(64, k.at(k.scratch, block + BLOCK.value));
    return k.mulF(p, this.#scales(values, token % part.blockSize), p);
  }

  /** o = o * correction + p · V, some dimensions at a time. */
  #values(part: KvPart): void {
    const k = this.#k;
    const numVectors = this.#rowElements / k.lanes;
    const vectors = Math.ceil(numVectors / Math.ceil(numVectors / this.#tile.vectors));
    // As many passes per iteration as end on a whole group of dimensions that share bytes.
    const columns = vectors * k.lanes;
    const isPaired = part.values === 'q4';
    const passes = isPaired ? Math.max(1, 32 / greatestPower2(columns)) : 1;
    const iterations = Math.floor(numVectors / (vectors * passes));
    const outputs = { start: this.#scratchAt(this.#o), rowBytes: 4 * this.#rowElements };
    const states = { start: this.#scratchAt(this.#states), rowBytes: STATE.bytes };
    this.#forEachRowBlock([outputs, states], (rows, [o, state]) => {
      const output = k.copy(o!);
      const offset = k.const(0);
      const pass = (vectorsOfPass: number, column: number): void =>
        this.#valuesOfPass(part, { rows, vectors: vectorsOfPass }, column, output, state!, offset);
      k.loop(iterations, () => {
        for (let i = 0; i < passes; i++) pass(vectors, i * columns);
        k.addTo(output, 4 * passes * columns);
        k.addTo(offset, valueRowBytes({ headDim: passes * columns, kvType: part.kvType }));
      });
      const rest = numVectors - iterations * vectors * passes;
      for (let done = 0; done < rest; done += vectors) {
        pass(Math.min(vectors, rest - done), done * k.lanes);
      }
    });
  }

  /** Dimensions from `column` on, counted from where `output` and `offset` stand. */
  #valuesOfPass(
    part: KvPart,
    { rows, vectors }: RegisterTile,
    column: number,
    output: Scalar,
    state: Scalar,
    offset: Scalar,
  ): void {
    const k = this.#k;
    const { kvType, values: element, valueStep, valueScalesBytes: scalesBytes } = part;
    if (element === 'c4') throw new InternalError('values have scales by token');
    const places = Array.from({ length: vectors }, (_, v) =>
      valuePlace(kvType, column + v * k.lanes),
    );
    const firstByte = scalesBytes + places[0]!.offsetBytes;
    const passBytes = scalesBytes + places.at(-1)!.offsetBytes + 1 - firstByte;
    const prefetches = this.#prefetches && part === this.#blocksPart;
    const outputAt = (r: number, v: number) =>
      k.at(output, 4 * (r * this.#rowElements + column + v * k.lanes));
    const sums: Vector[] = [];
    for (let r = 0; r < rows; r++) {
      const correction = k.load(k.at(state, r * STATE.bytes + STATE.correction));
      for (let v = 0; v < vectors; v++) sums.push(k.mulF(k.load(outputAt(r, v)), correction));
    }
    const firstBlock = this.#firstBlock.get();
    const block = k.pointer(k.at(k.scratch, this.#blocks, firstBlock));
    const p = k.pointer(k.at(state, STATE.scores, firstBlock, scoresPerEntry(part)));
    const accumulate = (value: Scalar, toNextKey: Scalar | null, tokens: number): void => {
      for (let t = 0; t < tokens; t++) {
        if (toNextKey) {
          for (let line = 0; line < passBytes; line += LINE_BYTES) {
            k.prefetch(k.at(value, t * valueStep + firstByte + line, toNextKey), 'l2');
          }
        }
        const loaded = places.map(({ offsetBytes, isHighHalf }) => {
          const address = k.at(value, t * valueStep + scalesBytes + offsetBytes);
          return loadKv(k, element, address, isHighHalf);
        });
        for (let r = 0; r < rows; r++) {
          const factor = k.broadcast(k.at(p, r * STATE.bytes + 4 * t));
          for (let v = 0; v < vectors; v++) k.fmaInto(sums[r * vectors + v]!, loaded[v]!, factor);
        }
      }
      k.addTo(value, tokens * valueStep);
      k.addTo(p, 4 * tokens);
    };
    // Few rows: more tokens per iteration, so that the loop itself does not cost.
    const unroll = rows * vectors >= 12 ? 1 : 4;
    k.loop(
      this.#numBlocks.get(),
      () => {
        const from = k.loadScalar(64, k.at(block, BLOCK.value));
        const toNextKey = prefetches
          ? k.sub(k.loadScalar(64, k.at(block, BLOCK.nextKey)), from)
          : null;
        const value = k.add(from, offset);
        const tokens = k.loadScalar(64, k.at(block, BLOCK.tokens));
        if (unroll === 1)
          k.loop(tokens, () => accumulate(value, toNextKey, 1), { countIsPositive: true });
        else {
          k.loop(k.shr(tokens, 2), () => accumulate(value, toNextKey, unroll));
          k.loop(k.and(k.loadScalar(64, k.at(block, BLOCK.tokens)), unroll - 1), () =>
            accumulate(value, toNextKey, 1),
          );
        }
        k.addTo(block, BLOCK.bytes);
      },
      { countIsPositive: true },
    );
    for (let r = 0; r < rows; r++) {
      for (let v = 0; v < vectors; v++) k.store(outputAt(r, v), sums[r * vectors + v]!);
    }
  }

  /** The rows' states of this span into those of the spans before. */
  #foldSpan(): void {
    const k = this.#k;
    const { headDim } = this.#shape;
    const o = this.#scratchAt(this.#o);
    const state = this.#scratchAt(this.#states);
    const target = this.#target.get();
    const isFirst = this.#isFirstSpan.get();
    k.loop(
      this.#numTokens.get(),
      () => {
        const to = k.copy(target);
        k.loop(this.#group, () => {
          const span: SpanState = {
            max: k.load(k.at(state, STATE.max)),
            sum: k.unary('f32.reduceAdd', k.load(k.at(state, STATE.sum))),
            output: o,
          };
          k.if(
            isFirst,
            'ne',
            0,
            () => storeSpan(k, headDim, to, span),
            () => mergeSpan(k, headDim, to, span),
          );
          k.addTo(to, spanStateBytes(headDim));
          k.addTo(o, 4 * this.#rowElements);
          k.addTo(state, STATE.bytes);
        });
        k.addTo(target, this.#targetStride.get());
      },
      { countIsPositive: true },
    );
    this.#isFirstSpan.set(k.const(0));
  }

  #finishRows(): void {
    const k = this.#k;
    const { headDim, output, kvType } = this.#shape;
    const state = this.#scratchAt(this.#folded);
    const row = this.#out.get();
    k.loop(
      this.#numTokens.get(),
      () => {
        const out = k.copy(row);
        k.loop(this.#group, () => {
          finishHead(k, { headDim, output, isRotated: hasRotatedValues(kvType) }, state, out);
          k.addTo(out, outputHeadBytes(headDim, output));
          k.addTo(state, spanStateBytes(headDim));
        });
        k.addTo(row, k.arg('outStride'));
      },
      { countIsPositive: true },
    );
  }
}

/**
 * out = softmax(scale * q · keys) · values for every query token over its sequence's cache, causal.
 *
 * q f32 `[numTokens, numHeads * headDim]`, out alike or in q8. keyCache and valueCache are the addresses of the layer (kv-layout.ts). blockTables i32
 * `[numSeqs, maxBlocksPerSeq]`; of row s the entries that any query of the step sees are read (with a window, older ones may be anything).
 * contextLens i32 `[numSeqs]`, tokens of each sequence with this step's; queryStarts i32 `[numSeqs + 1]`. The query tokens of a sequence are its last
 * ones: token i of the step stands at contextLens[s] - queryStarts[s + 1] + i.
 * tiles: entries (attention-spans.ts) of 1..queryTokens tokens; parts: where those that are parts of a context leave their state.
 *
 * With open groups (kv-layout.ts) no tile has positions of two of them, and its entry names its own.
 *
 * Params: q qStride out outStride keyCache valueCache blockTables maxBlocksPerSeq contextLens queryStarts tiles parts, and those of open-group.ts.
 * Chunk: tile * numKvHeads + kvHead. Scratch: queries, outputs and states of queryTokens * numHeads / numKvHeads rows.
 * out may be q if no tile is a part: a chunk reads its queries before it writes, and nobody else's.
 * @throws {KernelShapeError} for head sizes above 256, or not a multiple of 8, or more than 16 query heads per KV head
 */
export function pagedAttentionKernel(
  machine: VectorMachine,
  shape: PagedAttentionShape,
): KernelProgram {
  requireShape(shape);
  const { numHeads, numKvHeads, headDim, window, kvType, queryTokens, output } = shape;
  const name = `pagedAttention_${numHeads}_${numKvHeads}_${headDim}_${kvType}_w${window ?? 0}_t${queryTokens}_${output}`;
  const k = new KernelBuilder(name, machine);
  new PagedAttention(k, shape).record();
  return k.finish();
}
