/**
 * Running softmax of the rows, per KV tile: masks scores, updates m and l, and turns scores into p. With m a whole number, what is known so far is
 * only ever scaled by powers of two. Of values it knows their scales, which go into p after its sum was taken.
 */
import { type AttentionFrame, BLOCK, STATE } from './attention-frame.ts';
import type { KernelBuilder } from './builder.ts';
import type { Scalar, Vector } from './kernel-ir.ts';
import { hasTokenScales } from './kv-layout.ts';
import { KV_TILE, type KvPart } from './kv-part.ts';
import { exp2Base, exp2From, wholeExp2 } from './math.ts';

/** Half of it is what masked scores are pressed below; far below LOWEST_MAX. */
const MASK_STEP = 1e30;

/** Masks the scores of each row, updates m and l, and turns scores into p. */
export function updateSoftmax(frame: AttentionFrame, part: KvPart): void {
  const { k } = frame;
  const { window } = frame.shape;
  const state = frame.scratchAt(frame.states);
  // The last token of the KV tile that the row sees, counted from the tile's start; 63 and more: all.
  const limit = k.sub(frame.firstPosition.get(), frame.kvStart.get());
  const endsBefore = frame.openPart !== null && part === frame.blocksPart;
  k.loop(
    frame.numTokens.get(),
    () => {
      k.loop(frame.group, () => {
        // Of blocks before the group all rows see the same.
        const seen = endsBefore ? k.sub(frame.lastInBlocks.get(), frame.kvStart.get()) : limit;
        k.if(seen, 'lt', KV_TILE - 1, () => {
          const bound = k.max(seen, -1);
          pressBelow(
            k,
            state,
            (lane) => k.subF(k.unary('f32.fromI32', k.splatScalar(bound)), lane),
            -1,
          );
        });
        if (window !== null) {
          const firstSeen = k.add(limit, 1 - window);
          k.if(firstSeen, 'gt', 0, () => {
            const bound = k.min(firstSeen, KV_TILE);
            pressBelow(
              k,
              state,
              (lane) => k.subF(lane, k.unary('f32.fromI32', k.splatScalar(bound))),
              1,
            );
          });
        }
        updateRow(frame, part, state);
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
function pressBelow(
  k: KernelBuilder,
  state: Scalar,
  distance: (lane: Vector) => Vector,
  direction: 1 | -1,
): void {
  const lane = k.unary('f32.fromI32', k.laneIndex());
  const bound = k.mulF(k.addF(distance(lane), k.splatF32(0.5)), k.splatF32(MASK_STEP));
  const step = k.splatF32(direction * MASK_STEP * k.lanes);
  k.unrolledLanes(KV_TILE, (token) => {
    const address = k.at(state, STATE.scores + 4 * token);
    k.store(address, k.minF(k.load(address), bound));
    k.addF(bound, step, bound);
  });
}

/** m, l and correction of one row, whose scores become p. */
function updateRow(frame: AttentionFrame, part: KvPart, state: Scalar): void {
  const { k } = frame;
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
    k.store(scoresAt(token), scaledForValues(frame, part, p, token));
  });
  k.store(k.at(state, STATE.sum), sum);
}

/** p of the tokens from `token` of the KV tile on, times the scales of their values. */
function scaledForValues(frame: AttentionFrame, part: KvPart, p: Vector, token: number): Vector {
  if (!hasTokenScales(part.values)) return p;
  const { k } = frame;
  const block = Math.floor(token / part.blockSize);
  const values = k.loadScalar(64, frame.blockField(block, BLOCK.value));
  return k.mulF(p, frame.tokenScales(values, token % part.blockSize), p);
}
