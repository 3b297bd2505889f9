/**
 * Where a chunk of attention stands: its tile of queries and sequence, the blocks of a KV tile, the open group. Leaves addresses and counts in the
 * frame's slots and block entries. Knows nothing of scores or values.
 */
import { type AttentionFrame, BLOCK, LINE_BYTES } from './attention-frame.ts';
import { locateTile, outputHeadBytes, spanStateBytes } from './attention-spans.ts';
import type { Scalar } from './kernel-ir.ts';
import {
  KV_GROUP_TOKENS,
  type KvShape,
  keyBlockBytes,
  keyHeadBytes,
  valueBlockBytes,
  valueHeadBytes,
} from './kv-layout.ts';
import { KV_TILE } from './kv-part.ts';
import { openGroupAddress, openKeysBytes } from './open-group.ts';
import { SPAN_TOKENS, TILE_ENTRY } from './tile-entry.ts';

/** Finds the tile, its sequence and its place in it. */
export function locateChunk(frame: AttentionFrame): void {
  const { k, shape } = frame;
  const { numKvHeads, headDim, window, output } = shape;
  const tileIndex = k.div(k.chunk, numKvHeads);
  const kvHead = k.sub(k.chunk, k.mul(tileIndex, numKvHeads));
  const entry = k.add(k.arg('tiles'), k.mul(tileIndex, TILE_ENTRY.bytes));
  if (frame.openPart !== null) {
    const group = k.loadScalar(32, k.at(entry, TILE_ENTRY.openGroup));
    frame.openGroup.set(openGroupAddress(k, shape, group));
  }
  const place = locateTile(k, entry, window);
  const { sequence, firstToken, numTokens } = place;
  frame.numTokens.set(numTokens);
  frame.firstPosition.set(place.firstPosition);
  frame.lastPosition.set(place.lastPosition);
  frame.lastInBlocks.set(
    frame.openPart === null
      ? place.lastPosition
      : k.sub(k.and(place.lastPosition, -KV_GROUP_TOKENS), 1),
  );
  frame.numSpans.set(k.sub(place.endSpan, place.firstSpan));
  const from = k.max(place.lowest, k.mul(place.firstSpan, SPAN_TOKENS));
  frame.lowestBlock.set(k.shr(from, frame.blocksPart.blockShift));
  frame.kvStart.set(k.and(from, -KV_TILE));

  countRegisterTiles(frame, numTokens);

  const tableOffset = k.shl(k.mul(sequence, k.arg('maxBlocksPerSeq')), 2);
  frame.blockTable.set(k.add(k.arg('blockTables'), tableOffset));
  frame.kvHead.set(kvHead);
  frame.keyHead.set(k.add(k.arg('keyCache'), k.mul(kvHead, keyHeadBytes(shape))));
  frame.valueHead.set(k.add(k.arg('valueCache'), k.mul(kvHead, valueHeadBytes(shape))));

  frame.keyToValue.set(k.sub(frame.valueHead.get(), frame.keyHead.get()));

  const query = k.add(k.arg('q'), k.mul(firstToken, k.arg('qStride')));
  frame.query.set(k.add(query, k.mul(kvHead, 4 * frame.group * headDim)));
  const out = k.add(k.arg('out'), k.mul(firstToken, k.arg('outStride')));
  const headBytes = outputHeadBytes(headDim, output);
  frame.out.set(k.add(out, k.mul(kvHead, frame.group * headBytes)));

  locateTarget(frame, entry, kvHead);
}

/** How many register tiles of each size the rows of `numTokens` tokens make. */
function countRegisterTiles(frame: AttentionFrame, numTokens: Scalar): void {
  const { k } = frame;
  const rows = k.mul(numTokens, frame.group);
  frame.sizes.forEach((size, i) => {
    if (size === frame.tile.rows) {
      const count = k.div(rows, size);
      frame.sizeCounts[i]!.set(count);
      k.subTo(rows, k.mul(count, size));
      return;
    }
    const count = k.const(0);
    k.if(rows, 'eq', size, () => k.setScalar(count, 1));
    frame.sizeCounts[i]!.set(count);
  });
}

/** Where the folded states go: the parts that the tile's entry names, or scratch. */
function locateTarget(frame: AttentionFrame, entry: Scalar, kvHead: Scalar): void {
  const { k, shape } = frame;
  const { numHeads, headDim } = shape;
  const stateBytes = spanStateBytes(headDim);
  const isPart = k.loadScalar(32, k.at(entry, TILE_ENTRY.isPart));
  frame.isPart.set(isPart);
  frame.isFirstSpan.set(k.const(1));
  frame.target.set(frame.scratchAt(frame.folded));
  frame.targetStride.set(k.const(frame.group * stateBytes));
  k.if(isPart, 'ne', 0, () => {
    const firstPart = k.loadScalar(32, k.at(entry, TILE_ENTRY.firstPart));
    const parts = k.add(k.arg('parts'), k.mul(firstPart, numHeads * stateBytes));
    frame.target.set(k.add(parts, k.mul(kvHead, frame.group * stateBytes)));
    frame.targetStride.set(k.const(numHeads * stateBytes));
  });
}

