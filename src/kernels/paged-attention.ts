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
 * Here is the walk over the context. Where a chunk and its blocks are is attention-place.ts; scores, softmax and values have a file each (attention-scores.ts,
 * attention-softmax.ts, attention-values.ts), rows before and behind the walk are attention-rows.ts, and attention-frame.ts is what all of them share.
 *
 * PagedAttention: Kwon et al. 2023, arXiv:2309.06180. Online softmax: Milakov & Gimelshein 2018, arXiv:1805.02867.
 * Tiling: Dao 2023, arXiv:2307.08691.
 */
import { AttentionFrame, BLOCK, UNPACKED_ROWS } from './attention-frame.ts';
import {
  locateBlocks,
  locateChunk,
  locateOpenGroup,
  prefetchFirstKeys,
} from './attention-place.ts';
import { finishRows, foldSpan, loadQueries, startRows } from './attention-rows.ts';
import { computeScores } from './attention-scores.ts';
import { type PagedAttentionShape, requireAttentionShape } from './attention-shape.ts';
import { updateSoftmax } from './attention-softmax.ts';
import { addValues } from './attention-values.ts';
import { KernelBuilder } from './builder.ts';
import type { KernelProgram, Scalar, VectorMachine } from './kernel-ir.ts';
import { KV_TILE, type KvPart } from './kv-part.ts';
import { SPAN_TOKENS } from './tile-entry.ts';
import { unpackKeyBlock, unpackValueBlock } from './unpack-kv.ts';

/** A chunk: every span of its tile in turn. */
function recordAttention(frame: AttentionFrame): void {
  const { k } = frame;
  locateChunk(frame);
  k.if(frame.numSpans.get(), 'gt', 0, () => {
    if (frame.prefetches) prefetchFirstKeys(frame);
    loadQueries(frame);
    k.loop(frame.numSpans.get(), () => walkSpan(frame), {
      countIsPositive: true,
      counterInMemory: true,
    });
    k.if(frame.isPart.get(), 'eq', 0, () => finishRows(frame));
  });
}

/** From kvStart to the end of its span. */
function walkSpan(frame: AttentionFrame): void {
  const { k } = frame;
  startRows(frame);
  const start = frame.kvStart.get();
  const spanEnd = k.add(k.and(start, -SPAN_TOKENS), SPAN_TOKENS - 1);
  const end = k.min(frame.lastInBlocks.get(), spanEnd);
  const open = frame.openPart;
  if (open === null) walkBlocks(frame, start, end);
  else {
    frame.behindSpan.set(k.sub(frame.lastPosition.get(), spanEnd));
    // No block of the span may be in use: all before the group are hidden by the window, or the group begins the span.
    const begin = k.max(start, k.shl(frame.lowestBlock.get(), frame.blocksPart.blockShift));
    k.if(end, 'ge', begin, () => walkBlocks(frame, start, end));
    k.if(frame.behindSpan.get(), 'le', 0, () => {
      locateOpenGroup(frame);
      takeKvTile(frame, open);
    });
  }
  foldSpan(frame);
}

/** The KV tiles from `start` up to position `end`. */
function walkBlocks(frame: AttentionFrame, start: Scalar, end: Scalar): void {
  const { k } = frame;
  k.loop(
    k.add(k.shr(k.sub(end, start), 6), 1),
    () => {
      locateBlocks(frame);
      takeKvTileOfBlocks(frame);
      frame.kvStart.addTo(KV_TILE);
    },
    { countIsPositive: true, counterInMemory: true },
  );
}

function takeKvTile(frame: AttentionFrame, part: KvPart): void {
  computeScores(frame, part);
  updateSoftmax(frame, part);
  addValues(frame, part);
}

/** Where many rows read a KV tile of q4 it is taken apart first. */
function takeKvTileOfBlocks(frame: AttentionFrame): void {
  const { k } = frame;
  const unpacked = frame.unpackedPart;
  if (unpacked === null) {
    takeKvTile(frame, frame.blocksPart);
    return;
  }
  const numRows = k.mul(frame.numTokens.get(), frame.group);
  k.if(
    numRows,
    'gt',
    UNPACKED_ROWS * frame.tile.rows,
    () => {
      unpackKvTile(frame, BLOCK.key, unpackKeyBlock);
      computeScores(frame, unpacked);
      updateSoftmax(frame, frame.blocksPart);
      unpackKvTile(frame, BLOCK.value, unpackValueBlock);
      addValues(frame, unpacked);
    },
    () => takeKvTile(frame, frame.blocksPart),
  );
}

/** Keys or values of all blocks of the KV tile to scratch, where they are found from then on. */
function unpackKvTile(
  frame: AttentionFrame,
  field: number,
  unpackBlock: typeof unpackKeyBlock,
): void {
  const { k } = frame;
  const { headDim } = frame.shape;
  const block = frame.scratchAt(frame.blocks + field);
  const to = frame.scratchAt(frame.unpacked);
  const oneBlock = (): void => {
    const from = k.loadScalar(64, k.at(block));
    k.storeScalar(64, k.at(block), to);
    unpackBlock(k, headDim, from, to);
    k.addTo(block, BLOCK.bytes);
  };
  k.loop(frame.blocksPart.blocksPerTile, oneBlock, { counterInMemory: true });
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
  requireAttentionShape(shape);
  const { numHeads, numKvHeads, headDim, window, kvType, queryTokens, output } = shape;
  const name = `pagedAttention_${numHeads}_${numKvHeads}_${headDim}_${kvType}_w${window ?? 0}_t${queryTokens}_${output}`;
  const k = new KernelBuilder(name, machine);
  recordAttention(new AttentionFrame(k, shape));
  return k.finish();
}
