/**
 * Scores of the rows on the tokens of a KV tile, lane = token: s[row][64] = q[row] · K. Codes become keys in registers. Knows nothing of which
 * tokens a row sees.
 */
import {
  type AttentionFrame,
  BLOCK,
  LINE_BYTES,
  STATE,
  scoresPerEntry,
} from './attention-frame.ts';
import type { Scalar, Vector } from './kernel-ir.ts';
import { loadKv } from './kv-elements.ts';
import { hasTokenScales, KV_SCALE_BYTES, keyBytes, keyPlace } from './kv-layout.ts';
import type { KvPart } from './kv-part.ts';

/** Scores of all rows on the blocks of the KV tile that are in use; those on other blocks may be written or not. */
export function computeScores(frame: AttentionFrame, part: KvPart): void {
  const { k } = frame;
  if (part.takesWholeTile) {
    const ofFirst = (numBlocks: number): void => scoresOfFirstBlocks(frame, part, numBlocks);
    const { blocksPerTile } = part;
    // Keys by channel take too much code to be there twice.
    if (blocksPerTile === 1 || part.keys === 'c4') ofFirst(blocksPerTile);
    else {
      // What is behind the blocks in use is pressed below all others, written or not.
      const end = k.add(frame.firstBlock.get(), k.mul(frame.numBlocks.get(), BLOCK.bytes));
      const half = blocksPerTile / 2;
      const whole = (): void => ofFirst(blocksPerTile);
      k.if(end, 'le', half * BLOCK.bytes, () => ofFirst(half), whole);
    }
    return;
  }
  // One block at a time, only those in use.
  const offset = frame.firstBlock.get();
  const block = k.pointer(k.at(k.scratch, frame.blocks, offset));
  const scores = k.pointer(
    k.at(k.scratch, frame.states + STATE.scores, offset, scoresPerEntry(part)),
  );
  k.loop(
    frame.numBlocks.get(),
    () => {
      const key = k.loadScalar(64, k.at(block, BLOCK.key));
      loadChannels(frame, part, [key]);
      for (let step = 0; step < part.stepsPerBlock; step++) {
        scoresOfStep(frame, part, step, [key], k.copy(scores));
      }
      k.addTo(block, BLOCK.bytes);
      k.addTo(scores, 4 * part.blockSize);
    },
    { countIsPositive: true },
  );
}

/** Scores on the first blocks of a KV tile that is taken in one step. */
function scoresOfFirstBlocks(frame: AttentionFrame, part: KvPart, numBlocks: number): void {
  const { k } = frame;
  const keys = Array.from({ length: numBlocks }, (_, i) =>
    k.loadScalar(64, frame.blockField(i, BLOCK.key)),
  );
  loadChannels(frame, part, keys);
  scoresOfStep(frame, part, 0, keys, frame.scratchAt(frame.states + STATE.scores));
}

/** Scales and minima of keys by channel, as f32 to scratch. */
function loadChannels(frame: AttentionFrame, part: KvPart, keys: readonly Scalar[]): void {
  if (part.keys !== 'c4') return;
  const { k } = frame;
  const { headDim } = frame.shape;
  keys.forEach((key, i) => {
    k.unrolledLanes(2 * headDim, (channel, count) => {
      const loaded = k.load(k.at(key, KV_SCALE_BYTES * channel), 'f16', count);
      k.store(k.at(k.scratch, frame.channels + 4 * (2 * headDim * i + channel)), loaded);
    });
  });
}

/** Scores of all rows on tokens of the given key blocks; `scores` is where those of row 0 on the first block go. */
function scoresOfStep(
  frame: AttentionFrame,
  part: KvPart,
  step: number,
  keys: readonly Scalar[],
  scores: Scalar,
): void {
  const { k, shape } = frame;
  const { headDim } = shape;
  const vectors = part.takesWholeTile
    ? (part.vectors * keys.length) / part.blocksPerTile
    : part.vectors;
  const unroll = 4;
  const queries = { start: frame.scratchAt(frame.q), rowBytes: 4 * headDim };
  const states = { start: scores, rowBytes: STATE.bytes };
  const places = Array.from({ length: vectors }, (_, v) => part.place(step, v));
  frame.forEachRowBlock([queries, states], (rows, [q, state]) => {
    const sums = Array.from({ length: rows * vectors }, () => k.zero());
    const query = k.copy(q!);
    const offset = k.const(0);
    const isPrefetched = frame.prefetches && part === frame.blocksPart;
    const valueOffset = isPrefetched ? frame.keyToValue.get() : null;
    const stepBytes = keyBytes(part.kvType, unroll);
    const loadKeys = keyLoader(frame, part, places, keys, offset);
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
      const scale = hasTokenScales(part.keys) ? frame.tokenScales(keys[block]!, token) : null;
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
function keyLoader(
  frame: AttentionFrame,
  part: KvPart,
  places: readonly { readonly block: number; readonly token: number }[],
  keys: readonly Scalar[],
  offset: Scalar,
): { load(d: number): Vector[]; advance(dimensions: number): void } {
  const { k } = frame;
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
  const { headDim } = frame.shape;
  const channel = frame.scratchAt(frame.channels);
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