/** Addresses of the KV tile's blocks, and which of them hold tokens that some row sees. */
export function locateBlocks(frame: AttentionFrame): void {
  const { k } = frame;
  const { blockShift, blockSize, blocksPerTile } = frame.blocksPart;
  const tileBlock = k.shr(frame.kvStart.get(), blockShift);
  const last = k.shr(frame.lastInBlocks.get(), blockShift);
  const lowest = k.max(frame.lowestBlock.get(), tileBlock);
  for (let i = 0; i < blocksPerTile; i++) {
    const block = k.max(k.min(k.add(tileBlock, i), last), lowest);
    const id = k.loadScalar(32, k.at(frame.blockTable.get(), 0, block, 4));
    const key = k.add(frame.keyHead.get(), k.mul(id, keyBlockBytes(frame.shape)));
    k.storeScalar(64, frame.blockField(i, BLOCK.key), key);
    const value = k.add(frame.valueHead.get(), k.mul(id, valueBlockBytes(frame.shape)));
    k.storeScalar(64, frame.blockField(i, BLOCK.value), value);
    const left = k.sub(k.add(frame.lastInBlocks.get(), 1), k.shl(block, blockShift));
    k.storeScalar(64, frame.blockField(i, BLOCK.tokens), k.min(left, blockSize));
    if (!frame.prefetches) continue;
    const nextBlock = k.min(k.add(block, blocksPerTile), last);
    const nextId = k.loadScalar(32, k.at(frame.blockTable.get(), 0, nextBlock, 4));
    const nextKey = k.add(frame.keyHead.get(), k.mul(nextId, keyBlockBytes(frame.shape)));
    k.storeScalar(64, frame.blockField(i, BLOCK.nextKey), nextKey);
  }
  const skipped = k.sub(lowest, tileBlock);
  frame.firstBlock.set(k.mul(skipped, BLOCK.bytes));
  const behind = k.min(k.add(k.sub(last, tileBlock), 1), blocksPerTile);
  frame.numBlocks.set(k.sub(behind, skipped));
}

/** The KV tile is the open group: one block, which begins with the group's first position. */
export function locateOpenGroup(frame: AttentionFrame): void {
  const { k } = frame;
  const open: KvShape = { ...frame.shape, kvType: 'open' };
  const group = frame.openGroup.get();
  const kvHead = frame.kvHead.get();
  k.storeScalar(
    64,
    frame.blockField(0, BLOCK.key),
    k.add(group, k.mul(kvHead, keyHeadBytes(open))),
  );
  const value = k.add(group, k.mul(kvHead, valueHeadBytes(open)));
  k.storeScalar(64, frame.blockField(0, BLOCK.value), k.add(value, openKeysBytes(frame.shape)));
  frame.kvStart.set(k.add(frame.lastInBlocks.get(), 1));
  const numTokens = k.sub(frame.lastPosition.get(), frame.lastInBlocks.get());
  k.storeScalar(64, frame.blockField(0, BLOCK.tokens), numTokens);
  frame.firstBlock.set(k.const(0));
  frame.numBlocks.set(k.const(1));
}

/** Asks for the keys of the first KV tile; what comes later is asked for on the way. */
export function prefetchFirstKeys(frame: AttentionFrame): void {
  const { k } = frame;
  const { blockShift, blocksPerTile } = frame.blocksPart;
  const first = k.shr(frame.kvStart.get(), blockShift);
  const last = k.shr(frame.lastInBlocks.get(), blockShift);
  const linesPerIteration = 4;
  for (let i = 0; i < blocksPerTile; i++) {
    const block = k.max(k.min(k.add(first, i), last), frame.lowestBlock.get());
    const id = k.loadScalar(32, k.at(frame.blockTable.get(), 0, block, 4));
    const key = k.add(frame.keyHead.get(), k.mul(id, keyBlockBytes(frame.shape)));
    k.loop(Math.ceil(keyHeadBytes(frame.shape) / LINE_BYTES / linesPerIteration), () => {
      for (let line = 0; line < linesPerIteration; line++) {
        k.prefetch(k.at(key, line * LINE_BYTES), 'l2');
      }
      k.addTo(key, linesPerIteration * LINE_BYTES);
    });
  }
}
