/**
 * What the parts of the attention kernel (paged-attention.ts) share while it is recorded: how rows and vectors fill the registers, where things lie in
 * scratch, and the scalars of a chunk. Knows nothing of what is computed of them.
 */
import type { PagedAttentionShape } from './attention-shape.ts';
import { spanStateBytes } from './attention-spans.ts';
import type { KernelBuilder, ScalarSlot } from './builder.ts';
import type { Address, Scalar, Vector, VectorMachine } from './kernel-ir.ts';
import {
  hasOpenGroups,
  KV_SCALE_BYTES,
  type KvElement,
  keyBlockBytes,
  kvElements,
  valueBlockBytes,
  valueRowElements,
} from './kv-layout.ts';
import { KvPart } from './kv-part.ts';
import { unpackedTileBytes } from './unpack-kv.ts';

/** Bytes of a cache line. */
export const LINE_BYTES = 64;
/** Register tiles of rows up to which each takes codes apart for itself. */
export const UNPACKED_ROWS = 2;

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
export const STATE = { scores: 0, sum: 256, max: 320, correction: 384, bytes: 448 } as const;

/** What a KV tile needs of each of its blocks, in scratch, bytes. Blocks outside the range in use repeat the nearest one in use. */
export const BLOCK = { key: 0, value: 8, tokens: 16, nextKey: 24, bytes: 32 } as const;
/** Most blocks of a KV tile. */
const MOST_BLOCKS = 4;

/** Bytes of scores of a block, per byte of its entry. */
export function scoresPerEntry({ blockSize }: KvPart): 2 | 4 {
  return ((4 * blockSize) / BLOCK.bytes) as 2 | 4;
}

/** Register tile: rows, and vectors of tokens (scores) or dimensions (values) side by side. */
export interface RegisterTile {
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

/** Everything of one kernel that is fixed while it is recorded. */
export class AttentionFrame {
  readonly k: KernelBuilder;
  readonly shape: PagedAttentionShape;
  /** Query heads that share a KV head. */
  readonly group: number;
  readonly tile: RegisterTile;
  /** Rows of each size of register tile that there is code for. */
  readonly sizes: readonly number[];
  /** What is in blocks, and the open group of those who have one. */
  readonly blocksPart: KvPart;
  readonly openPart: KvPart | null;
  /** Blocks of q4 taken apart, for tiles of more than `UNPACKED_ROWS` register tiles; null where there are none. */
  readonly unpackedPart: KvPart | null;
  /** Elements of a row of o. */
  readonly rowElements: number;

  // Scratch offsets: q [rows][headDim]; of the span o [rows][rowElements] and states [rows]; of the spans before it folded [rows]; blocks [4];
  // keys by channel: scales and minima of the blocks of a step [blocks][2][headDim]; keys, later values of a KV tile taken apart.
  readonly q: number;
  readonly o: number;
  readonly states: number;
  readonly folded: number;
  readonly blocks: number;
  readonly channels: number;
  readonly unpacked: number;

  /** How many register tiles of each size the rows of this chunk make. */
  readonly sizeCounts: readonly ScalarSlot[];
  readonly numTokens: ScalarSlot;
  /** Position of the tile's first and last token. */
  readonly firstPosition: ScalarSlot;
  readonly lastPosition: ScalarSlot;
  /** Last position that is read from blocks. */
  readonly lastInBlocks: ScalarSlot;
  /** The tile's open group. */
  readonly openGroup: ScalarSlot;
  /** First position of the KV tile. */
  readonly kvStart: ScalarSlot;
  /** First KV block that any row of the tile sees. */
  readonly lowestBlock: ScalarSlot;
  /** Block ids of the sequence. */
  readonly blockTable: ScalarSlot;
  readonly kvHead: ScalarSlot;
  readonly keyHead: ScalarSlot;
  readonly valueHead: ScalarSlot;
  readonly query: ScalarSlot;
  readonly out: ScalarSlot;
  readonly isPart: ScalarSlot;
  readonly numSpans: ScalarSlot;
  /** Position of the tile's last token, counted from the span's last: above 0 if there are spans behind this one. */
  readonly behindSpan: ScalarSlot;
  /** Nonzero until a span is done. */
  readonly isFirstSpan: ScalarSlot;
  /** Where the folded state of the first row goes, and bytes from a token's rows to the next one's: scratch, or the parts. */
  readonly target: ScalarSlot;
  readonly targetStride: ScalarSlot;
  /** Of the KV tile's four blocks: bytes of `blocks` before the first in use, and how many are in use. */
  readonly firstBlock: ScalarSlot;
  readonly numBlocks: ScalarSlot;
  /** Lines are asked for ahead of use where keys and values of a block are of one size, so that a place in one tells that in the other. */
  readonly prefetches: boolean;
  /** From the keys of a block to its values, bytes. */
  readonly keyToValue: ScalarSlot;

