/**
 * Values of a KV tile into the outputs of the rows, lane = dimension: o[row][d] = o[row][d] * correction + Σ p[t] * V[t][d]. Codes become values in
 * registers; their scales are in p already (attention-softmax.ts).
 */
import { InternalError } from '../platform/errors.ts';
import {
  type AttentionFrame,
  BLOCK,
  LINE_BYTES,
  type RegisterTile,
  STATE,
  scoresPerEntry,
} from './attention-frame.ts';
import type { Scalar, Vector } from './kernel-ir.ts';
import { loadKv } from './kv-elements.ts';
import { valuePlace, valueRowBytes } from './kv-layout.ts';
import type { KvPart } from './kv-part.ts';

/** The largest power of two that divides n. */
const greatestPower2 = (n: number): number => n & -n;

/** o = o * correction + p · V, some dimensions at a time. */
export function addValues(frame: AttentionFrame, part: KvPart): void {
  const { k } = frame;
  const numVectors = frame.rowElements / k.lanes;
  const vectors = Math.ceil(numVectors / Math.ceil(numVectors / frame.tile.vectors));
  // As many passes per iteration as end on a whole group of dimensions that share bytes.
  const columns = vectors * k.lanes;
  const isPaired = part.values === 'q4';
  const passes = isPaired ? Math.max(1, 32 / greatestPower2(columns)) : 1;
  const iterations = Math.floor(numVectors / (vectors * passes));
  const outputs = { start: frame.scratchAt(frame.o), rowBytes: 4 * frame.rowElements };
  const states = { start: frame.scratchAt(frame.states), rowBytes: STATE.bytes };
  frame.forEachRowBlock([outputs, states], (rows, [o, state]) => {
    const output = k.copy(o!);
    const offset = k.const(0);
    const pass = (vectorsOfPass: number, column: number): void =>
      valuesOfPass(frame, part, { rows, vectors: vectorsOfPass }, column, output, state!, offset);
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
function valuesOfPass(
  frame: AttentionFrame,
  part: KvPart,
  { rows, vectors }: RegisterTile,
  column: number,
  output: Scalar,
  state: Scalar,
  offset: Scalar,
): void {
  const { k } = frame;
  const { kvType, values: element, valueStep, valueScalesBytes: scalesBytes } = part;
  if (element === 'c4') throw new InternalError('values have scales by token');
  const places = Array.from({ length: vectors }, (_, v) =>
    valuePlace(kvType, column + v * k.lanes),
  );
  const firstByte = scalesBytes + places[0]!.offsetBytes;
  const passBytes = scalesBytes + places.at(-1)!.offsetBytes + 1 - firstByte;
  const prefetches = frame.prefetches && part === frame.blocksPart;
  const outputAt = (r: number, v: number) =>
    k.at(output, 4 * (r * frame.rowElements + column + v * k.lanes));
  const sums: Vector[] = [];
  for (let r = 0; r < rows; r++) {
    const correction = k.load(k.at(state, r * STATE.bytes + STATE.correction));
    for (let v = 0; v < vectors; v++) sums.push(k.mulF(k.load(outputAt(r, v)), correction));
  }
  const firstBlock = frame.firstBlock.get();
  const block = k.pointer(k.at(k.scratch, frame.blocks, firstBlock));
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
    frame.numBlocks.get(),
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