  constructor(k: KernelBuilder, shape: PagedAttentionShape) {
    this.k = k;
    this.shape = shape;
    this.group = shape.numHeads / shape.numKvHeads;
    const { keys } = kvElements(shape.kvType);
    this.tile = registerTile(k.machine, keys);
    this.blocksPart = new KvPart(shape, k.lanes, this.tile.vectors);
    this.openPart = hasOpenGroups(shape.kvType)
      ? new KvPart({ ...shape, kvType: 'open' }, k.lanes, this.tile.vectors)
      : null;
    const mostRegisterTiles = (shape.queryTokens * this.group) / this.tile.rows;
    this.unpackedPart =
      keys === 'c4' && mostRegisterTiles > UNPACKED_ROWS
        ? new KvPart({ ...shape, kvType: 'unpacked' }, k.lanes, this.tile.vectors)
        : null;
    this.sizes = rowBlockSizes(this.tile.rows, this.group, shape.queryTokens);
    this.rowElements = valueRowElements(shape.headDim);

    const maxRows = shape.queryTokens * this.group;
    this.q = k.reserveScratch(4 * maxRows * shape.headDim);
    this.o = k.reserveScratch(4 * maxRows * this.rowElements);
    this.states = k.reserveScratch(STATE.bytes * maxRows);
    this.folded = k.reserveScratch(spanStateBytes(shape.headDim) * maxRows);
    this.blocks = k.reserveScratch(BLOCK.bytes * MOST_BLOCKS);
    const mostChannels = this.blocksPart.takesWholeTile ? this.blocksPart.blocksPerTile : 1;
    this.channels = k.reserveScratch(keys === 'c4' ? 8 * shape.headDim * mostChannels + 64 : 0);
    this.unpacked = k.reserveScratch(this.unpackedPart ? unpackedTileBytes(shape.headDim) : 0);
    this.sizeCounts = this.sizes.map(() => k.slot());
    this.numTokens = k.slot();
    this.firstPosition = k.slot();
    this.lastPosition = k.slot();
    this.lastInBlocks = k.slot();
    this.openGroup = k.slot();
    this.kvStart = k.slot();
    this.lowestBlock = k.slot();
    this.blockTable = k.slot();
    this.kvHead = k.slot();
    this.keyHead = k.slot();
    this.valueHead = k.slot();
    this.query = k.slot();
    this.out = k.slot();
    this.isPart = k.slot();
    this.numSpans = k.slot();
    this.behindSpan = k.slot();
    this.isFirstSpan = k.slot();
    this.target = k.slot();
    this.targetStride = k.slot();
    this.firstBlock = k.slot();
    this.numBlocks = k.slot();
    this.prefetches = this.openPart === null && keyBlockBytes(shape) === valueBlockBytes(shape);
    this.keyToValue = k.slot();
  }

  /** A pointer into scratch. */
  scratchAt(offset: number): Scalar {
    return this.k.pointer(this.k.at(this.k.scratch, offset));
  }

  /** A field of block `i` of the KV tile. */
  blockField(i: number, field: number): Address {
    return this.k.at(this.k.scratch, this.blocks + i * BLOCK.bytes + field);
  }

  /** Scales of the tokens from `token` on, of the block and head whose keys or values are at `head`. */
  tokenScales(head: Scalar, token: number): Vector {
    return this.k.load(this.k.at(head, KV_SCALE_BYTES * token), 'f16');
  }

  /** Runs `body` for each register tile of rows: how many rows, their queries, outputs or states from the pointers on. */
  forEachRowBlock(
    offsets: readonly { readonly start: Scalar; readonly rowBytes: number }[],
    body: (rows: number, pointers: readonly Scalar[]) => void,
  ): void {
    const k = this.k;
    const pointers = offsets.map(({ start }) => start);
    this.sizes.forEach((size, i) => {
      k.loop(
        this.sizeCounts[i]!.get(),
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
}
